"""The typed shape of conf/predict.yaml: worths of prompts, held against measured gradients."""

from dataclasses import dataclass
from typing import Any

from conf.checks import require, require_path, require_plug
from conf.studies import ProbedModelConfig
from cost.prices.types import Price
from cost.ranges import SEED, Range, count, positive, require_ranges
from cost.scheduler.config import MOST_RESPONSES
from cost.worth.lengths import LengthEstimator
from cost.worth.utilities import Utility
from rollout.rewards.types import Reward
from rollout.tasks.prompts import Task


@dataclass(kw_only=True, slots=True)
class PredictConfig:
    """What a study of predictions samples and compares; see `launch.predict`."""

    model: ProbedModelConfig
    task: Any
    """Plug: where prompts are from."""
    held_out: Any
    """The same again, for rewards that ask for it."""
    reward: Any
    """Plug: scores the responses."""
    length: Any
    """Plug: expected lengths, for the costs."""
    price: Any
    """Plug: what a draw costs."""
    utilities: dict[str, Any]
    """By name, the utility plugs to compare."""
    floor: float = 0.2
    """Of the allocators `square_root` and `passes`, in (0, 1]."""
    share: float = 0.65
    """Of the allocator `passes`, in (0, 1]."""
    group_size: int = 8
    """Responses to a visit, at least 2."""
    judged_groups: int = 2
    """Groups of a prompt, beside those of its two visits, that everything is judged by; at least
    2."""
    splits: int = 6
    """How often responses are dealt out anew to visits and judgement."""
    max_tokens: int = 256
    """Of a response."""
    temperature: float = 1.0
    """Of sampling, above 0."""
    seed: int = 0
    """Of samples and of how they are dealt out."""
    gradients: bool = True
    """Take the gradient of every response; without, surprise stands in for its norm."""
    data: str | None = None
    """File of what was sampled: read if it is there, else written."""
    out: str | None = None
    """File for the figures as JSON, in a folder that exists."""

    def __post_init__(self) -> None:
        require_plug("task", self.task, Task)
        require_plug("reward", self.reward, Reward)
        require_plug("length", self.length, LengthEstimator)
        require_plug("price", self.price, Price)
        require(len(self.utilities) > 0, "utilities must name at least one", self.utilities)
        for name, plug in self.utilities.items():
            require_plug(f"utilities.{name}", plug, Utility)
        require(0 < self.floor <= 1, "floor must lie in (0, 1]", self.floor)
        require(0 < self.share <= 1, "share must lie in (0, 1]", self.share)
        ranges = {
            "group_size": Range(2, MOST_RESPONSES),
            "judged_groups": Range(2, 1000),
            "splits": Range(2, 1000),
            "max_tokens": count(1e8),
            "temperature": positive(100),
            "seed": SEED,
        }
        require_ranges("", self, ranges)
        for key in ("data", "out"):
            path = getattr(self, key)
            if path is not None:
                require_path(key, path)

    @property
    def num_responses(self) -> int:
        """Responses to each prompt: two visits, and those that everything is judged by."""
        return (NUM_VISITS + self.judged_groups) * self.group_size


NUM_VISITS = 2
