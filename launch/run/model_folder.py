"""Which folder holds the model, and whether it fits a run: looked at without loading its weights.

model.path               -> resolve_model
config.json              -> read_settings, check_context, check_model
headers of *.safetensors -> check_weights
tokenizer                -> load_tokenizer, check_vocabulary
prompts                  -> check_tokens
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.cli.refusals import UserError, reading, refusing
from launch.run.hub_model import fetched, is_hub_id
from learner.architecture import check_architecture, check_token_ids
from learner.lora import LoraConfig, check_targets
from rollout.chat_template import set_variables
from rollout.config import EngineConfig
from rollout.engines.arguments import check_names
from rollout.engines.versions import check_vllm
from rollout.own_code import PROJECT
from rollout.types import Prompt

INDEX = "model.safetensors.index.json"
LONGEST_HEADER = 100_000_000
"""Bytes; the format allows no more."""
SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings", "n_positions", "n_embd",
    "n_layer", "n_head",
)  # fmt: skip
"""Keys of config.json that are whole numbers wherever they are."""
LARGEST_SIZE = 10**9
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight")
SHAPES = {
    r"layers\.\d+\.input_layernorm\.weight": ("hidden_size",),
    r"layers\.\d+\.mlp\.gate_proj\.weight": ("intermediate_size", "hidden_size"),
    r"layers\.\d+\.mlp\.down_proj\.weight": ("hidden_size", "intermediate_size"),
}
"""Names of tensors that mean the same in every model that has them, and their shapes."""

Shapes = Mapping[str, tuple[int, ...]]


def resolve_model(path: str) -> str:
    """Make a model folder absolute: relative to here, or to the project for the model it ships.

    OWNER/NAME, where there is no such folder, is a model of the hub.

    Raises:
        UserError: If none is a folder with a config.json and weights that belong to it.
    """
    for folder in (Path(path), PROJECT / path):
        if (folder / "config.json").is_file():
            # Other weight files are pickles, which could run code of whoever wrote them.
            if not any(folder.glob("*.safetensors")):
                raise UserError(
                    "model.path must hold weights as *.safetensors beside its config.json, "
                    f"got {str(folder)!r}"
                )
            check_weights(folder, read_settings(folder))
            return str(folder.resolve())
    if is_hub_id(path) and not Path(path).exists():
        return resolve_model(fetched(path))
    policy = Path(path, "policy")
    remedy = "make one with `python -m launch.warmstart` or `python -m launch.smollm2`"
    if (policy / "config.json").is_file():
        remedy = f"did you mean {policy}?"
    raise UserError(
        "model.path must be a Hugging Face folder with a config.json, or OWNER/NAME on the hub, "
        f"got {path!r}; {remedy}"
    )


def read_settings(folder: Path) -> dict[str, Any]:
    """Return what a model's config.json says.

    Raises:
        UserError: If it is no JSON object, or a size in it is no whole number.
    """
    path = folder / "config.json"
    with reading("model.path must hold a config.json of JSON; save the model again", str(path)):
        settings: Any = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(settings, dict) or not settings:
        raise UserError(
            "model.path must hold a config.json with the settings of a model; save the model "
            f"again, got {settings!r:.60} in {str(path)!r}"
        )
    if not isinstance(settings.get("model_type"), str):
        raise UserError(
            "model.path must hold a config.json with the model_type as text; save the model again "
            f"with its save_pretrained, got {settings.get('model_type')!r} in {str(path)!r}"
        )
    for key in SIZES:
        value = settings.get(key)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (whole and 1 <= value <= LARGEST_SIZE):
            raise UserError(
                f"model.path must hold a config.json whose {key} is a whole number from 1 to "
                f"{LARGEST_SIZE}; save the model again, got {value!r:.80} in {str(path)!r}"
            )
    return settings


def check_weights(folder: Path, settings: Mapping[str, Any]) -> None:
    """Compare the headers of all weight files with the settings.

    Raises:
        UserError: Naming the file that is missing, cut short or of another model.
    """
    found: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= read_shapes(path)
    if (folder / INDEX).exists():
        _check_index(folder, found)
    _check_embedding(folder, settings, found)
    layers = {
        int(match[1]) for name in found if (match := re.search(r"(?:layers|h)\.(\d+)\.", name))
    }
    number = settings.get("num_hidden_layers", settings.get("n_layer"))
    if layers and number is not None and layers != set(range(number)):
        raise _other_model(folder, f"{len(layers)} layers and not the {number} of its config.json")
    for name, shape in found.items():
        for pattern, keys in SHAPES.items():
            wanted = tuple(settings.get(key) for key in keys)
            if re.search(pattern + "$", name) and None not in wanted and shape != wanted:
                raise _other_model(
                    folder, f"{name} of shape {shape} and not the {wanted} of its config.json"
                )


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a safetensors file by tensor, from its header alone.

    Raises:
        UserError: If the file is cut short or no safetensors file.
    """
    size = path.stat().st_size
    sentence = "model.path must hold whole *.safetensors files; copy or save the model again"
    with reading(sentence, str(path)), path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(LONGEST_HEADER, size - 8):
            raise ValueError("no header")
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        end = max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
        if 8 + length + end != size:
            raise ValueError(f"{8 + length + end} bytes are described and {size} are there")
        return {name: tuple(map(int, tensor["shape"])) for name, tensor in header.items()}


def _check_index(folder: Path, found: Shapes) -> None:
    path = folder / INDEX
    with reading(f"model.path must hold an {INDEX} that lists its files; save it again", str(path)):
        named = dict(json.loads(path.read_text(encoding="utf-8"))["weight_map"])
        files = {str(file) for file in named.values()}
    missing = sorted(file for file in files if not (folder / file).is_file())
    if missing:
        raise UserError(
            f"model.path must hold every file of its {INDEX}, and {missing[0]!r} is not there; "
            f"copy the model again, got {str(folder)!r}"
        )
    lost = sorted(named.keys() - found.keys())
    if lost:
        raise _other_model(folder, f"no {lost[0]}, which its {INDEX} names")


def _check_embedding(folder: Path, settings: Mapping[str, Any], found: Shapes) -> None:
    wanted = (settings.get("vocab_size"), settings.get("hidden_size", settings.get("n_embd")))
    shape = next((found[name] for name in found if name.endswith(EMBEDDINGS)), None)
    if not found or not all(math.prod(shape) for shape in found.values()):
        raise _other_model(folder, "no numbers in some or all tensors")
    if shape is not None and None not in wanted and shape != wanted:
        raise _other_model(
            folder, f"an embedding of shape {shape} and not the {wanted} of its config.json"
        )


def check_context(path: str, max_model_len: int) -> None:
    """Compare the configured context with the one the model was made for.

    Raises:
        UserError: If the model's is shorter.
    """
    settings = read_settings(Path(path))
    # GPT-2 and its kin call it otherwise.
    longest = settings.get("max_position_embeddings", settings.get("n_positions"))
    if longest is not None and max_model_len > longest:
        raise UserError(
            f"model.max_model_len must not exceed the {longest} positions of the model in "
            f"model.path, got {max_model_len}"
        )


def check_model(path: str, engine: EngineConfig, lora: LoraConfig | None = None) -> None:
    """Refuse what learners, or the engines that are installed, could not load or would get wrong.

    Args:
        path: The model's folder.
        engine: Of those that load it.
        lora: Adapters that learners train, or rank 0; None where nothing is trained.

    Raises:
        UserError: With what to change.
    """
    with refusing():
        check_vllm()
        check_names(engine.vllm)
        check_architecture(path, trained=lora is not None)
        if lora is not None:
            check_targets(path, lora)


def load_tokenizer(path: str, chat_template_kwargs: Mapping[str, Any] | None = None) -> Any:
    """Load the tokenizer of a local model folder.

    Args:
        path: The folder.
        chat_template_kwargs: Of the model's settings.

    Raises:
        UserError: If it has none that loads, or its chat template has no such variable.
    """
    from transformers import AutoTokenizer

    with reading(
        "model.path must hold a tokenizer that loads; save one there with its save_pretrained", path
    ):
        tokenizer = AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
    check_vocabulary(Path(path), tokenizer, read_settings(Path(path)))
    try:
        set_variables(tokenizer, chat_template_kwargs or {})
    except ValueError as error:
        raise UserError(
            "model.chat_template_kwargs must name variables of the model's chat template: "
            f"{error}, got {dict(chat_template_kwargs or {})!r} for {path!r}"
        ) from error
    return tokenizer


def check_vocabulary(folder: Path, tokenizer: Any, settings: Mapping[str, Any]) -> None:
    """Refuse a tokenizer with tokens that the model has no embedding for.

    Raises:
        UserError: With both numbers.
    """
    size = settings.get("vocab_size")
    last = max(tokenizer.get_vocab().values(), default=0)
    if size is not None and last >= size:
        raise UserError(
            "model.path must hold the model's own tokenizer: it has tokens up to number "
            f"{last}, the model's vocab_size is {size}; copy the right one there, "
            f"got {str(folder)!r}"
        )


def check_tokens(path: str, sets: Iterable[Sequence[Prompt]]) -> None:
    """Refuse prompts with tokens that the model does not know.

    Raises:
        UserError: With what to change.
    """
    largest = max(int(prompt.token_ids.max()) for prompts in sets for prompt in prompts)
    with refusing():
        check_token_ids(path, largest)


def resolve_reference(path: str) -> str:
    """Make the folder of a reference policy absolute.

    Raises:
        UserError: If it holds no model, or weights that do not belong to its config.json.
    """
    folder, key = Path(path).resolve(), "learner.reference.path"
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{key} must be a folder with a config.json and *.safetensors, or null for the "
            f"starting policy, got {path!r}"
        )
    try:
        check_weights(folder, read_settings(folder))
    except UserError as error:
        raise UserError(str(error).replace("model.path", key, 1)) from error
    return str(folder)


def _other_model(folder: Path, what: str) -> UserError:
    return UserError(
        f"model.path must hold weights that belong to its config.json, got {str(folder)!r}, whose "
        f"files have {what}; copy or save the model again"
    )
