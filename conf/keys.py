"""What every setting means, from the schemas: its docstring, type, default and range.

describe(RunConfig, "learner.lr") -> "learner.lr: float = 1e-06, above 0, at most 100 ..."
meanings(LoopConfig)["max_staleness"] -> "Versions a batch may be behind when it is learned; ..."
nearest("loop.num_step", keys_of(RunConfig)) -> "loop.num_steps"
"""

import ast
import dataclasses
import difflib
import inspect
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args, get_type_hints

from cost import ranges
from cost.ranges import Range

CONF = Path(__file__).parent
"""Where the YAML lies: of each program, and below it of each member of a group."""
GROUPS = tuple(sorted({path.parent.name for path in CONF.glob("*/*.yaml")}))
_MAKERS = {name: getattr(ranges, name) for name in ("count", "amount", "positive", "Range")}
LINE = 98
"""Characters of a line of text."""
_KNOWN = {name: getattr(ranges, name) for name in ("SECONDS", "SEED")}


def nearest(word: str, words: Iterable[str]) -> str:
    """Return the word that was probably meant, "" if none comes near.

    A dotted key may also be meant whose last part is the same.
    """
    known = list(words)
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
    if found:
        return found[0]
    last = word.rpartition(".")[2]
    ends = {each.rpartition(".")[2]: each for each in reversed(known)}
    close = difflib.get_close_matches(last, ends, n=1, cutoff=0.8)
    return ends[close[0]] if close else ""


def fields_of(schema: type, prefix: str = "") -> Iterator[tuple[str, type, Any]]:
    """Key, dataclass and field of every setting of a schema, those of sections included."""
    hints = get_type_hints(schema)
    for field in dataclasses.fields(schema):
        key = f"{prefix}{field.name}"
        yield key, schema, field
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            yield from fields_of(kind, f"{key}.")


def keys_of(schema: type) -> list[str]:
    """Return every key of a schema."""
    return [key for key, *_ in fields_of(schema)]


def defaults_of(schema: type) -> dict[str, Any]:
    """Return the default of every setting of a schema that has one, sections taken apart."""
    found: dict[str, Any] = {}
    for key, _, field in fields_of(schema):
        if field.default is not dataclasses.MISSING:
            found[key] = field.default
        elif field.default_factory in (list, dict):
            found[key] = field.default_factory()
    return found


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a configuration's values by their full keys; an empty group counts as a value."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        key = f"{prefix}{name}"
        found |= flat(value, f"{key}.") if isinstance(value, Mapping) and value else {key: value}
    return found


def describe(schema: type, asked: str) -> str:
    """Say what a key means, and every key below it; "" if there is none.

    Args:
        schema: Of a program's configuration.
        asked: A key, a section, or the last part of either.
    """
    found = [each for each in fields_of(schema) if _below(each[0], asked)]
    if not found:
        found = [each for each in fields_of(schema) if each[0].rpartition(".")[2] == asked]
    return "\n\n".join(_description(*each) for each in found)


def _below(key: str, asked: str) -> bool:
    return key == asked or key.startswith(f"{asked}.")


def _description(key: str, schema: type, field: Any) -> str:
    kind = get_type_hints(schema)[field.name]
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        body = textwrap.indent(inspect.getdoc(kind) or "", "  ")
        return f"{key}:\n{body}"
    default, within = default_text(field), _ranges(schema).get(field.name)
    head = f"{key}: {kind_text(kind)}{f' = {default}' if default else ''}"
    head += f", {_range_text(within)}" if within is not None else ""
    said = textwrap.indent(textwrap.fill(meanings(schema).get(field.name, ""), LINE), "  ")
    return f"{head}\n{said}" if said else head


def _range_text(within: Range) -> str:
    least = f"{'above' if within.above else 'at least'} {within.least:g}"
    return f"{least}, at most {within.most:.15g}"


@cache
def _tree(schema: type) -> ast.ClassDef:
    (found,) = ast.parse(textwrap.dedent(inspect.getsource(schema))).body
    assert isinstance(found, ast.ClassDef)
    return found


@cache
def meanings(kind: type) -> dict[str, str]:
    """Return the strings below a dataclass's fields, those of its bases included, by field."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        try:
            body = _tree(base).body
        except OSError:
            # Made at run time, as `dataclasses.make_dataclass` does.
            continue
        for field, after in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                text = after.value if isinstance(after, ast.Expr) else None
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    found[field.target.id] = " ".join(text.value.split())
    return found


def kind_text(kind: Any) -> str:
    """Name the type of a setting."""
    if kind is Any:
        return "plug"
    text = kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)
    return text.replace("typing.", "").replace("NoneType", "None")


def default_text(field: "dataclasses.Field[Any]") -> str:
    """Return a setting's default as YAML; "" where it has none."""
    if field.default is not dataclasses.MISSING:
        return yaml_text(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return yaml_text(field.default_factory())
    return ""


def yaml_text(value: Any) -> str:
    """Return a value as it is typed on the command line."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


@cache
def _ranges(schema: type) -> dict[str, Range]:
    """What `require_ranges` is given in the class, as far as it is written down in figures."""
    found: dict[str, Range] = {}
    names = dict(_KNOWN)
    for node in ast.walk(_tree(schema)):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            within = _range(node.value, names)
            if within is not None:
                names[node.targets[0].id] = within
    for node in ast.walk(_tree(schema)):
        if not isinstance(node, ast.Dict):
            continue
        for key, value in zip(node.keys, node.values, strict=True):
            within = _range(value, names)
            if within is not None and isinstance(key, ast.Constant):
                found[str(key.value)] = within
    return found


def _range(node: ast.expr, names: dict[str, Range]) -> Range | None:
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        return None
    make = _MAKERS.get(node.func.id)
    try:
        given = [ast.literal_eval(each) for each in node.args]
        named = {str(each.arg): ast.literal_eval(each.value) for each in node.keywords}
    except ValueError:
        return None
    return make(*given, **named) if make is not None else None
