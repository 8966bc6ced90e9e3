"""What hydra does over and over, done once or in the shortest way: most of every composition.

What it composes stays the same. Many tests compose, and the programs that they call.
"""

import copy
import pickle
from collections import defaultdict
from functools import cache
from typing import Any

import pytest
from hydra._internal import defaults_list
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser import overrides_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from omegaconf import OmegaConf
from omegaconf.base import Metadata

_every_choice = defaults_list._create_interpolation_map
_load = OmegaConf.load
_loaded: dict[str, bytes] = {}
_parse = OverridesParser.parse_rule
_parsed: dict[str, Override] = {}
_create_functions = overrides_parser.create_functions
_UNCHANGED = (str, int, float, bool, type(None), QuotedString)


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


def _parse_once(parser: OverridesParser, text: str, rule: str) -> Any:
    """What a text says; kept where it is an override with a value that nobody changes."""
    if rule != "override":
        return _parse(parser, text, rule)
    if text not in _parsed:
        override = _parse(parser, text, rule)
        if not isinstance(override._value, _UNCHANGED):
            return override
        _parsed[text] = override
    return copy.copy(_parsed[text])


def _copied(metadata: Metadata, memo: dict[int, Any]) -> Metadata:
    """A node's metadata, whose types are shared: a deep copy looks at each, and shares them too."""
    made = object.__new__(type(metadata))
    made.__dict__ |= metadata.__dict__
    made.flags = None if metadata.flags is None else dict(metadata.flags)
    made.resolver_cache = defaultdict(dict)
    if metadata.resolver_cache:
        made.resolver_cache = copy.deepcopy(metadata.resolver_cache, memo)
    return made


def quicken() -> None:
    """Do so in this process."""
    OmegaConf.load = staticmethod(_load_once)
    defaults_list._create_interpolation_map = _choices_if_asked_for
    ConfigStore.__deepcopy__ = _the_same
    OverridesParser.parse_rule = _parse_once
    overrides_parser.create_functions = cache(_create_functions)
    Metadata.__deepcopy__ = _copied


def as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave hydra as it is for one test."""
    monkeypatch.setattr(OmegaConf, "load", staticmethod(_load))
    monkeypatch.setattr(defaults_list, "_create_interpolation_map", _every_choice)
    monkeypatch.delattr(ConfigStore, "__deepcopy__")
    monkeypatch.setattr(OverridesParser, "parse_rule", _parse)
    monkeypatch.setattr(overrides_parser, "create_functions", _create_functions)
    monkeypatch.delattr(Metadata, "__deepcopy__")
