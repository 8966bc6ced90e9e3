"""Run by test_deepspeed_state.py: `python state_program.py FOLDER`.

Reads FOLDER/task.pt and starts the ranks of one phase after the other as children of its own, so
that what takes time is imported once. Every phase has fresh processes: what they know of earlier
ones is in files. Leaves a folder of results per run; the test compares them.
"""

import sys
from pathlib import Path

import deepspeed
import torch

from learner import deepspeed_engine
from learner.batch import collate
from learner.config import LearnerConfig
from learner.deepspeed_engine import DeepSpeedEngine
from learner.deepspeed_settings import deepspeed_settings
from learner.lora import LoraConfig
from learner.loss import Loss
from learner.numerics import Numerics
from learner.objectives.clipped_surrogate import ClippedSurrogate
from learner.optimizers import Adafactor, AdamW, Sgd
from learner.state_files import write_share
from learner.update import Updater
from tests.learner.ranks import import_all, on_ranks
from tests.learner.test_deepspeed_state import CROSSED, OTHERS, RUNS, Run

OPTIMIZERS = {
    "adamw": AdamW(eps=1e-4, weight_decay=0.01),
    "sgd": Sgd(momentum=0.9),
    "adafactor": Adafactor(weight_decay=0.01),
}


def shared_out(config, dtype):
    """Our settings, but ZeRO-3 shares out even weights as small as the test model's in float32."""
    settings = deepspeed_settings(config, dtype)
    if dtype == "float32":
        settings["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    return settings


def engine_of(run: Run, task, *, seed: int) -> DeepSpeedEngine:
    """A policy that has not been trained yet; the seed decides its adapters."""
    torch.manual_seed(seed)
    more = {"zero_optimization": {"round_robin_gradients": True}} if run.round_robin else {}
    config = LearnerConfig(
        zero_stage=run.stage,
        lr=1e-2,
        optimizer=OPTIMIZERS[run.optimizer],
        warmup_steps=3,
        lora=LoraConfig(rank=run.lora_rank),
        deepspeed=more,
    )
    return DeepSpeedEngine(config, task["models"][run.tied], Numerics(run.dtype, 0.9))


def train(engine: DeepSpeedEngine, task) -> list[float]:
    """Take two steps; each rank has its part of the rows, and as many as the others."""
    rows = list(task["rows"])
    rows += [collate([])] * (-len(rows) % engine.num_ranks)
    mine = rows[engine.rank :: engine.num_ranks]
    updater = Updater(engine, Loss(ClippedSurrogate()))
    return [updater.step(mine).outcome.lr for _ in range(2)]


def moments(engine: DeepSpeedEngine, run: Run):
    """What DeepSpeed itself says that Adam keeps of a parameter, whole."""
    # It does not follow parameters that lie in turns.
    if run.optimizer != "adamw" or run.round_robin or not engine.num_applied_steps:
        return {}
    return {
        name: engine.optimizer_state(parameter, "exp_avg").detach().clone()
        for name, parameter in engine.model.named_parameters()
        if parameter.requires_grad
    }


def seen(engine: DeepSpeedEngine, run: Run):
    """What others see of a policy: its weights, its moments, the next random number."""
    return {
        "weights": {name: weight.clone() for name, weight in engine.weights.full()},
        "adapters": engine.weights.adapter_tensors(),
        "moments": moments(engine, run),
    }


def leave(folder: Path, rank: int, what, copied) -> None:
    """Write a state, and what was seen."""
    folder.mkdir(exist_ok=True)
    write_share(folder, rank, *copied)
    torch.save(what, folder / f"seen{rank}.pt")


def save(folder: Path, task, run: Run) -> None:
    """Train, copy the state, train on, and only then write what was copied."""
    engine = engine_of(run, task, seed=1)
    if run.steps:
        train(engine, task)
    copied, before = engine.state.copy(skipped_in_a_row=2), seen(engine, run)
    before["random"] = torch.rand(1)
    before["lrs"] = train(engine, task)
    leave(folder / f"{run.name}-saved", engine.rank, before, copied)
    leave(folder / f"{run.name}-after", engine.rank, seen(engine, run), engine.state.copy())


def resume(folder: Path, task, run: Run) -> None:
    """Go on from the copy in another process, as if it was never interrupted."""
    engine = engine_of(run, task, seed=2)
    source = folder / f"{run.name}-saved"
    assert engine.state.obstacle(source) is None
    loaded = engine.state.load(source)
    copied, now = engine.state.copy(loaded.skipped_in_a_row), seen(engine, run)
    now["random"] = torch.rand(1)
    now["lrs"] = train(engine, task)
    leave(folder / f"{run.name}-loaded", engine.rank, now, copied)
    leave(folder / f"{run.name}-resumed", engine.rank, seen(engine, run), engine.state.copy())


def cross(folder: Path, task, source: str, run: Run) -> None:
    """Load what others wrote, after having trained, and write it again."""
    engine = engine_of(run, task, seed=3)
    train(engine, task)
    path = folder / f"{source}-saved"
    assert engine.state.obstacle(path) is None
    loaded = engine.state.load(path)
    copied = engine.state.copy(loaded.skipped_in_a_row)
    leave(folder / f"{source}-{run.name}", engine.rank, seen(engine, run), copied)


def refuse(folder: Path, task) -> None:
    """Ask policies of other kinds what keeps them from loading, which changes none of them."""
    found = {}
    for name, (source, run) in OTHERS.items():
        engine = engine_of(run, task, seed=3)
        train(engine, task)
        before, tensors = engine.state.copy()
        found[name] = engine.state.obstacle(folder / f"{source}-saved")
        after, tensors_after = engine.state.copy()
        assert before == after
        assert tensors.keys() == tensors_after.keys()
        assert all(torch.equal(tensors[key], tensors_after[key]) for key in tensors)
    torch.save(found, folder / "refused.pt")


def all_of(work, folder: Path, task, runs) -> None:
    """Do several things with the same ranks."""
    for args in runs:
        work(folder, task, *args)


def main(folder: Path) -> None:
    """Go through all phases."""
    deepspeed.ops.__compatible_ops__ = {}
    deepspeed_engine.deepspeed_settings = shared_out
    task = torch.load(folder / "task.pt", weights_only=False)
    import_all(task["models"][False])
    for work in (save, resume):
        for num_ranks in (1, 2):
            runs = [(run,) for run in RUNS if run.num_ranks == num_ranks]
            on_ranks(num_ranks, all_of, work, folder, task, runs)
    for num_ranks in (1, 3):
        runs = [(source.name, run) for source, run in CROSSED if run.num_ranks == num_ranks]
        on_ranks(num_ranks, all_of, cross, folder, task, runs)
    on_ranks(1, refuse, folder, task)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
