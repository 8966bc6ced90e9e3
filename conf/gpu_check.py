"""The typed shape of what is tried and measured on one GPU; see `launch.gpu_check`."""

from __future__ import annotations

from dataclasses import dataclass, field

from conf.checks import require, require_path
from cost.ranges import Range, count, require_ranges

PARTS = ("kernels", "system", "learner", "quickstart", "sleep", "model_system", "model_learner")
"""In the order in which they are tried; those of `model` only where it is given."""
DEVICES = ("gpu", "cpu")


@dataclass(kw_only=True, slots=True)
class GpuCheckConfig:
    """Which parts are tried, on what, and for how long."""

    parts: list[str] = field(default_factory=lambda: [*PARTS])
    """Some of `PARTS`."""
    model: str | None = None
    """Folder of a second model, such as `python -m launch.smollm2` makes; null leaves its parts
    out."""
    device: str = "gpu"
    """"gpu", or "cpu" to try the check itself without one."""
    num_steps: int = 20
    """Steps of the quickstart."""
    seconds: float = 480.0
    """Time limit of all parts together; each part also has its own."""
    overrides: list[str] = field(default_factory=list)
    """Further overrides for every part."""
    out: str = "gpu_check.json"
    """File for what was found, in a folder that exists."""

    def __post_init__(self) -> None:
        require(
            len(self.parts) > 0 and set(self.parts) <= set(PARTS),
            f"parts must be some of {', '.join(PARTS)}",
            self.parts,
        )
        require(self.device in DEVICES, "device must be gpu or cpu", self.device)
        require_ranges("", self, {"num_steps": count(1e6), "seconds": Range(1, 86_400)})
        for key in ("model", "out"):
            if getattr(self, key) is not None:
                require_path(key, getattr(self, key))
