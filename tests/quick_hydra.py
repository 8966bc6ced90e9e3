"""Two things that hydra does over and over, done once: a third of every composition.

What it composes stays the same. Many tests compose, and the programs that they call.
"""

from typing import Any

import pytest
from hydra._internal import defaults_list
from hydra.core.config_store import ConfigStore

_every_choice = defaults_list._create_interpolation_map


def _choices_if_asked_for(overrides: Any, defaults: list[Any], self_added: bool) -> Any:
    """What names of files may refer to, which hydra gathers for every file it reads."""
    if any(each.is_interpolation() for each in defaults):
        return _every_choice(overrides, defaults, self_added)
    return None


def _the_same(store: ConfigStore, memo: dict[int, Any]) -> ConfigStore:
    """The store, whose schemas hydra would copy for every composition and again for every use."""
    return store


def quicken() -> None:
    """Do them once, in this process."""
    defaults_list._create_interpolation_map = _choices_if_asked_for
    ConfigStore.__deepcopy__ = _the_same


def as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave hydra as it is for one test."""
    monkeypatch.setattr(defaults_list, "_create_interpolation_map", _every_choice)
    monkeypatch.delattr(ConfigStore, "__deepcopy__")
