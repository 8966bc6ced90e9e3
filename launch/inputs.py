"""What a run reads before any actor starts: tokenizer and prompts, with every refusal up front."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launch.compose import UserError
from rollout.types import Prompt

PROJECT = Path(__file__).resolve().parents[1]


def resolve_model(path: str) -> str:
    """Make a model folder absolute: relative to here, or to the project for the model it ships.

    Raises:
        UserError: If neither has a config.json.
    """
    for folder in (Path(path), PROJECT / path):
        if (folder / "config.json").is_file():
            return str(folder.resolve())
    raise UserError(
        f"model.path must be a Hugging Face folder with a config.json, got {path!r}; make one with "
        "`python -m launch.warmstart` or `python -m launch.smollm2`"
    )


def load_tokenizer(path: str) -> Any:
    """Load the tokenizer of a local model folder.

    Raises:
        UserError: If it has none that loads.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(f"model.path has no tokenizer that loads, got {path!r}: {error}") from error


def load_prompts(task: Any, tokenizer: Any, reward: Any, max_prompt_tokens: int) -> list[Prompt]:
    """Make a task's prompts and check that the reward can use every answer.

    Raises:
        UserError: With the place of the first prompt or answer that cannot be used.
    """
    try:
        return list(task.prompts(tokenizer, max_tokens=max_prompt_tokens, check=reward.check))
    except (ValueError, OSError) as error:
        raise UserError(" ".join(str(error).split())) from error
