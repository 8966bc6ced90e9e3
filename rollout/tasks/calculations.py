"""Products, long sums and mixed calculations: too hard for a small model's head, easy with a tool.

    question   Solve the following multiplication: 205 * 838. Give only the result ...
    turn 1     <tool_call> {"name": "calculator", "arguments": {"expression": "205 * 838"}} ...
    tool       171790
    turn 2     171790

The questions are reasoning-gym's. Those of a warm start are in neither of the other splits.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from rollout.tasks.mixed import MixedTask
from rollout.tasks.prompts import Check, require_num_prompts, require_split
from rollout.tasks.reasoning_gym import ReasoningGymTask
from rollout.types import Prompt

KINDS: dict[str, dict[str, Any]] = {
    "products": {"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 3},
    "chain_sum": {"min_terms": 4, "max_terms": 5, "min_digits": 2, "max_digits": 3},
    "basic_arithmetic": {
        "min_terms": 3,
        "max_terms": 3,
        "min_digits": 2,
        "max_digits": 2,
        "operators": ["+", "-", "*"],
        "allow_parentheses": True,
        "allow_negation": False,
    },
}
"""Settings of each generator."""
_SPLITS = {"train": "after_warm_start", "held_out": "held_out", "warm_start": "warm_start"}
_EXPRESSION = re.compile(r"[-(\d][-+*() \d]*[)\d]")


@dataclass(frozen=True, slots=True, kw_only=True)
class CalculationTask:
    """A fixed set of questions of all kinds; a seed makes one of each split."""

    split: str = "train"
    """"train", "held_out" or "warm_start"; no two share a question."""
    num_prompts: int = 64
    """Questions of each kind, at least 1."""
    seed: int = 0
    """Which set to draw."""

    def __post_init__(self) -> None:
        """Refuse settings that name no set of questions."""
        require_split(self.split, "warm_start")
        require_num_prompts(self.num_prompts)

    def prompts(
        self, tokenizer: Any, *, max_tokens: int | None = None, check: Check | None = None
    ) -> list[Prompt]:
        """Draw the set and tokenise it; see `rollout.tasks.prompts.Task`."""
        sets = {
            kind: ReasoningGymTask(
                dataset=kind,
                split=_SPLITS[self.split],
                num_prompts=self.num_prompts,
                seed=self.seed,
                config=config,
                instruction="",
            )
            for kind, config in KINDS.items()
        }
        return MixedTask(sets=sets).prompts(tokenizer, max_tokens=max_tokens, check=check)


def turns(question: str, answer: str) -> list[str]:
    """Write the turns of a policy that calls the calculator: the call, then the answer.

    Args:
        question: As the task asks it.
        answer: Its answer, as the task has it.

    Raises:
        ValueError: If nothing in the question can be calculated.
    """
    found = max(_EXPRESSION.findall(question), key=len, default="")
    if not found:
        raise ValueError(f"script needs a question with a calculation, got {question[:80]!r}")
    call = json.dumps({"name": "calculator", "arguments": {"expression": found}})
    return [f"<tool_call>\n{call}\n</tool_call>", answer]
