"""What a task makes of its rows: prompts as the model will see them, and how an answer is scored.

task.preview=true -> three prompts, one scored answer -> end, before anything is started
"""

from __future__ import annotations

from conf.schema import RunConfig
from cost.types import RewardStatus
from launch.cli.visible import visible
from launch.run.inputs import Prepared
from launch.run.rewards import RESPONSE, score_responses
from rollout.rewards.accepted import accepted
from rollout.rewards.types import example_of
from rollout.types import Prompt

NUM_PROMPTS = 3
WRITINGS = ("The answer is \\boxed{{{}}}.", "#### {}", "<answer>{}</answer>", "{}")
"""Ways in which responses give an answer; the best of them is shown."""


def preview(read: Prepared) -> str:
    """Return what is to be shown of a run's prompts and reward.

    Raises:
        UserError: If the reward does not load.
    """
    chosen = read.prompts[:: max(1, len(read.prompts) // NUM_PROMPTS)][:NUM_PROMPTS]
    parts = [_shown(prompt, read.tokenizer.decode(prompt.token_ids)) for prompt in chosen]
    return "\n".join([*parts, _scored(read.config, chosen[0])])


def _shown(prompt: Prompt, text: str) -> str:
    columns = f", columns {', '.join(prompt.columns)}" if prompt.columns else ""
    head = f"prompt {prompt.index}: {len(prompt.token_ids)} tokens, source {prompt.source}{columns}"
    lines = visible(text).splitlines()
    return "\n".join(
        [head, *(f"  | {line}" for line in lines), f"  answer: {visible(prompt.answer)}"]
    )


def _scored(config: RunConfig, prompt: Prompt) -> str:
    answer = accepted(prompt.answer)[0]
    texts = [writing.format(answer) for writing in WRITINGS]
    if (example := example_of(config.reward)) and (text := example(prompt.answer)):
        texts.append(text)
    found = score_responses(config, [(prompt, text) for text in (RESPONSE, *texts)])
    worth = [
        one.score.reward if one.status == RewardStatus.OK and one.score else float("-inf")
        for one in found
    ]
    best = max(range(len(worth)), key=worth.__getitem__)
    text, score = (RESPONSE, *texts)[best], found[best].score
    if score is None:
        return f"reward: it fails for every writing of the answer: {visible(found[best].summary)}"
    parts = ", ".join(f"{name} {value:g}" for name, value in score.components.items())
    shown = f"reward: {visible(repr(text))} gets {score.reward:g}" + (
        f" ({parts})" if parts else ""
    )
    if worth[best] > worth[0]:
        return f"{shown}; {RESPONSE!r} gets {worth[0]:g}"
    return (
        f"{shown}, and no writing of prompt {prompt.index}'s own answer gets more: right for a "
        "reward that wants more than the answer, otherwise answers and reward do not fit"
    )
