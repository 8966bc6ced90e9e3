"""What mkdocs is told beyond the pages in this folder: those that are made of code and results.

schemas, conf/GROUP/*.yaml, METRICS, RESULTS.md -> pages, tables within pages
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from conf.programs import register
from conf.reference import CONF, Key, groups, keys_of, members_of, programs
from launch.record.metrics import METRICS

PROJECT = Path(__file__).parents[1]
RESULTS = PROJECT / "launch/study/RESULTS.md"
FILES = {".github": "figures"}
"""Folders that results link to, and what they are called on the site."""


def on_files(files: Any, config: Any) -> Any:
    """Add the pages and pictures that do not lie in docs/."""
    from mkdocs.structure.files import File

    for name, text in made_pages().items():
        files.append(File.generated(config, name, content=text))
    for folder, name in FILES.items():
        for path in sorted((PROJECT / folder).rglob("*")):
            if path.suffix in (".png", ".html", ".json"):
                place = f"{name}/{path.relative_to(PROJECT / folder).as_posix()}"
                files.append(File.generated(config, place, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put tables where a page has a mark for one."""
    return filled(markdown)


def made_pages() -> dict[str, str]:
    """Return the pages that are made, by name."""
    results = RESULTS.read_text(encoding="utf-8")
    for folder, name in FILES.items():
        results = results.replace(f"../../{folder}/", f"{name}/")
    changes, guarded = (
        (PROJECT / name).read_text(encoding="utf-8") for name in ("CHANGELOG.md", "SECURITY.md")
    )
    return {
        "reference.md": settings_page(),
        "plugs.md": plugs_page(),
        "results.md": results,
        "changelog.md": changes.replace("(SECURITY.md)", "(security.md)"),
        "security.md": guarded,
    }


def filled(markdown: str) -> str:
    """Replace `<!-- metrics -->` and the like by their tables."""
    tables = {
        "metrics": lambda: _table(
            ("metric", "meaning"), ((f"`{key}`", text) for key, text in METRICS.items())
        ),
        "experiments": lambda: _files_table("experiment"),
        "recipes": lambda: _files_table("recipe"),
        "comparisons": lambda: _files_table("comparison"),
    }
    return re.sub(r"<!-- (\w+) -->", lambda found: tables[found[1]](), markdown)


def settings_page() -> str:
    """Return every key of every program, with its meaning."""
    register()
    parts = [
        "# Settings\n",
        "Every key of every program, read off the schemas in `conf/`. A key is set as `key=value` "
        "behind `python -m launch.PROGRAM`; without a default here it comes from the program's "
        "YAML, or is yours to give. A plug is chosen by its group, see [plugs](plugs.md).\n",
    ]
    for program, schema in programs().items():
        parts.append(f"## launch.{program}\n")
        keys = list(keys_of(schema))
        sections: dict[str, list[Key]] = {}
        for key in keys:
            sections.setdefault(key.name.split(".")[0] if "." in key.name else "", []).append(key)
        for section, of_section in sections.items():
            if section:
                parts.append(f"### {section} of launch.{program}\n")
            parts.append(_keys_table(of_section))
    return "\n".join(parts)


def plugs_page() -> str:
    """Return every member of every group, with its settings."""
    parts = [
        "# Plugs\n",
        "A group is a decision, a member one way to take it: `GROUP=MEMBER` chooses it, or "
        "`GROUP@KEY=MEMBER` where the key has another name, as in "
        "`allocator@scheduler.allocator=epoch`. Settings follow below the key: "
        "`scheduler.thinning.budget=0.5`. Any class of yours fits by `_target_`, see "
        "[your own](own.md).\n",
    ]
    for group in groups():
        parts.append(f"## {group}\n")
        for member in members_of(group):
            parts.append(f"### {group}: {member.name}\n")
            parts.append(f"{_cell(member.meaning)} (`{member.target}`)\n")
            if member.settings:
                parts.append(_keys_table(member.settings))
    return "\n".join(parts)


def _keys_table(keys: Iterable[Key]) -> str:
    rows = (
        (f"`{key.name}`", _cell(key.kind), f"`{key.default}`" if key.default else "",
         _cell(key.meaning))
        for key in keys
    )  # fmt: skip
    return _table(("key", "type", "default", "meaning"), rows)


def _files_table(folder: str) -> str:
    """What each file of a folder of conf/ says of itself in its first comment."""
    rows = []
    for file in sorted((CONF / folder).glob("*.yaml")):
        lines = file.read_text(encoding="utf-8").splitlines()
        said = []
        for line in lines:
            if not line.startswith("#"):
                break
            if "@package" not in line:
                said.append(line.removeprefix("#").strip())
        rows.append((f"`{file.stem}`", _cell(" ".join(said))))
    return _table((folder, "what it is"), rows)


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cell(text: str) -> str:
    """Text that ends no cell and opens no tag or link."""
    return re.sub(r"([|<\[\]*_])", r"\\\1", text) if "`" not in text else text.replace("|", r"\|")
