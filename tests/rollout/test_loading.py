"""Loading packages."""

import gc
import sys

import pytest

from rollout.loading import begin_loading, loading, without_sklearn


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


def test_what_is_imported_meanwhile_finds_no_scikit_learn_and_what_is_imported_later_does(
    monkeypatch, tmp_path
):
    (tmp_path / "sklearn.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sklearn", raising=False)
    with without_sklearn(), pytest.raises(ImportError):
        import sklearn
    import sklearn

    there = sys.modules["sklearn"]
    with without_sklearn():
        import sklearn
    assert sys.modules["sklearn"] is sklearn is there
