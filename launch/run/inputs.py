"""What a run reads before any actor starts: tokenizer and prompts, with every refusal up front."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from launch.program import UserError
from rollout.types import Prompt

PROJECT = Path(__file__).resolve().parents[2]


def resolve_model(path: str) -> str:
    """Make a model folder absolute: relative to here, or to the project for the model it ships.

    Raises:
        UserError: If neither is a folder with a config.json and weights.
    """
    for folder in (Path(path), PROJECT / path):
        if (folder / "config.json").is_file():
            # Other weight files are pickles, which could run code of whoever wrote them.
            if not any(folder.glob("*.safetensors")):
                raise UserError(
                    "model.path must hold weights as *.safetensors beside its config.json, "
                    f"got {str(folder)!r}"
                )
            return str(folder.resolve())
    raise UserError(
        f"model.path must be a Hugging Face folder with a config.json, got {path!r}; make one with "
        "`python -m launch.warmstart` or `python -m launch.smollm2`"
    )


def check_context(path: str, max_model_len: int) -> None:
    """Compare the configured context with the one the model was made for.

    Raises:
        UserError: If the model's is shorter.
    """
    settings = json.loads((Path(path) / "config.json").read_text(encoding="utf-8"))
    longest = settings.get("max_position_embeddings")
    if longest is not None and max_model_len > longest:
        raise UserError(
            f"model.max_model_len must not exceed the {longest} positions of the model in "
            f"model.path, got {max_model_len}"
        )


def load_tokenizer(path: str) -> Any:
    """Load the tokenizer of a local model folder.

    Raises:
        UserError: If it has none that loads.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            "model.path must hold a tokenizer that loads; save one there with its "
            f"save_pretrained ({reason:.200}), got {path!r}"
        ) from error


def load_prompts(
    task: Any, tokenizer: Any, reward: Any, max_prompt_tokens: int, key: str = "task"
) -> list[Prompt]:
    """Make a task's prompts and check that the reward can use every answer.

    Args:
        task: The plug.
        tokenizer: The policy's tokenizer.
        reward: The plug that will score the responses.
        max_prompt_tokens: Longest prompt that leaves room for a response.
        key: Where the configuration holds the task: "task" or "held_out".

    Raises:
        UserError: With the place of the first prompt or answer that cannot be used.
    """
    from jinja2 import TemplateError

    if max_prompt_tokens < 1:
        raise UserError(
            "rollout.max_tokens must leave room for a prompt in model.max_model_len, "
            f"got {max_prompt_tokens} tokens for prompts"
        )
    try:
        return list(task.prompts(tokenizer, max_tokens=max_prompt_tokens, check=reward.check))
    except TemplateError as error:
        raise UserError(
            f"{key}: the chat template of model.path refuses a conversation; change the messages "
            f"or choose another model, got {str(error)!r}"
        ) from error
    except (ValueError, OSError) as error:
        # Tasks call themselves "task", wherever the configuration holds them.
        reason = " ".join(str(error).split()).replace("task.", f"{key}.")
        raise UserError(reason if reason.startswith(key) else f"{key}: {reason}") from error
