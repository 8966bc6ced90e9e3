"""Which processes a check starts, and which of their figures count.

configuration -> Part: command, deadline, where its findings are -> the figures of its findings
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf.gpu_check import GpuCheckConfig

BFLOAT16 = ("model.dtype=bfloat16", "learner.zero_stage=1", "parity.num_sequences=16")
ON = {
    # One GPU for both, as on a machine that has no second one.
    "gpu": (
        "resources.use_gpu=true",
        "resources.share_gpus=true",
        "rollout.engine.enforce_eager=false",
        "learner.row_tokens=4096",
    ),
    "cpu": ("resources.use_gpu=false", "learner.row_tokens=1024"),
}
TRAINED = ("experiment=quickstart", "evaluation.before=false", "evaluation.after=false")
PROBE = (
    "import json, torch; (torch.zeros(1, device='cuda') + 1).item(); "
    "found = {'device': torch.cuda.get_device_name(), 'cuda': torch.version.cuda}; "
    "print(json.dumps({'torch': found}))"
)
"""Without it a torch that has no CUDA, or finds no GPU, would pass the parts on CPUs."""
TIMES = ("repetitions=3", "warm_ups=1")
ROOM = ("rollout.engine.kv_cache_gib=4.0", "rollout.engine.max_num_seqs=256",
        "scheduler.tickets_per_step=32")  # fmt: skip
"""For a second model on a GPU."""
SECONDS = {
    "torch": 90.0,
    "kernels": 120.0,
    "system": 240.0,
    "quickstart": 240.0,
    "sleep": 180.0,
    "learner": 120.0,
    "model_system": 240.0,
    "model_learner": 120.0,
}
"""For what hangs, and cut to what is left of all. The first part with an engine compiles all that
engines compile, and reads packages that no process has read yet."""
ON_CPUS = 3.0
"""Times as long a part may take there."""
FIGURES = {
    "gpu": "torch.device",
    "cuda": "torch.cuda",
    "device": "kernels.device",
    "attention_seconds": "kernels.attention.median_seconds",
    "attention_differences": "kernels.attention.largest_relative_difference",
    "varlen": "kernels.attention.varlen",
    "logprobs_seconds": "kernels.logprobs.median_seconds",
    "logprobs_peak_bytes": "kernels.logprobs.peak_bytes",
    "start_seconds": "startup.seconds.total",
    "rollout_tokens_per_second": "rollout.median_tokens_per_second.actor_path",
    "publish_seconds": "publish.median.seconds",
    "publish_bytes": "publish.bytes",
    "publish_logprob_difference": "publish.max_logprob_difference",
    "learner_tokens_per_second": "learner.short_prompts.tokens_per_second",
    "learner_utilisation": "learner.short_prompts.model_flops_utilisation",
    "learner_peak_bytes": "learner.short_prompts.peak_bytes",
    "num_steps": "num_steps",
    "generate_tokens_per_second": "generate_tokens_per_second",
    "parity_logprob_difference": "parity_max_logprob_difference",
    "seconds": "seconds",
}
"""Name of a figure to its place in the findings of a part."""
VERDICTS = ("kernels.attention.agrees", "kernels.logprobs.agrees", "completed")
"""Places whose value must be true where there is one."""


@dataclass(frozen=True, slots=True)
class Part:
    """A process of a check.

    Example:
        Part(name="kernels", command=("python", "-m", "launch.bench", "kernels"), seconds=60.0,
             summary=None)
    """

    name: str
    command: tuple[str, ...]
    seconds: float
    """Until its deadline."""
    summary: Path | None
    """JSON file that it writes; None where its stdout is one."""


def parts_of(config: GpuCheckConfig, folder: Path) -> list[Part]:
    """Make the parts that a check asks for, in their order; on a GPU "torch" comes first.

    Args:
        config: Of the check.
        folder: For what they write.
    """
    shared = (*BFLOAT16, *ON[config.device], *config.overrides)
    model = Path(config.model).absolute() if config.model is not None else None
    larger = ROOM if config.device == "gpu" else ()
    of_model = ("experiment=smollm2_arithmetic", f"model.path={model}", *larger)
    arguments: dict[str, tuple[str, ...]] = {
        "kernels": ("kernels", *(of_model if model else ())),
        "system": ("startup", "rollout", "publish"),
        "learner": ("layouts",),
        "quickstart": (*TRAINED, f"loop.num_steps={config.num_steps}"),
        "sleep": (*TRAINED, "loop.num_steps=3", "loop.max_staleness=0",
                  "resources.engines_sleep=true"),
        "model_system": ("startup", "rollout", "publish", *of_model),
        "model_learner": ("layouts", *of_model),
    }  # fmt: skip
    made = []
    if config.device == "gpu":
        made.append(Part("torch", (sys.executable, "-c", PROBE), SECONDS["torch"], None))
    for name, given in arguments.items():
        if name not in config.parts or (name.startswith("model_") and model is None):
            continue
        trains, run = given[: len(TRAINED)] == TRAINED, folder / name
        program = ("launch.train", f"run_dir={run}") if trains else ("launch.bench",)
        timed = () if trains else TIMES
        command = (sys.executable, "-m", *program, *given, *timed, *shared)
        summary = run / "summary.json" if trains else None
        seconds = SECONDS[name] * (1.0 if config.device == "gpu" else ON_CPUS)
        made.append(Part(name, command, seconds, summary))
    return made


def at(found: Mapping[str, Any], place: str) -> Any:
    """Return what is at a place such as "a.b", None where nothing is."""
    value: Any = found
    for key in place.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def figures_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """Pick the figures that a part's findings have."""
    picked = {name: at(found, place) for name, place in FIGURES.items()}
    return {name: value for name, value in picked.items() if value is not None}


def fault_of(found: Mapping[str, Any]) -> str | None:
    """Say which verdict of the findings is false, None where none is."""
    return next(
        (f"{place} is false" for place in VERDICTS if at(found, place) is False),
        None,
    )
