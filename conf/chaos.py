"""Settings of `launch.chaos`."""

from dataclasses import dataclass

from conf.checks import require_path
from cost.ranges import SECONDS, SEED, count, require_ranges


@dataclass(kw_only=True, slots=True)
class ChaosConfig:
    """How many runs are struck, and when one is given up; see `launch.chaos`."""

    runs: int = 27
    """Trials; 27 are every process with every signal once."""
    seed: int = 0
    """Random seed of processes, signals and moments."""
    run_dir: str
    """Folder of all trials."""
    base: list[str]
    """Overrides of conf/train.yaml that describe the run."""
    num_steps: int = 6
    """Steps of each run."""
    deadline_seconds: float = 600.0
    """Time limit of a trial with all its restarts."""
    grace_seconds: float = 75.0
    """After the end of a start, longest wait for its processes and shared memory to be gone. Ray's
    agents take 62 s where the head of their cluster was killed."""
    stopped_seconds: float = 20.0
    """Seconds after which a stopped driver is continued."""
    most_starts: int = 4
    """Most starts of one trial."""

    def __post_init__(self) -> None:
        require_path("run_dir", self.run_dir)
        ranges = {
            "runs": count(1e6),
            "seed": SEED,
            "num_steps": count(1e6),
            "deadline_seconds": SECONDS,
            "grace_seconds": SECONDS,
            "stopped_seconds": SECONDS,
            "most_starts": count(1000),
        }
        require_ranges("", self, ranges)
