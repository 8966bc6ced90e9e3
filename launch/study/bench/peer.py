"""Our training beside that of another library, TRL's GRPOTrainer, on the same work and cores.

    plan -> grpo, cost_aware: launch.train -----+
            trl: launch.study.bench.peer_trl ---+-> policies -> one evaluation -> figures, ratios

The sides run one after the other, each in processes of its own:

    grpo          plain GRPO by our system, matched to what TRL does (`peer_settings`)
    cost_aware    the recipe that was asked for, the quickstart's for none
    trl           plain GRPO by TRL

All is done on CPU cores. TRL generates with transformers: its vLLM mode "colocate" starts on CPUs
but fails when it is to take new weights, of which the engine there has dropped the parameters, and
"server" needs NCCL. Its continuous batching is far slower there than its plain generation.

What differs by design stays so: ours generates a batch ahead where `loop.max_staleness` says so,
trains on packed rows, checks parity, scores in processes of their own and writes a run folder.

TRL is no dependency: `make oracles` puts it beside the project.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from conf.schema import EvaluateConfig, RunConfig
from conf.studies import BenchConfig
from launch.cli.refusals import RunError, UserError
from launch.program import build, compose_run, prepare_run_dir
from launch.record.evaluation import Evaluation
from launch.record.outcomes import changes
from launch.record.run_folder import read_summary
from launch.record.statistics import Estimate
from launch.run.inputs import check_environment, load_sets
from launch.run.model_folder import load_tokenizer, resolve_model
from launch.study.bench.peer_settings import PLAIN, require_matched, settings
from launch.study.bench.peer_trl import FIGURES
from launch.study.bench.timing import load_average
from launch.study.comparison.plan import NO_CHECKPOINTS
from rollout.own_code import PROJECT

INSTALLED = PROJECT / ".oracles"
OURS = ("grpo", "cost_aware")
THEIRS = "trl"
DEADLINE_SECONDS = 4 * 3600.0
"""Longest time of one side."""
SAME = (
    *NO_CHECKPOINTS,
    "resources.use_gpu=false",
    "evaluation.before=false",
    "evaluation.after=false",
    "evaluation.every=0",
    "loop.save_every=0",
    "loop.save_final=true",
)
"""Overrides of every side: it does nothing but train and save its policy."""
BENCH_KEYS = {each.name for each in fields(BenchConfig)} - {each.name for each in fields(RunConfig)}
"""Keys that say what is measured, of which a run knows nothing."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What one side took.

    Example: Figures(num_steps=10, startup_seconds=21.0, loop_seconds=25.0, generate_seconds=20.0,
    generated_tokens=100_000, trained_tokens=160_000)
    """

    num_steps: int
    startup_seconds: float
    """From the start of its first process to that of its first step."""
    loop_seconds: float
    """From there to the end of the last step."""
    generate_seconds: float
    """Of these, seconds in which something was generated."""
    generated_tokens: int
    """Of responses."""
    trained_tokens: int
    """Of responses that were trained on, each with its prompt."""

    def derived(self) -> dict[str, float]:
        """Return these figures and their quotients."""
        return asdict(self) | {
            "seconds_per_step": self.loop_seconds / self.num_steps,
            "tokens_per_second": self.generated_tokens / self.loop_seconds,
            "generate_tokens_per_second": self.generated_tokens / self.generate_seconds,
        }


COMPARED = (
    "tokens_per_second",
    "generate_tokens_per_second",
    "seconds_per_step",
    "generated_tokens",
    "trained_tokens",
    "startup_seconds",
)
"""Figures of which a ratio is taken."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run, checked."""

    composed: Mapping[str, DictConfig]
    """By side the configuration of its run."""
    config: RunConfig
    """The one that all of plain GRPO share."""
    folder: Path
    """Of all runs."""


def plan(overrides: Sequence[str], folder: Path) -> Plan:
    """Compose the sides and refuse what cannot be compared, before anything starts.

    Args:
        overrides: Those of `launch.bench`.
        folder: Where the runs go.

    Raises:
        UserError: If TRL is not there, or the run is not one that it is asked to do likewise.
    """
    if not (INSTALLED / "trl").is_dir():
        raise UserError(
            "peer needs TRL beside the project: install it with `make oracles`, "
            f"got no {str(INSTALLED / 'trl')!r}"
        )
    own = run_overrides(overrides)
    shared = [each for each in own if _key(each) != "recipe"]
    plain, ours = compose_run([*shared, *PLAIN, *SAME]), compose_run([*own, *SAME])
    composed = {"grpo": plain, "cost_aware": ours, THEIRS: plain.copy()}
    for side, each in composed.items():
        each.run_dir = str((folder / side).resolve())
        each.model.path = resolve_model(each.model.path)
    config: RunConfig = build(plain.copy())
    require_matched(config)
    return Plan(composed, config, folder.resolve())


def run_overrides(overrides: Sequence[str]) -> list[str]:
    """Return the overrides of `launch.bench` that are of its run, with the bench's experiment."""
    own = [each for each in overrides if _key(each) not in BENCH_KEYS]
    named = any(_key(each) == "experiment" for each in own)
    return own if named else ["experiment=quickstart", *own]


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0].split(".")[0]


def bench_peer(planned: Plan) -> dict[str, Any]:
    """Run all sides, TRL's between ours, and compare them.

    Returns:
        What was the same (`settings`, `cores`), by side its figures and the machine's load when it
        ended, and by side of ours the ratios to TRL's and the difference of pass@1 with half of its
        95% interval, paired over prompts.
    """
    config, folder = planned.config, planned.folder
    cores = config.resources.num_engines * config.rollout.engine.num_threads
    cores += config.resources.num_learners * config.learner.num_threads
    found: dict[str, Figures] = {}
    loads: dict[str, list[float]] = {}
    for side in ("grpo", THEIRS, "cost_aware"):
        found[side] = trained(planned, side, cores)
        loads[side] = load_average()
    policies = {side: str(folder / side / "policy") for side in found}
    scores = scored(config, {"start": config.model.path} | policies)
    return {
        "run_dir": str(folder),
        "cores": cores,
        "settings": settings(config),
        "start": pass_rate(scores["start"]),
        "sides": {
            side: each.derived() | pass_rate(scores[side]) | {"load_average": loads[side]}
            for side, each in found.items()
        },
        "over_trl": {side: compared(found, scores, side) for side in OURS},
    }


def trained(planned: Plan, side: str, cores: int) -> Figures:
    """Train a side in processes of its own, and return what it took.

    Raises:
        RunError: If it fails or takes too long.
    """
    source, out = write_config(planned, side), planned.folder / side
    if side != THEIRS:
        place = ["--config-path", str(source), "--config-name", "config"]
        run([sys.executable, "-m", "launch.train", *place], side)
        return figures_of_run(read_summary(out))
    out.mkdir()
    module = "launch.study.bench.peer_trl"
    run([sys.executable, "-m", module, str(source), str(out)], side, their_environment(cores))
    return Figures(**json.loads((out / FIGURES).read_text(encoding="utf-8")))


def write_config(planned: Plan, side: str) -> Path:
    """Write the configuration of a side into a folder of its own, and return that."""
    place = planned.folder / f"{side}-config"
    return prepare_run_dir(place, planned.composed[side], "train")


def their_environment(cores: int) -> dict[str, str]:
    """Return the environment of the process that sees TRL, with as many threads as cores."""
    seen = [str(PROJECT), str(INSTALLED), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(cores),
        # Threads that spin make it ten times slower where other work takes a core now and then.
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONPATH": os.pathsep.join(filter(None, seen)),
    }


def run(command: Sequence[str], side: str, environment: Mapping[str, str] | None = None) -> None:
    """Wait for a side's process.

    Raises:
        RunError: If it fails or takes too long.
    """
    print(f"peer: {side}", flush=True)
    try:
        status = subprocess.run(command, env=environment, timeout=DEADLINE_SECONDS).returncode
    except subprocess.TimeoutExpired as error:
        raise RunError(f"peer: {side} took longer than {DEADLINE_SECONDS:,.0f} s") from error
    if status:
        raise RunError(f"peer: {side} ended with exit status {status}; what it said is above")


def figures_of_run(summary: Mapping[str, Any]) -> Figures:
    """Return the figures of a run of ours from its `summary.json`."""
    seconds = summary["seconds"]
    return Figures(
        num_steps=summary["num_steps"],
        startup_seconds=seconds["startup"],
        loop_seconds=seconds["loop"],
        generate_seconds=seconds["generate"],
        generated_tokens=summary["generated_response_tokens"],
        trained_tokens=summary["trained_tokens"],
    )


def scored(config: RunConfig, policies: Mapping[str, str]) -> dict[str, Evaluation]:
    """Measure saved policies on the held-out prompts, all by the same engine settings.

    Args:
        config: Says how.
        policies: Folders by name.
    """
    from launch.run.cluster import cluster
    from launch.run.measuring import evaluate

    found = {}
    with cluster(config.resources):
        for name, path in policies.items():
            shared = {each.name: getattr(config, each.name) for each in fields(EvaluateConfig)}
            of_policy = EvaluateConfig(**shared | {"model": replace(config.model, path=path)})
            tokenizer = check_environment(
                of_policy, load_tokenizer(path, config.model.chat_template_kwargs)
            )
            found[name] = asyncio.run(evaluate(of_policy, load_sets(of_policy, tokenizer)))
    return found


def pass_rate(evaluation: Evaluation) -> dict[str, float]:
    """Return pass@1 on the held-out prompts, with half of its 95% interval over prompts."""
    sampled, greedy = evaluation.held_out()
    rates = {"pass_rate": sampled.pass_rate, "pass_rate_half_width": sampled.pass_rate_half_width}
    return rates if greedy is None else rates | {"greedy": greedy.pass_rate}


def compared(
    found: Mapping[str, Figures], scores: Mapping[str, Evaluation], side: str
) -> dict[str, float]:
    """Return a side of ours over TRL, figure by figure, and the difference of pass@1."""
    ours, theirs = found[side].derived(), found[THEIRS].derived()
    difference = pass_rate_difference(scores[side], scores[THEIRS])
    return {key: ours[key] / theirs[key] for key in COMPARED} | {
        "pass_rate_difference": difference.mean,
        "pass_rate_difference_half_width": difference.half_width,
    }


def pass_rate_difference(ours: Evaluation, theirs: Evaluation) -> Estimate:
    """Return pass@1 of ours less theirs, paired over the held-out prompts."""
    before, after = theirs.held_out_outcomes()[0], ours.held_out_outcomes()[0]
    return changes(before, after, ours.num_samples)["pass_rate"]
