"""The policy as a folder that transformers and vLLM load: config, safetensors, tokenizer."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from safetensors import SafetensorError
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GENERATION = "generation_config.json"
_TOKENIZER_FILES = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "*.tiktoken",
    "spiece.model",
)


def save_checkpoint(
    model: "PreTrainedModel",
    weights: Mapping[str, Tensor],
    path: Path,
    tokenizer_path: Path | None = None,
    write_adapter: Callable[[Path], None] | None = None,
) -> None:
    """Write a checkpoint so that `path` holds a whole one or does not exist.

    Everything is written into a folder beside `path` and renamed at the end; an older checkpoint
    at `path` is replaced, and what saves of it that were killed left is removed.

    Args:
        model: Gives the configuration and the names on disk; its own weights are not read.
        weights: Full tensors by the model's parameter names; tied ones only once.
        path: The checkpoint's folder.
        tokenizer_path: Folder whose tokenizer files and generation_config.json are copied; None for
            none.
        write_adapter: Writes the adapters, which `weights` has merged, into the subfolder
            `adapter` by themselves; None for none.

    Raises:
        OSError: If it cannot be written; nothing of it is left, and an older one stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left(path, "partial")
    partial = path.parent / f".{path.name}.{uuid4().hex[:8]}.partial"
    partial.mkdir()
    try:
        with _plain_generation(model):
            model.save_pretrained(partial, state_dict=dict(weights))
        if tokenizer_path is not None:
            copy_tokenizer(Path(tokenizer_path), partial)
            copy_generation(Path(tokenizer_path), partial)
        if write_adapter is not None:
            # Not beside the weights: vLLM would read its safetensors as part of them.
            write_adapter(partial / "adapter")
        if path.exists():
            # A folder cannot be renamed over another one that has files in it.
            old = partial.with_suffix(".old")
            path.rename(old)
            try:
                partial.rename(path)
            except OSError:
                old.rename(path)
                raise
            shutil.rmtree(old)
        else:
            partial.rename(path)
        # Only now, for one that was to be replaced may have been all that there was.
        _remove_left(path, "old")
    except SafetensorError as error:
        # A full disk, mostly.
        raise OSError(str(error)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove_left(path: Path, kind: str) -> None:
    """Remove what saves that were killed left beside a checkpoint; nobody may save it meanwhile."""
    for left in path.parent.glob(f".{escape(path.name)}.{'[0-9a-f]' * 8}.{kind}"):
        shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _plain_generation(model: "PreTrainedModel") -> Iterator[None]:
    """Within it the model's settings of generation are ones that transformers agrees to write.

    Published models have some that it refuses, such as a temperature without sampling.
    """
    from transformers import GenerationConfig

    before = model.generation_config
    try:
        before.validate(strict=True)
    except ValueError:
        named = ("bos_token_id", "eos_token_id", "pad_token_id")
        make: Any = GenerationConfig
        model.generation_config = make(**{name: getattr(before, name) for name in named})
    try:
        yield
    finally:
        model.generation_config = before


def copy_generation(source: Path, target: Path) -> None:
    """Copy generation_config.json as it is, which says among others what ends a response."""
    if (source / GENERATION).is_file():
        shutil.copy2(source / GENERATION, target / GENERATION)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer's files, and no others, from one checkpoint folder to another."""
    for pattern in _TOKENIZER_FILES:
        for file in sorted(source.glob(pattern)):
            if file.is_file():
                shutil.copy2(file, target / file.name)
            elif file.name == "chat_templates":
                shutil.copytree(file, target / file.name, dirs_exist_ok=True)
