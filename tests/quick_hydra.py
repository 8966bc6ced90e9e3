"""What hydra does over and over, done once: half of every composition and of what builds one.

What it composes and builds stays the same. Many tests do both, and the programs that they call.
"""

from typing import Any

import pytest
import yaml
from hydra._internal import defaults_list
from hydra._internal.instantiate import _instantiate2
from hydra.core.config_store import ConfigStore
from hydra.types import ConvertMode
from omegaconf import DictConfig, OmegaConf

_every_choice = defaults_list._create_interpolation_map
_loader_in_python = yaml.SafeLoader
_wrapped_again = _instantiate2.instantiate_node


def _choices_if_asked_for(overrides: Any, defaults: list[Any], self_added: bool) -> Any:
    """What names of files may refer to, which hydra gathers for every file it reads."""
    if any(each.is_interpolation() for each in defaults):
        return _every_choice(overrides, defaults, self_added)
    return None


def _the_same(store: ConfigStore, memo: dict[int, Any]) -> ConfigStore:
    """The store, whose schemas hydra would copy for every composition and again for every use."""
    return store


def _built_once(node: Any, *args: Any, **options: Any) -> Any:
    """A schema's object of its fields' objects, which hydra would take apart and build again."""
    if (
        options.get("convert") != ConvertMode.OBJECT
        or not isinstance(node, DictConfig)
        or node._is_none()
        or OmegaConf.get_type(node) is dict
        or _instantiate2._is_target(node)
    ):
        return _wrapped_again(node, *args, **options)
    fields = {key: _instantiate2.instantiate_node(each, **options) for key, each in node.items()}
    return OmegaConf.get_type(node)(**fields)


def quicken() -> None:
    """Do them once, in this process."""
    defaults_list._create_interpolation_map = _choices_if_asked_for
    ConfigStore.__deepcopy__ = _the_same
    # Some thirty files for every composition.
    yaml.SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    _instantiate2.instantiate_node = _built_once


def as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave hydra as it is for one test."""
    monkeypatch.setattr(defaults_list, "_create_interpolation_map", _every_choice)
    monkeypatch.delattr(ConfigStore, "__deepcopy__")
    monkeypatch.setattr(yaml, "SafeLoader", _loader_in_python)
    monkeypatch.setattr(_instantiate2, "instantiate_node", _wrapped_again)
