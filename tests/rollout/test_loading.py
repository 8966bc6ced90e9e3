"""Loading packages."""

import gc
import importlib
import sys

import pytest

from rollout.loading import UNUSED, begin_loading, loading, without_unused


def test_no_garbage_is_looked_for_meanwhile_and_afterwards_as_before():
    assert gc.isenabled()
    with pytest.raises(ImportError), loading():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()


def test_what_is_loaded_beside_and_what_keeps_it_from_that_come_where_it_is_needed():
    def load():
        assert not gc.isenabled()
        import colorsys

        return colorsys

    def fail():
        import no_such_module

        return no_such_module

    assert begin_loading(load).result(60).rgb_to_hsv(0, 0, 0) == (0.0, 0.0, 0)
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        begin_loading(fail).result(60)
    assert gc.isenabled()


@pytest.mark.parametrize("name", UNUSED)
def test_what_is_imported_meanwhile_finds_none_of_the_unused_and_what_is_imported_later_does(
    name, monkeypatch, tmp_path
):
    (tmp_path / f"{name}.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)
    with without_unused(), pytest.raises(ImportError):
        importlib.import_module(name)
    there = importlib.import_module(name)
    with without_unused():
        assert importlib.import_module(name) is there
    assert sys.modules[name] is there
