"""Range checks of the learner's settings."""

import pytest

from learner.config import LearnerConfig


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lr", -1.0),
        ("lr", float("nan")),
        ("zero_stage", 4),
        ("betas", [0.9]),
        ("betas", [0.9, 1.0]),
        ("row_tokens", 0),
        ("weight_decay", -0.1),
        ("max_grad_norm", 0.0),
        ("update_deadline_seconds", 0.0),
    ],
)
def test_a_value_outside_its_range_is_refused_by_name(key, value):
    with pytest.raises(ValueError, match=rf"^learner\.{key} .*got ") as error:
        LearnerConfig(**{key: value})
    assert str(error.value).endswith(f"got {value!r}")
