"""Loading packages."""

import gc

import pytest

from rollout.loading import begin_import, loading


def test_no_garbage_is_looked_for_meanwhile_and_afterwards_as_before():
    assert gc.isenabled()
    with pytest.raises(ImportError), loading():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()


def test_a_module_is_loaded_beside_and_what_keeps_it_from_that_is_raised_where_it_is_needed():
    assert begin_import("colorsys").result(60).rgb_to_hsv(0, 0, 0) == (0.0, 0.0, 0)
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        begin_import("no_such_module").result(60)
    assert gc.isenabled()
