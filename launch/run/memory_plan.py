"""Whether a run fits its devices, said before anything is started; and what would fit if not.

memory.learner_need, engine_need <-> Device -> lines of the plan, or a refusal with a proposal
"""

from __future__ import annotations

import copy
import math
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from conf.schema import RunConfig
from launch.cli.refusals import UserError, refusing
from launch.run.machine import memory_bytes
from launch.run.memory import (
    GIB,
    Need,
    Shape,
    engine_need,
    learner_need,
    responses_at_once,
    size,
)
from launch.run.packing_memory import received_bytes
from learner.deepspeed_settings import check_device
from rollout.engines.versions import built_for_cpus

_MAY_RUN_OUT = "may run out: with the estimated activations it does not fit"
_UNTOLD = (
    "not checked: nvidia-smi does not say how much a GPU has, as for part of one (MIG); set "
    "resources.device_memory_gib"
)
_ASK = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]


@dataclass(frozen=True, slots=True)
class Device:
    """What a run's processes have to share.

    Example: Device(bytes=80 * GIB, on_gpu=True) is one GPU for each learner and engine worker.
    """

    bytes: float
    """Memory of one GPU; of a machine without, all of it, which all processes share."""
    on_gpu: bool


def device_of(config: RunConfig) -> Device | None:
    """Find out what the run's devices have; None where that is not known here.

    `resources.device_memory_gib` says it for devices elsewhere. Of a cluster that is joined,
    nothing is known before.
    """
    resources = config.resources
    given = resources.device_memory_gib
    found = None if _takes_no_gpu(config) or _elsewhere(config) else _gpu_bytes()
    if given is not None:
        return Device(given * GIB, resources.use_gpu is True or found is not None)
    if _elsewhere(config) or (resources.use_gpu and found is None):
        return None
    if found is not None and math.isnan(found):
        return None
    return Device(memory_bytes(), False) if found is None else Device(found, True)


def _takes_no_gpu(config: RunConfig) -> bool:
    """Whether the run leaves GPUs alone, whatever there is."""
    asked = config.resources.use_gpu
    return built_for_cpus() if asked is None else not asked


def _elsewhere(config: RunConfig) -> bool:
    """Whether the run joins a cluster, of whose devices nothing is known here."""
    return bool(config.resources.address or os.environ.get("RAY_ADDRESS"))


def _gpu_bytes() -> float | None:
    """Memory of the smallest GPU here; None without one, and NaN where it is not told."""
    try:
        asked = subprocess.run(_ASK, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    told = asked.stdout.splitlines()
    if not told:
        return None
    try:
        least = min(float(line) for line in told) * 2**20
    except ValueError:
        return math.nan
    # It tells of whole GPUs only.
    return math.nan if "MIG-" in os.environ.get("CUDA_VISIBLE_DEVICES", "") else least


def plan_memory(config: RunConfig) -> dict[str, str]:
    """Return the lines about memory for the model in `model.path` on what there is.

    Raises:
        UserError: If it does not fit, with what would; and for what a learner on CPUs cannot do.
    """
    device = device_of(config)
    if device is not None and not device.on_gpu and not _elsewhere(config):
        with refusing():
            check_device(config.learner, config.model.dtype, on_gpu=False)
    lines = memory_lines(config, Shape.of_folder(config.model.path), device)
    if lines and device is None and not _elsewhere(config):
        lines["memory"] = _UNTOLD
    return lines


def memory_lines(config: RunConfig, shape: Shape | None, device: Device | None) -> dict[str, str]:
    """Return the plan's lines about memory.

    Args:
        config: The run.
        shape: The model's; None where its config.json has other names, and nothing is said.
        device: What there is; None where it is not known, and only needs are said.

    Raises:
        UserError: If it does not fit, with what would.
    """
    if shape is None:
        return {}
    on_gpu = device.on_gpu if device is not None else not _takes_no_gpu(config)
    learner, engine = needs(config, shape, device, on_gpu=on_gpu)
    if device is not None and (missing := shortage(config, shape, device)) is not None:
        raise _refusal(config, shape, device, missing)
    of = f" of {size(device.bytes)}" if device is not None and on_gpu else ""
    lines = {
        "memory of a learner": f"{learner.text()}{of}",
        "memory of an engine": f"{engine.text()}{of}",
    }
    if engine.parts["KV cache"]:
        lines["memory of an engine"] += (
            f"; its KV cache has room for {responses_at_once(config, shape, engine):,} prompts "
            f"with full-length responses (max_num_seqs={config.rollout.engine.max_num_seqs})"
        )
    if device is None:
        return lines
    if on_gpu and config.resources.engines_sleep:
        learning, generating = turns(learner, engine)
        lines["memory of a shared GPU"] = (
            f"{size(learning)} while learners work and engines sleep, {size(generating)} while "
            f"engines generate{of}"
        )
        if max(learning, generating) > device.bytes:
            lines["memory"] = _MAY_RUN_OUT
        return lines
    total = _all(config, learner.total, engine.total)
    if not on_gpu:
        lines["memory of the machine"] = f"{size(total)} of {size(device.bytes)}"
    # Beside what vLLM takes, which has room for a step but not for weights that come.
    receiving = received_bytes(config, shape, on_gpu=on_gpu) - engine.parts["forward pass"]
    if (max(learner.total, engine.total + max(0, receiving)) if on_gpu else total) > device.bytes:
        lines["memory"] = _MAY_RUN_OUT
    return lines


def turns(learner: Need, engine: Need) -> tuple[float, float]:
    """Return the bytes of a GPU while a learner works and its engine sleeps, and the other way.

    An engine that sleeps leaves what its process takes; a learner keeps what it holds.
    """
    return learner.total + engine.parts["process"], learner.held + engine.total


def needs(
    config: RunConfig, shape: Shape, device: Device | None, *, on_gpu: bool
) -> tuple[Need, Need]:
    """Return what one learner and one worker of an engine need."""
    room = 0.0
    if device is not None:
        shares, share = config.resources.shares, config.resources.engine_memory_share
        room = device.bytes * (share if shares else config.rollout.engine.gpu_memory_utilization)
    return (
        learner_need(config, shape, on_gpu=on_gpu),
        engine_need(config, shape, on_gpu=on_gpu, room=room),
    )


def shortage(config: RunConfig, shape: Shape, device: Device) -> str | None:
    """Say what does not fit whatever the estimates are worth; None if nothing."""
    learner, engine = needs(config, shape, device, on_gpu=device.on_gpu)
    if not device.on_gpu:
        if _all(config, learner.counted, engine.counted) > device.bytes:
            return f"engines need {engine.text()} each and learners {learner.text()} each"
        return None
    if learner.counted > device.bytes:
        return f"a learner needs {learner.text()}"
    if config.resources.engines_sleep and learner.counted + engine.counted > device.bytes:
        return f"beside an engine of {engine.text()} a learner holds {size(learner.counted)}"
    if engine.counted > device.bytes or responses_at_once(config, shape, engine) < 1:
        return f"an engine worker needs {engine.text()}, with room for one full-length response"
    return None


def _all(config: RunConfig, learner: float, engine: float) -> float:
    """Bytes of all processes, from those of one learner and one engine's worker."""
    resources = config.resources
    workers = resources.num_engines * resources.tensor_parallel_size
    return resources.num_learners * learner + workers * engine


def _refusal(config: RunConfig, shape: Shape, device: Device, missing: str) -> UserError:
    proposal = "take a smaller model, more or larger devices, or train adapters (learner.lora.rank)"
    for text, changed in _changes(config):
        if shortage(changed, shape, device) is None:
            proposal = f"{text} would fit"
            break
    what = "a GPU" if device.on_gpu else "the machine"
    return UserError(
        f"memory: {missing}, and {what} has {size(device.bytes)} (if not, set "
        f"resources.device_memory_gib); {proposal}"
    )


def _changes(config: RunConfig) -> Iterator[tuple[str, RunConfig]]:
    """Yield changes of a run that need less and less, each on top of those before it."""
    changed, told = copy.deepcopy(config), []
    learner, resources, engine = changed.learner, changed.resources, changed.rollout.engine
    if resources.engines_sleep and resources.engine_memory_share > 0.2:
        resources.engine_memory_share = 0.2
        told.append("resources.engine_memory_share=0.2")
        yield " ".join(told), changed
    if learner.chunk_tokens is None and not learner.gradient_checkpointing:
        learner.gradient_checkpointing = True
        told.append("learner.gradient_checkpointing=true")
        yield " ".join(told), changed
    for stage in (2, 3):
        if (
            learner.zero_stage < stage
            and resources.num_learners > 1
            and learner.chunk_tokens is None
        ):
            learner.zero_stage = stage
            told = [one for one in told if "zero_stage" not in one]
            told.append(f"learner.zero_stage={stage}")
            yield " ".join(told), changed
    if learner.row_tokens > changed.model.max_model_len:
        learner.row_tokens = changed.model.max_model_len
        told.append(f"learner.row_tokens={learner.row_tokens}")
        yield " ".join(told), changed
    if engine.kv_cache_gib is not None and engine.kv_cache_gib > 1:
        engine.kv_cache_gib = 1.0
        told.append("rollout.engine.kv_cache_gib=1")
        yield " ".join(told), changed
    for workers in () if resources.shares else (2, 4, 8):
        if workers > resources.tensor_parallel_size:
            resources.tensor_parallel_size = workers
            told = [one for one in told if "tensor_parallel" not in one]
            told.append(f"resources.tensor_parallel_size={workers}")
            yield " ".join(told), changed
    if learner.zero_stage > 0 and not learner.offloads("offload_optimizer"):
        section = learner.deepspeed.setdefault("zero_optimization", {})
        section["offload_optimizer"] = {"device": "cpu"}
        told.append("+learner.deepspeed.zero_optimization.offload_optimizer.device=cpu")
        yield " ".join(told), changed
