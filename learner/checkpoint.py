"""The policy as a folder that transformers and vLLM load: config, safetensors, tokenizer."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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
    at `path` is replaced.

    Args:
        model: Gives the configuration and the names on disk; its own weights are not read.
        weights: Full tensors by the model's parameter names; tied ones only once.
        path: The checkpoint's folder.
        tokenizer_path: Folder whose tokenizer files are copied; None for none.
        write_adapter: Writes the adapters, which `weights` has merged, into the subfolder
            `adapter` by themselves; None for none.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f".{path.name}.{uuid4().hex[:8]}.partial"
    partial.mkdir()
    try:
        model.save_pretrained(partial, state_dict=dict(weights))
        if tokenizer_path is not None:
            copy_tokenizer(Path(tokenizer_path), partial)
        if write_adapter is not None:
            # Not beside the weights: vLLM would read its safetensors as part of them.
            write_adapter(partial / "adapter")
        if path.exists():
            # A folder cannot be renamed over another one that has files in it.
            old = partial.with_suffix(".old")
            path.rename(old)
            partial.rename(path)
            shutil.rmtree(old)
        else:
            partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer's files, and no others, from one checkpoint folder to another."""
    for pattern in _TOKENIZER_FILES:
        for file in sorted(source.glob(pattern)):
            if file.is_file():
                shutil.copy2(file, target / file.name)
            elif file.name == "chat_templates":
                shutil.copytree(file, target / file.name, dirs_exist_ok=True)
