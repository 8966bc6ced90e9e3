"""Every key of every program with its meaning, read off the schemas.

    schema -> keys_of -> Key ...        conf/GROUP/*.yaml -> members_of -> Member ...

What a key means stands below its field, as a string; a plug's own settings likewise.
"""

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from hydra.core.config_store import ConfigStore
from hydra.utils import get_object
from omegaconf import OmegaConf

from conf.keys import CONF, GROUPS, default_text, kind_text, meanings, yaml_text

NO_PLUGS = ("comparison", "experiment", "recipe", "evaluation_set", "examples")
"""Folders of conf/ whose files set keys that stand elsewhere."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a configuration.

    Example: `loop.max_staleness` of `launch.train`, its meaning shortened.

        Key("loop.max_staleness", "int", "0", "Versions that a batch may be behind.")
    """

    name: str
    """Dotted; NAME stands for any name."""
    kind: str
    default: str
    """As YAML; "" where the program's file or the user must give it."""
    meaning: str


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a group, a file below conf/.

    Example: that of plain GRPO's draws, its meaning shortened.

        Member("allocator", "epoch", "cost.draws.allocators.uniform.Uniform", "All alike.", ())
    """

    group: str
    name: str
    target: str
    meaning: str
    """First paragraph of the class."""
    settings: tuple[Key, ...]


def programs() -> dict[str, type]:
    """Return the schema of each program, by its name, in alphabetical order."""
    store = ConfigStore.instance()
    found: dict[str, type] = {}
    for file in store.list(""):
        if file.endswith("_schema.yaml"):
            node = store.load(file).node
            schema = OmegaConf.get_type(node)
            assert schema is not None, f"{file} has no schema"
            found[file.removesuffix("_schema.yaml")] = schema
    return dict(sorted(found.items()))


def keys_of(schema: type, prefix: str = "") -> Iterator[Key]:
    """Yield every key of a dataclass and of those within it, in their order.

    Args:
        schema: A dataclass.
        prefix: Stands before each key.
    """
    hints, said = get_type_hints(schema), meanings(schema)
    for each in fields(schema):
        name, kind = prefix + each.name, hints[each.name]
        inner = kind if is_dataclass(kind) else _value_type(kind)
        if is_dataclass(inner) and isinstance(inner, type):
            yield from keys_of(inner, f"{name}." if inner is kind else f"{name}.NAME.")
            continue
        yield Key(name, kind_text(kind), default_text(each), said.get(each.name, ""))


def members_of(group: str) -> Iterator[Member]:
    """Yield what each file of a group builds; a file of several plugs yields each.

    Args:
        group: A folder of conf/.
    """
    for file in sorted((CONF / group).glob("*.yaml")):
        content = _content(file)
        plugs = {"": content} if "_target_" in content else content
        for name, plug in plugs.items():
            if isinstance(plug, dict) and "_target_" in plug:
                label = f"{file.stem}.{name}" if name else file.stem
                yield _member(group, label, plug)


def _content(file: Path) -> dict[str, Any]:
    """Return what a member sets, and before it what it takes from others of its group."""
    own: Any = OmegaConf.to_container(OmegaConf.load(file))
    found: dict[str, Any] = {}
    for base in own.pop("defaults", []):
        if isinstance(base, str) and (file.parent / f"{base}.yaml").is_file():
            found |= _content(file.parent / f"{base}.yaml")
    found.update(own)
    return found


def groups() -> list[str]:
    """Return the folders of conf/ that hold plugs."""
    return [group for group in GROUPS if group not in NO_PLUGS]


def _member(group: str, name: str, plug: dict[str, Any]) -> Member:
    target = get_object(plug["_target_"])
    owner = target if isinstance(target, type) else getattr(target, "__self__", target)
    said = meanings(owner) if isinstance(owner, type) else {}
    if target is not owner:
        said = said | _arguments(inspect.getdoc(target) or "")
    settings = tuple(
        Key(
            key,
            type(value).__name__ if value is not None else "",
            yaml_text(value),
            said.get(key, ""),
        )
        for key, value in plug.items()
        if not key.startswith("_")
    )
    paragraph = (inspect.getdoc(owner) or "").split("\n\n")[0]
    return Member(group, name, plug["_target_"], " ".join(paragraph.split()), settings)


def _arguments(text: str) -> dict[str, str]:
    """What a docstring says of the arguments, by name."""
    _, _, section = text.partition("Args:\n")
    found = re.findall(r"^ {4}(\w+): (.+?)(?=^ {0,4}\S|^$|\Z)", section, re.MULTILINE | re.DOTALL)
    return {name: " ".join(said.split()) for name, said in found}


def _value_type(kind: Any) -> Any:
    """What a mapping or list of schemas holds."""
    parts = get_args(kind) if get_origin(kind) in (dict, list) else ()
    return parts[-1] if parts else None
