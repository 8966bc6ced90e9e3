"""Three things that hydra does over and over, done once: most of every composition.

What it composes stays the same. Many tests compose, and the programs that they call.
"""

import pickle
from typing import Any

import pytest
from hydra._internal import defaults_list
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

_every_choice = defaults_list._create_interpolation_map
_load = OmegaConf.load
_loaded: dict[str, bytes] = {}


def _choices_if_asked_for(overrides: Any, defaults: list[Any], self_added: bool) -> Any:
    """What names of files may refer to, which hydra gathers for every file it reads."""
    if any(each.is_interpolation() for each in defaults):
        return _every_choice(overrides, defaults, self_added)
    return None


def _the_same(store: ConfigStore, memo: dict[int, Any]) -> ConfigStore:
    """The store, whose schemas hydra would copy for every composition and again for every use."""
    return store


def _load_once(file: Any) -> Any:
    """What a text says, of which it takes a seventh of the time to make it anew from a pickle."""
    if not hasattr(file, "read"):
        return _load(file)
    text = file.read()
    if text not in _loaded:
        file.seek(0)
        _loaded[text] = pickle.dumps(_load(file))
    return pickle.loads(_loaded[text])


def quicken() -> None:
    """Do them once, in this process."""
    OmegaConf.load = staticmethod(_load_once)
    defaults_list._create_interpolation_map = _choices_if_asked_for
    ConfigStore.__deepcopy__ = _the_same


def as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave hydra as it is for one test."""
    monkeypatch.setattr(OmegaConf, "load", staticmethod(_load))
    monkeypatch.setattr(defaults_list, "_create_interpolation_map", _every_choice)
    monkeypatch.delattr(ConfigStore, "__deepcopy__")
