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
    """Up to so many, engines join during the run whenever the cluster has room for one more. An
    engine that was lost with its node joins again when there is room. None: no engine joins, and a
    lost one is left out after `placement_deadline_seconds`."""
    tensor_parallel_size: int = 1
    """GPUs that hold one copy of the model; at least 1 also on CPU."""
    num_learners: int = 1
    """Learner workers."""
    use_gpu: bool | None = None
    """None uses GPUs if the cluster has any and the packages here are those for GPUs. Without GPUs,
    vLLM must be built for CPUs."""
    share_gpus: bool | None = None
    """Whether engine k and learner k share a GPU. None: only as many pairs as necessary do, if the
    cluster has fewer GPUs than the run has parts. Engines on several GPUs never share."""
    engine_memory_share: float = 0.4
    """Share of a shared GPU's memory that its engine takes, weights included, instead of
    `rollout.engine.gpu_memory_utilization`. Its learner may take the rest except 0.05."""
    engines_sleep: bool = False
    """Whether engine and learner on a shared GPU use its memory in turn: the engine sleeps while
    the learners work, and wakes for the next weights. The learner may then take all but 0.05 of the
    memory; while the engine generates, what the learner keeps must fit next to
    `engine_memory_share`. All pairs share. On CPUs no memory is freed."""
    cuda_ipc: bool = True
    """Whether weights are sent through CUDA IPC if the run is one engine and one learner on one
    GPU. False sends them through host memory, as between all other parts that share GPUs, for
    systems that do not let processes map each other's GPU memory."""
    device_memory_gib: float | None = None
    """Memory of one GPU, or of a machine without GPUs, for the memory plan. None asks this machine;
    for a cluster that is joined it is then unknown."""
    engine_cpus: float = 1.0
    """CPUs reserved for each engine."""
    learner_cpus: float = 1.0
    """CPUs reserved for each learner worker."""
    address: str | None = None
    """Ray address to join; None joins that in RAY_ADDRESS, or starts a cluster on this machine."""
    dashboard: bool = False
    """Serve Ray's dashboard, for a cluster started here."""
    placement_deadline_seconds: float = 120.0
    """Longest wait for the cluster to reserve the resources, and for room for an engine whose node
    was lost, seconds."""
    silence_seconds: float = 30.0
    """Longest silence of a part of the run, or of the cluster. A process counts as dead if it is
    stopped for this long, or has nothing to do and does not answer for twice as long. A process at
    work is not silent."""
    least_deadline_seconds: float = 120.0
    """Shortest deadline of scheduler and learners. A deadline is ten times the longest that the
    same call took before, between this and the setting called *_deadline_seconds."""

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
