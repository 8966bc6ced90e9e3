"""What a policy is measured on, how, and when."""

from dataclasses import dataclass, field
from typing import Any

from conf.checks import require, require_name, require_plug
from cost.ranges import Range, amount, count, positive, require_ranges
from rollout.rewards.by_set import RewardBySet
from rollout.rewards.types import Reward
from rollout.tasks.prompts import Task

HELD_OUT = "held_out"
"""The set that every configuration has, and that `summary.json` speaks of."""


@dataclass(kw_only=True, slots=True)
class EvaluationSet:
    """Prompts that a policy is measured on."""

    task: Any
    """The plug that makes the prompts."""
    reward: Any = None
    """The plug that scores the responses to them; None takes the run's reward."""


@dataclass(kw_only=True, slots=True)
class EvaluationConfig:
    """How the policy is measured on held-out prompts."""

    sets: dict[str, EvaluationSet] = field(default_factory=dict)
    """Further sets to evaluate on, besides `held_out`, by name."""
    num_samples: int = 8
    """Responses per prompt at `temperature`; pass@k is given for k = 1 and k = num_samples."""
    pass_at: list[int] = field(default_factory=list)
    """Give pass@k for these k too, each in [1, num_samples]."""
    temperature: float = 1.0
    """Sampling temperature, positive."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that together have this probability, in (0, 1]."""
    top_k: int = 0
    """Draw among so many of the likeliest tokens; 0 for all."""
    greedy: bool = True
    """Also take one greedy response per prompt."""
    before: bool = True
    """Evaluate the starting policy."""
    after: bool = True
    """Evaluate the trained policy."""
    every: int = 0
    """Also evaluate every so many steps, sampled responses only; 0 for never. Learning waits for it
    and its time does not count as the run's, but with `loop.max_staleness` > 0 engines continue
    with batches in flight meanwhile."""
    write_responses: bool = False
    """Write every response with its reward: `launch.evaluate` to `responses.jsonl`, which it does
    by default, a training to `responses/step-N.jsonl`, N being the version."""
    target: float | None = None
    """Held-out pass@1 that ends the run: after the first evaluation of `every` that reaches it, no
    batch is drawn any more, and those in flight are still trained on. To resume such a run, raise
    the target or remove it. None for no target."""
    background: bool = False
    """Let learning continue during the evaluations of `every`. They share the engines with
    training, so their time counts as the run's, and new weights may arrive in the middle of a
    response. Results name the first and last version, and come with a later step, or by
    themselves after the last one."""

    def __post_init__(self) -> None:
        ranges = {
            "num_samples": count(100_000),
            "temperature": positive(100),
            "top_p": Range(0, 1, above=True),
            "top_k": amount(1e9),
            "every": amount(),
        }
        require_ranges("evaluation.", self, ranges)
        require(
            self.target is None or (0 < self.target <= 1 and self.every > 0),
            "evaluation.target must be null, or lie in (0, 1] with evaluation.every above 0",
            self.target,
        )
        require(
            all(1 <= k <= self.num_samples for k in self.pass_at),
            "evaluation.pass_at must lie in [1, evaluation.num_samples], here "
            f"[1, {self.num_samples}]",
            self.pass_at,
        )
        for name, chosen in self.sets.items():
            key = f"evaluation.sets.{name}"
            require_name("evaluation.sets", name)
            require(name != HELD_OUT, "evaluation.sets must have names other than held_out", name)
            require_plug(f"{key}.task", chosen.task, Task)
            if chosen.reward is not None:
                require_plug(f"{key}.reward", chosen.reward, Reward)

    def engine_reward(self, reward: Any) -> Any:
        """Return what engines score with: the run's reward, and those of sets with their own.

        Args:
            reward: The run's reward.
        """
        own = {
            name: chosen.reward for name, chosen in self.sets.items() if chosen.reward is not None
        }
        return RewardBySet(reward, own) if own else reward
