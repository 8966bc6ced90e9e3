"""How long a training is, how far it runs ahead, and what it keeps on the way."""

import re
from dataclasses import dataclass

from conf.checks import require
from cost.ranges import SECONDS, amount, count, positive, require_ranges


@dataclass(kw_only=True, slots=True)
class LoopConfig:
    """How long the run is, and how far generation may run ahead of learning."""

    num_steps: int = 100
    """Batches to train on; each ends with one published version of the weights."""
    max_staleness: int = 0
    """Versions that a batch may be behind when it is trained on; 0 to generate and learn in
    turn."""
    max_generated_tokens: int | None = None
    """Budget of tokens that engines compute, pilots and filtered groups included: no batch is drawn
    once those drawn are expected to use it up. None for no such budget."""
    max_trained_tokens: int | None = None
    """The same for the tokens that learners train on, each response with its prompt, every pass
    counted; batches in flight are expected to take what those before did."""
    max_compute_flops: float | None = None
    """The same for FLOPs computed by engines and learners, counted from the model's shape: prefill,
    decode, forward and backward passes, scoring and parity probes (`launch.run.compute`)."""
    max_seconds: float | None = None
    """The same for seconds of waiting, learning and publishing; starts, evaluations and saves do
    not count."""
    batch_deadline_seconds: float = 1800.0
    """Longest time without a heartbeat from any ticket while a batch, or one of its rounds, is
    awaited. A batch may take however long while anything is heard of any ticket."""
    publish_deadline_seconds: float = 600.0
    """Longest time to send one version of the weights to every engine."""
    save_every: int = 0
    """Save the policy every so many steps; 0 for only at the end."""
    save_final: bool = True
    """Save the policy at the end."""
    samples_every: int = 10
    """Write responses of every so many steps to `samples.jsonl`, and to trackers that show some,
    beginning with the first step; 0 for never."""
    samples_tickets: int | None = 1
    """Tickets of such a step whose responses are written, the first ones; None for all."""
    push_to_hub: str | None = None
    """OWNER/NAME on the Hugging Face hub, to which the final policy is uploaded, or the best one if
    `checkpoint.keep_best` keeps one. The token is that in HF_TOKEN."""
    push_private: bool = True
    """Whether a repository that `push_to_hub` makes is private."""

    def __post_init__(self) -> None:
        tokens = count(1e15)
        ranges = {
            "num_steps": count(),
            "max_staleness": amount(1000),
            "max_generated_tokens": tokens,
            "max_trained_tokens": tokens,
            "max_compute_flops": positive(1e30),
            "max_seconds": positive(),
            "save_every": amount(),
            "samples_every": amount(),
            "samples_tickets": count(),
            "batch_deadline_seconds": SECONDS,
            "publish_deadline_seconds": SECONDS,
        }
        require_ranges("loop.", self, ranges)
        require(
            self.push_to_hub is None
            or (self.save_final and re.fullmatch(r"[\w.-]+/[\w.-]+", self.push_to_hub) is not None),
            "loop.push_to_hub must be OWNER/NAME, and null without loop.save_final",
            self.push_to_hub,
        )
