"""Which parts of a run get which GPUs: arithmetic only.

    enough GPUs       engine 0 | engine 1 | learner 0 | idle
    fewer than parts  engine 0 + learner 0 | engine 1

Only an engine and a learner share, never two learners: NCCL has no two ranks on one GPU. For the
same reason weights then travel over CUDA IPC where one engine and one learner are all there is, and
over gloo otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

from conf.resources import SPARE_SHARE, ResourcesConfig


@dataclass(frozen=True, slots=True)
class Layout:
    """How many GPUs the parts take.

    Example:
        Layout(num_engines=1, num_learners=1, engine_gpus=1, learner_gpus=1, num_shared=1)
    """

    num_engines: int
    num_learners: int
    engine_gpus: int
    """Of an engine that shares none; 0 on CPUs."""
    learner_gpus: int
    """Of a learner that shares none; 0 on CPUs."""
    num_shared: int = 0
    """Engine k and learner k share a GPU, for each k below it."""
    cuda_ipc: bool = True
    """Whether weights may go over CUDA IPC."""

    @property
    def num_gpus(self) -> int:
        """GPUs in all."""
        whole = self.num_engines * self.engine_gpus + self.num_learners * self.learner_gpus
        return whole - self.num_shared

    @property
    def weight_backend(self) -> str:
        """What carries weights from learner to engines, "nccl", "ipc" or "gloo"."""
        if self.engine_gpus and not self.num_shared:
            return "nccl"
        alone = self.num_engines == self.num_learners == self.num_shared
        return "ipc" if alone and self.num_shared == 1 and self.cuda_ipc else "gloo"

    @property
    def parts(self) -> str:
        """The parts in words, for a refusal."""
        text = f"{self.num_engines} engines, {self.num_learners} learners"
        return text + (f", {self.num_shared} of each on shared GPUs" if self.num_shared else "")


def lay_out(
    resources: ResourcesConfig, num_gpus: float, *, on_gpu: bool, learners: bool = True
) -> Layout:
    """Give parts GPUs of their own, or let engines and learners share where there are too few.

    Args:
        resources: What the run asks for.
        num_gpus: GPUs that the cluster has in all, whoever uses them.
        on_gpu: Whether the run takes GPUs.
        learners: False for an evaluation, which has none.
    """
    num_learners = resources.num_learners if learners else 0
    engine_gpus = resources.tensor_parallel_size if on_gpu else 0
    learner_gpus = 1 if on_gpu else 0
    most = min(resources.num_engines, num_learners) if engine_gpus == 1 else 0
    wanted = resources.num_engines + num_learners - int(num_gpus)
    shared = {None: min(max(wanted, 0), most), True: most, False: 0}[resources.shares]
    return Layout(
        resources.num_engines, num_learners, engine_gpus, learner_gpus, shared, resources.cuda_ipc
    )


def describe(layout: Layout, resources: ResourcesConfig, num_free: float) -> list[str]:
    """Say which GPUs are shared, with the split of their memory, and how many stay idle.

    Args:
        layout: From `lay_out`.
        resources: What the run asks for.
        num_free: GPUs that nobody else uses.
    """
    said = []
    if layout.num_shared:
        engine, learner = resources.engine_memory_share, learner_share(resources)
        split = f"{engine:.0%} for the engine, {learner:.0%} for the learner"
        if resources.engines_sleep:
            split += " while the engine sleeps"
        said.append(
            f"{layout.num_shared} GPU(s) shared by an engine and a learner each: of its memory "
            f"{split}, {SPARE_SHARE:.0%} spare (resources.engine_memory_share); weights travel "
            f"over {'CUDA IPC' if layout.weight_backend == 'ipc' else 'gloo'}"
        )
    if layout.engine_gpus and (idle := int(num_free) - layout.num_gpus) > 0:
        said.append(
            f"{idle} of {int(num_free)} free GPUs stay idle; a larger resources.num_engines or "
            "resources.num_learners would use them"
        )
    return said


def learner_shares(layout: Layout, resources: ResourcesConfig) -> list[float]:
    """Part of its GPU's memory that each learner may take, in (0, 1]; all where it shares none."""
    own = layout.num_learners - layout.num_shared
    return [learner_share(resources)] * layout.num_shared + [1.0] * own


def learner_share(resources: ResourcesConfig) -> float:
    """Part of a shared GPU's memory that the learner may take, in (0, 1)."""
    return 1 - SPARE_SHARE - (0.0 if resources.engines_sleep else resources.engine_memory_share)
