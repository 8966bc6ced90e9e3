"""How accelerators become engines and learners."""

import pytest

from launch.study.simulation.sizes import split


def test_accelerators_are_shared_out():
    assert split(1, 0.25, 1) == (1, 1, True)
    assert split(2, 0.25, 1) == (1, 1, False)
    assert split(9, 0.25, 4) == (1, 5, False)
    assert split(8, 0.25, 8) == (1, 8, True)
    with pytest.raises(ValueError, match="at least 8"):
        split(7, 0.25, 8)
