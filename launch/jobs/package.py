"""What a job takes along: the project's sources and its entry points.

vLLM's workers find the weight transfer through an entry point, which needs the project to be
installed where they run. Ray puts a job's folder onto the Python path of every process of the job,
on every node; with the project's metadata beside its packages, that is an installed project.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

from launch.cli.refusals import UserError

SOURCES = (".py", ".yaml")
DATA = (".jsonl", ".csv", ".parquet")
STAYS = ("runs", "outputs", "wandb", "__pycache__", "node_modules")
"""Folders of such names stay here."""
STAYS_WITH = ("pyvenv.cfg", "summary.json", "metrics.jsonl", "model.safetensors",
              "model.safetensors.index.json")  # fmt: skip
"""Folders with such a file stay here: virtual environments, runs, models, which a folder called
`models` need not hold: it may be code."""
MAX_BYTES = 100 * 2**20
"""A package may not be larger: Ray keeps it in the head's memory. Models and data belong where all
nodes can read them."""


def metadata_files(pyproject: str) -> dict[str, str]:
    """Return what installing the project would write, by path: name, version and entry points.

    Args:
        pyproject: The content of pyproject.toml.
    """
    project = tomllib.loads(pyproject)["project"]
    folder = f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    sections = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
        for group, points in project.get("entry-points", {}).items()
    ]
    return {
        f"{folder}/METADATA": (
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        ),
        f"{folder}/entry_points.txt": "\n".join(sections),
    }


def packed_files(project: Path) -> list[str]:
    """List what is packed, relative to the project: files that git tracks, and new sources.

    A new file of another kind, such as `.env`, stays here; so does all that git ignores, and what
    is new in run folders, models and caches.

    Raises:
        UserError: If the project is no git checkout.
    """
    command = ["git", "-C", str(project), "ls-files", "-z"]
    try:
        tracked, new = (
            subprocess.run([*command, *which], capture_output=True, check=True).stdout.decode()
            for which in ([], ["--others", "--exclude-standard"])
        )
    except FileNotFoundError as error:
        raise UserError("packing the project needs git, which is not installed here") from error
    except subprocess.CalledProcessError as error:
        reason = " ".join(error.stderr.decode(errors="replace").split())
        raise UserError(
            f"packing takes the files that git knows, and {str(project)!r} is no checkout of it "
            f"({reason}); submit from one"
        ) from error
    sources = [path for path in new.split("\0") if path.endswith(SOURCES)]
    kept = {parent for path in sources for parent in Path(path).parents if _stays(project / parent)}
    sources = [path for path in sources if kept.isdisjoint(Path(path).parents)]
    paths = [*tracked.split("\0"), *sources]
    return sorted({path for path in paths if path and (project / path).is_file()})


def own_files(own: Path) -> list[str]:
    """List what of the user's own folder goes along, relative to it: sources and rows of data.

    Hidden folders, virtual environments, run folders, models and caches stay here; what is larger
    or of another kind belongs where all nodes can read it.
    """
    found = []
    for place, folders, files in os.walk(own):
        folders[:] = [name for name in folders if not _stays(Path(place) / name)]
        found += [Path(place) / name for name in files if name.endswith((*SOURCES, *DATA))]
    return sorted(str(path.relative_to(own)) for path in found)


def _stays(folder: Path) -> bool:
    if folder.name.startswith(".") or folder.name in STAYS:
        return True
    return any((folder / name).exists() for name in STAYS_WITH)


def pack(project: Path, folder: Path, own: Path | None = None) -> tuple[int, int]:
    """Copy what the job takes along, with uncommitted changes, into an empty folder.

    Args:
        project: The project's folder.
        folder: Where to.
        own: The user's folder, where the program was called; one beside the project's goes along,
            in the same place as the project's files, none of which it replaces.

    Returns:
        The number of files, and of bytes, copied.

    Raises:
        UserError: If the project is no git checkout, or too large.
    """
    taken = {path: project / path for path in packed_files(project)}
    if own is not None and not (own.is_relative_to(project) or project.is_relative_to(own)):
        taken = {path: own / path for path in own_files(own)} | taken
    size = sum(source.lstat().st_size for source in taken.values())
    if size > MAX_BYTES:
        largest = max(taken, key=lambda path: taken[path].lstat().st_size)
        raise UserError(
            "the project's files known to git, with those of the current folder, must not exceed "
            f"{MAX_BYTES // 2**20} MiB, got {size / 2**20:.0f}, the largest is {largest!r}; keep "
            "models and data on a file system that the nodes share"
        )
    for path, source in taken.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)
    for path, text in metadata_files((project / "pyproject.toml").read_text("utf-8")).items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return len(taken), size
