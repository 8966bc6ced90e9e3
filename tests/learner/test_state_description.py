"""Which saved states fit a learner."""

from dataclasses import replace

import pytest

from learner.state_description import (
    Layout,
    LearnerState,
    Number,
    ParameterState,
    difference,
    disagreement,
)

MATRIX = Layout("float32", [4, 3])
ADAM = {"exp_avg": MATRIX}
STEP = {"step": Number(3.0, "float32")}


def state_of(**parameters):
    return LearnerState(1, "float32", 0, "torch.optim.adamw.AdamW", 3, 0, {}, [{}], parameters)


SAVED = state_of(a=ParameterState(MATRIX, ADAM, STEP), b=ParameterState(MATRIX, ADAM, STEP))


def test_counts_are_no_difference():
    mine = replace(
        SAVED,
        num_ranks=3,
        applied_steps=0,
        skipped_in_a_row=2,
        groups=[{"k": 2}],
        parameters={name: ParameterState(MATRIX, {}, {}) for name in "ab"},
    )
    assert difference(SAVED, mine) is None


@pytest.mark.parametrize(
    ("mine", "expected"),
    [
        (replace(SAVED, dtype="bfloat16"), "model.dtype was float32 and is bfloat16"),
        (replace(SAVED, lora_rank=8), "learner.lora.rank was 0 and is 8"),
        (
            replace(SAVED, frozen=7),
            "the checksum of the weights in model.path was 0 and is 7",
        ),
        (
            replace(SAVED, optimizer="torch.optim.sgd.SGD"),
            "learner.optimizer was torch.optim.adamw.AdamW and is torch.optim.sgd.SGD",
        ),
        (replace(SAVED, groups=[{}, {}]), "the number of its parameter groups was 1 and is 2"),
        (state_of(a=SAVED.parameters["a"]), "b was float32 [4, 3] and is not trained"),
        (
            state_of(**SAVED.parameters, c=SAVED.parameters["a"]),
            "c was not trained and is float32 [4, 3]",
        ),
        (
            state_of(a=ParameterState(Layout("float32", [3, 4]), ADAM, STEP)),
            "a was float32 [4, 3] and is float32 [3, 4]",
        ),
    ],
)
def test_differences_name_both_values(mine, expected):
    assert difference(SAVED, mine) == expected


def test_parameters_that_are_joined_have_the_same_kept_of_them():
    assert disagreement(SAVED, ["a", "b"]) is None
    rows = ParameterState(MATRIX, {"row_var": Layout("float32", [4, 1])}, STEP)
    found = disagreement(state_of(a=rows), ["a"])
    assert found == "learner.zero_stage must be 0, as it was: state row_var of a is float32 [4, 1]"
    for other in (
        ParameterState(MATRIX, ADAM, {"step": Number(2.0, "float32")}),
        ParameterState(MATRIX, {}, {}),
    ):
        found = disagreement(state_of(a=SAVED.parameters["a"], b=other), ["a", "b"])
        assert found.startswith("learner.zero_stage must be 0, as it was: the optimiser keeps ")
