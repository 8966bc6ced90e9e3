"""What training goes on from: the same to the bit, in every ZeRO stage and on any number of ranks.

One program starts all ranks of all phases, since importing is what takes time.
"""

from dataclasses import dataclass, replace

import pytest
import torch

from learner.state_description import LearnerState
from learner.state_files import STATE, WEIGHTS, opened
from tests.learner.ranks import run_program

pytestmark = pytest.mark.system


@dataclass(frozen=True)
class Run:
    """What is trained, on how many ranks and in which stage."""

    num_ranks: int
    stage: int
    dtype: str = "float32"
    optimizer: str = "adamw"
    lora_rank: int = 0
    tied: bool = False
    round_robin: bool = False
    steps: bool = True
    """Whether it has been trained before it is saved."""

    @property
    def name(self):
        adapters = f"lora{self.lora_rank}" if self.lora_rank else "full"
        turns = "turns" if self.round_robin else "joined"
        when = "later" if self.steps else "first"
        what = f"{self.num_ranks}-{self.stage}-{self.dtype}-{self.optimizer}"
        return f"{what}-{adapters}-{self.tied}-{turns}-{when}"


RUNS = [
    Run(1, 0),
    Run(1, 0, optimizer="adafactor"),
    Run(1, 2, "bfloat16", tied=True),
    Run(1, 3, "bfloat16", lora_rank=4),
    Run(2, 0),
    Run(2, 0, lora_rank=4),
    Run(2, 1, "bfloat16"),
    Run(2, 2),
    Run(2, 2, optimizer="sgd"),
    Run(2, 2, lora_rank=4, steps=False),
    Run(2, 2, round_robin=True),
    Run(2, 3),
    Run(2, 3, "bfloat16"),
]
EVERYWHERE, THREE, TURNS, FIRST = RUNS[7], RUNS[11], RUNS[10], RUNS[9]
CROSSED = [
    (RUNS[4], Run(3, 3)),
    (EVERYWHERE, Run(3, 3)),
    (RUNS[12], Run(3, 2, "bfloat16")),
    (EVERYWHERE, Run(1, 0)),
    (THREE, Run(1, 2)),
    (TURNS, Run(1, 0)),
    (FIRST, Run(1, 0, lora_rank=4)),
]
"""What was saved, and who loads it."""
OTHERS = {
    "optimizer": (EVERYWHERE.name, Run(1, 2, optimizer="sgd")),
    "adapters": (FIRST.name, Run(1, 2, lora_rank=2)),
    "other weights": (FIRST.name, Run(1, 3, lora_rank=4, tied=True)),
    "precision": (EVERYWHERE.name, Run(1, 2, "bfloat16")),
    "model": (EVERYWHERE.name, Run(1, 0, tied=True)),
    "nothing": ("nowhere", Run(1, 0)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model_paths, pack, batch):
    """Where state_program.py has left everything."""
    folder = tmp_path_factory.mktemp("states")
    [rows] = pack(*batch, row_tokens=64)
    models = {tied: str(path) for tied, path in model_paths.items()}
    torch.save({"rows": rows, "models": models}, folder / "task.pt")
    run_program("state_program.py", folder)
    return folder


def read(path):
    """The description, and every tensor whole as bytes."""
    state = LearnerState.read(path)
    tensors = {}
    with opened(path, state.num_ranks) as files:
        files.check(state)
        for name, kept in state.parameters.items():
            layouts = {WEIGHTS: kept.weights}
            layouts |= {STATE + key: layout for key, layout in kept.tensors.items()}
            for what, layout in layouts.items():
                flat = files.read(what, name, 0, torch.Size(layout.shape).numel())
                tensors[what, name] = flat.view(layout.shape)
    return state, tensors


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype
        assert torch.equal(
            tensor.flatten().view(torch.uint8), theirs[name].flatten().view(torch.uint8)
        )


def seen(path, rank=0):
    return torch.load(path / f"seen{rank}.pt")


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_who_goes_on_from_a_copy_gets_where_nobody_stopped(folder, run):
    copied, tensors = read(folder / f"{run.name}-saved")
    again, tensors_again = read(folder / f"{run.name}-loaded")
    assert copied == again
    assert_same(tensors, tensors_again)
    assert copied.applied_steps == (2 if run.steps else 0) and copied.skipped_in_a_row == 2
    after, tensors_after = read(folder / f"{run.name}-after")
    resumed, tensors_resumed = read(folder / f"{run.name}-resumed")
    assert after == resumed
    assert_same(tensors_after, tensors_resumed)
    for rank in range(run.num_ranks):
        for there, here in (("saved", "loaded"), ("after", "resumed")):
            before, now = (seen(folder / f"{run.name}-{which}", rank) for which in (there, here))
            for what in ("weights", "adapters", "moments"):
                assert_same(before[what], now[what])
            assert before.get("random") == now.get("random")
            assert before.get("lrs") == now.get("lrs")
    name = next(iter(tensors))
    assert not torch.equal(tensors[name], tensors_after[name])


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_what_is_written_is_what_deepspeed_had(folder, run):
    """Before the steps that came between copying and writing."""
    path = folder / f"{run.name}-saved"
    state, tensors = read(path)
    found = seen(path)
    for name, weight in (found["adapters"] or found["weights"]).items():
        assert torch.equal(tensors[WEIGHTS, name].to(weight.dtype), weight)
    for name, moment in found["moments"].items():
        assert torch.equal(tensors[STATE + "exp_avg", name], moment.float())
        assert state.parameters[name].numbers["step"].value == 2
    kept = {what.removeprefix(STATE) for what, _ in tensors} - {WEIGHTS}
    keys = {
        "adamw": {"exp_avg", "exp_avg_sq"},
        "sgd": {"momentum_buffer"},
        "adafactor": {"row_var", "col_var", "variance"},
    }
    assert kept == (keys[run.optimizer] if run.steps else set())


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_ranks_share_the_writing(folder, run):
    sizes = [path.stat().st_size for path in (folder / f"{run.name}-saved").glob("*.safetensors")]
    assert len(sizes) == run.num_ranks
    assert max(sizes) < 1.15 * sum(sizes) / run.num_ranks


@pytest.mark.parametrize(("source", "run"), CROSSED)
def test_any_number_of_ranks_in_any_stage_reads_what_others_wrote(folder, source, run):
    saved, tensors = read(folder / f"{source.name}-saved")
    path = folder / f"{source.name}-{run.name}"
    again, tensors_again = read(path)
    assert replace(again, num_ranks=source.num_ranks) == saved
    assert_same(tensors, tensors_again)
    for rank in range(run.num_ranks):
        before, now = seen(folder / f"{source.name}-saved"), seen(path, rank)
        assert_same(before["weights"], now["weights"])


def test_what_does_not_fit_is_named_with_both_values(folder):
    found = torch.load(folder / "refused.pt")
    fit = f"the learner's state in {folder}/{{}}-saved does not fit: "
    assert found.pop("other weights").startswith(
        fit.format(FIRST.name) + "the checksum of the weights in model.path was "
    )
    assert found.pop("nothing").startswith(f"{folder}/nowhere-saved/learner.json is no description")
    assert found == {
        "optimizer": fit.format(EVERYWHERE.name)
        + "learner.optimizer was torch.optim.adamw.AdamW and is torch.optim.sgd.SGD",
        "adapters": fit.format(FIRST.name) + "learner.lora.rank was 4 and is 2",
        "precision": fit.format(EVERYWHERE.name) + "model.dtype was float32 and is bfloat16",
        "model": fit.format(EVERYWHERE.name)
        + "lm_head.weight was float32 [261, 64] and is not trained",
    }
