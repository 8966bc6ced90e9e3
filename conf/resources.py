"""What a run takes of a cluster."""

from dataclasses import dataclass

from conf.checks import require
from cost.ranges import SECONDS, Range, count, positive, require_ranges

SPARE_SHARE = 0.05
"""Part of a shared GPU's memory for what CUDA itself takes in each of two processes."""


@dataclass(kw_only=True, slots=True)
class ResourcesConfig:
    """What of the cluster the run takes: one placement group per engine, one for the learners."""

    num_engines: int = 1
    """Rollout actors, each with one vLLM engine."""
    max_engines: int | None = None
    """Engines join while the run goes on, up to so many, whenever the cluster has room for one
    more; one that was lost with its node and finds no other room joins again when there is some.
    With None nobody joins, and such a one is left out after `placement_deadline_seconds`."""
    tensor_parallel_size: int = 1
    """GPUs that hold one copy of the model; at least 1 also on CPU."""
    num_learners: int = 1
    """Learner workers."""
    use_gpu: bool | None = None
    """None takes GPUs when the cluster has any. Without them vLLM must be built for CPUs."""
    share_gpus: bool | None = None
    """Whether engine k and learner k share a GPU; None lets as many pairs share as need be where
    the cluster has fewer GPUs than the run has parts. Engines of several GPUs never share."""
    engine_memory_share: float = 0.4
    """Part of a shared GPU's memory that its engine takes, weights included, in place of
    `rollout.engine.gpu_memory_utilization`; its learner may take the rest but for 0.05."""
    engines_sleep: bool = False
    """Whether engines and learners that share a GPU have its memory in turn: an engine sleeps while
    the learners work, and wakes for the next weights. Its learner may then take all but 0.05 of
    the memory; while the engine generates, what the learner holds lies beside
    `engine_memory_share`. As many pairs share as there are; CPUs give nothing back."""
    cuda_ipc: bool = True
    """Whether weights go through CUDA IPC where the run is one engine and one learner on one GPU.
    False sends them through the host's memory, as between other parts that share GPUs, for systems
    that keep processes from mapping each other's GPU memory."""
    device_memory_gib: float | None = None
    """Memory of one GPU, or of a machine without, for the plan; None asks this machine, and knows
    nothing of a cluster that is joined."""
    engine_cpus: float = 1.0
    """CPUs reserved for each engine."""
    learner_cpus: float = 1.0
    """CPUs reserved for each learner worker."""
    address: str | None = None
    """Ray address to join; None joins the cluster of RAY_ADDRESS, or starts one here."""
    dashboard: bool = False
    """Serve the dashboard of a cluster started here."""
    placement_deadline_seconds: float = 120.0
    """Longest wait for the cluster to reserve the resources, and for room for an engine whose node
    was lost."""
    silence_seconds: float = 30.0
    """Longest silence of a part of the run, or of the cluster: a process that is stopped for so
    long, or has nothing to do and does not answer for twice as long, counts as dead. One that is
    at work is not silent."""
    least_deadline_seconds: float = 120.0
    """Deadlines of scheduler and learners are ten times the longest that the same took before, and
    not less than this; the settings called *_deadline_seconds are the longest."""

    def __post_init__(self) -> None:
        ranges = {
            "num_engines": count(10_000),
            "max_engines": count(10_000),
            "tensor_parallel_size": count(1024),
            "num_learners": count(10_000),
            "engine_memory_share": Range(0.05, 0.9),
            "device_memory_gib": positive(1e6),
            "engine_cpus": positive(10_000),
            "learner_cpus": positive(10_000),
            "placement_deadline_seconds": SECONDS,
            "silence_seconds": Range(1, 60),
            "least_deadline_seconds": SECONDS,
        }
        require_ranges("resources.", self, ranges)
        require(
            not self.shares or self.tensor_parallel_size == 1,
            "resources.tensor_parallel_size must be 1 with "
            f"resources.{'share_gpus' if self.share_gpus else 'engines_sleep'}=true",
            self.tensor_parallel_size,
        )
        require(
            not self.engines_sleep or self.share_gpus is not False,
            "resources.share_gpus must be true or null with resources.engines_sleep=true, by which "
            "engines sleep for the learners that they share a GPU with",
            self.share_gpus,
        )
        require(
            self.max_engines is None or self.max_engines >= self.num_engines,
            f"resources.max_engines must be null, or resources.num_engines = {self.num_engines} at "
            "least",
            self.max_engines,
        )
        require(
            self.max_engines is None or not self.shares,
            "resources.max_engines must be null with "
            f"resources.{'engines_sleep' if self.engines_sleep else 'share_gpus'}=true, by which "
            "every engine shares the GPU of a learner",
            self.max_engines,
        )
        require(
            "@" not in (self.address or ""),
            "resources.address must not hold a user or password, which Ray has no use for; a "
            "cluster's token goes into RAY_AUTH_TOKEN or ~/.ray/auth_token",
            f"{len(self.address or '')} letters with an @",
        )

    @property
    def shares(self) -> bool | None:
        """Whether pairs of an engine and a learner share GPUs; None for as many as need be."""
        return True if self.engines_sleep else self.share_gpus
