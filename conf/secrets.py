"""What of a configuration is secret, and how it is kept out of whatever a run leaves behind.

A plug that needs a key takes it from the environment: `reward.settings.api_key=${oc.env:NAME}`.
Such a reference is what is written down, never its value; a secret in plain text is refused.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.resolvers import oc

SECRET_WORDS = (
    r"(?i)key|token|secret|passw|passphrase|credential|(^|_)(pass|pat|pwd|pw|auth|dsn|sas)(_|$)"
)
"""In the name of an environment variable."""
_SECRET_KEY = re.compile(
    r"(?i)(^|_)((api|access|private|secret|auth)_?key|(api|access|auth|hf|bearer|refresh)_?token"
    r"|(client_?)?secret|password|passwd|passphrase|credentials?)$"
)
"""Settings of plugs; others than these, such as stop_token, are no secrets."""
SECRET_TEXT = re.compile(
    r"\w://[^/\s:@]*:[^/\s@]+@"
    r"|\b(sk-(proj-|ant-api\d+-)?|hf_|gh[oprsu]_|github_pat_|glpat-)[A-Za-z0-9]{20}"
    r"|\bAKIA[A-Z0-9]{16}\b"
)
"""In a value: a password in a URL, or what well-known services give out as keys."""
_REMEDY = (
    "must not hold a secret in plain text, which the run folder, trackers and lists of processes "
    "would show; put it into an environment variable NAME and write '${oc.env:NAME}'"
)

_read: ContextVar[list[str] | None] = ContextVar("_read", default=None)
"""Variables that interpolations have read so far, where somebody wants to know."""


def _environment(name: str, *default: Any) -> Any:
    """The resolver `oc.env`, which remembers what it was asked for."""
    asked = _read.get()
    if asked is not None:
        asked.append(name)
    return oc.env(name, *default)


OmegaConf.register_new_resolver("oc.env", _environment, replace=True)


def check_secrets(config: DictConfig) -> None:
    """Refuse secrets in plain text: under a plug's key that says so, or of a shape that does.

    Raises:
        ValueError: Beginning with the key; the value is not repeated.
    """
    plain = OmegaConf.to_container(config, resolve=False)
    for key, name, value, of_plug in _texts(plain, "", "", False):
        named = of_plug and _SECRET_KEY.search(name) and value and "${" not in value
        if named or SECRET_TEXT.search(value):
            raise ValueError(f"{key} {_REMEDY}, got a text of {len(value)} letters")


def _texts(node: Any, key: str, name: str, of_plug: bool) -> Iterator[tuple[str, str, str, bool]]:
    """Key, last part of it, value, and whether it is a plug's, of every text."""
    if isinstance(node, dict):
        of_plug = of_plug or "_target_" in node
        for part, child in node.items():
            yield from _texts(child, f"{key}.{part}" if key else str(part), str(part), of_plug)
    elif isinstance(node, list):
        for place, child in enumerate(node):
            yield from _texts(child, f"{key}[{place}]", name, of_plug)
    elif isinstance(node, str):
        yield key, name, node, of_plug


def recorded(config: DictConfig) -> dict[str, Any]:
    """Return the configuration as it may be written down: resolved, but for the environment.

    Texts that take something from the environment stay as they were written, so that the program
    that runs from the record takes it from there again, and so do references to a section with a
    type, which a plain copy of it would not have. In other texts, what looks like an interpolation
    is escaped.

    Args:
        config: As composed.
    """
    found: dict[str, Any] = _recorded(config)
    return found


def _recorded(node: DictConfig | ListConfig) -> Any:
    if isinstance(node, DictConfig):
        return {key: _child(node, key) for key in node}
    return [_child(node, place) for place in range(len(node))]


def _child(node: Any, key: Any) -> Any:
    if OmegaConf.is_missing(node, key):
        return "???"
    with _reading() as asked:
        value = node[key]
    typed = isinstance(value, DictConfig) and OmegaConf.get_type(value) is not dict
    if typed and OmegaConf.is_interpolation(node, key):
        return node._get_node(key)._value()
    if isinstance(value, DictConfig | ListConfig):
        return _recorded(value)
    if not isinstance(value, str):
        return value
    if asked:
        return node._get_node(key)._value()
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)


@contextmanager
def _reading() -> Iterator[list[str]]:
    """Collect the variables that are read within it."""
    asked: list[str] = []
    before = _read.set(asked)
    try:
        yield asked
    finally:
        _read.reset(before)
