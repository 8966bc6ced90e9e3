"""What a warm start from a given model teaches: a script's conversations, in the model's tokens.

    base, task, environment, script -> plays of a scripted policy -> token ids, which are learned

Prompts, templates, tools and masks are those of a training with the same task and environment.
"""

from collections.abc import Sequence
from typing import Any

from conf.models import WarmStartConfig
from launch.cli.refusals import UserError
from launch.run.model_folder import load_tokenizer, resolve_model
from rollout.environments import for_policy, prompt_tokenizer
from rollout.environments.scripted import scripted_play
from rollout.own_code import absolute, find
from rollout.sandbox.run import SandboxError
from rollout.stopping import stopping_of

Example = tuple[list[int], list[bool]]
"""Token ids of one example, and which of them are learned."""


def read_base(config: WarmStartConfig) -> tuple[str, Any]:
    """Return folder and tokenizer of the model to begin from.

    Raises:
        UserError: If it is none, or has no chat template.
    """
    try:
        folder = resolve_model(str(config.base))
        tokenizer = load_tokenizer(folder)
    except UserError as error:
        raise _of_base(error) from error
    if not tokenizer.chat_template:
        raise UserError(
            "base must have a chat template, in which conversations are written; choose a model "
            f"with one or save one with its tokenizer, got {config.base!r}"
        )
    return folder, tokenizer


def conversations(config: WarmStartConfig, folder: str, tokenizer: Any) -> list[Example]:
    """Play the script for every prompt of the task.

    Args:
        config: With task, environment and script.
        folder: Of the model.
        tokenizer: Its tokenizer.

    Raises:
        UserError: If the model's template cannot render what the environment says, or the script
            does not fit.
    """
    try:
        script = find(absolute(str(config.script)))
        player = for_policy(config.environment, tokenizer, stopping_of(folder, tokenizer))
        prompts = config.task.prompts(prompt_tokenizer(config.environment, tokenizer))
        found: list[Example] = []
        for prompt in prompts:
            room = config.batch_tokens - len(prompt.token_ids)
            played = scripted_play(player, tokenizer, prompt, script, room)
            asked: Sequence[int] = prompt.token_ids.tolist()
            own: Sequence[bool] = played.loss_mask.tolist()
            found.append(([*asked, *played.token_ids.tolist()], [False] * len(asked) + [*own]))
    except (ValueError, SandboxError) as error:
        raise _of_base(error) from error
    return found


def _of_base(error: Exception) -> UserError:
    """Return the sentence of a training about its model as one about the base."""
    sentence = " ".join(str(error).split()).replace("model.path", "base")
    known = sentence.startswith(("base", "task", "environment", "script"))
    return UserError(sentence if known else f"script: {sentence}")
