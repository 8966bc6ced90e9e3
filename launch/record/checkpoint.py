"""A checkpoint as a folder that is whole or is none.

    RUN/checkpoints/.step-00000012.partial/  ->  seal  ->  RUN/checkpoints/step-00000012/
        scheduler.npz                   `cost.scheduler.actor.SchedulerActor.write`
        run.npz                         position of the loop, summary, evaluations, trackers
        groups/TICKET.npz               groups that are there and not learned
        learner/                        `learner.team.LearnerTeam.snapshot`
        manifest.json                   every file's size and checksum, and what run it is of

Everything is on disk before the manifest is, and the manifest before the folder has its name. What
is read back is checked against it first, and is data only: npz without pickle, JSON, safetensors.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from launch.record.atomic_files import to_disk

CHECKPOINTS = "checkpoints"
MANIFEST = "manifest.json"
SCHEDULER, RUN, GROUPS, LEARNER = "scheduler.npz", "run.npz", "groups", "learner"
FORMAT = 1
NAME = re.compile(r"step-(\d{8,})")
ASIDE = re.compile(r"step-(\d{8,})\.aside\d*")
"""See `set_aside_later`."""
BEGUN = re.compile(r"\.?step-(\d{8,})(\.partial)?")
UNFINISHED = re.compile(r"\.step-\d{8,}(\.aside\d*)?\.(partial|old|removed)")
MOST_BYTES = 2**26
"""Of a manifest."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole checkpoint."""

    path: Path
    step: int
    """Steps that were learned before it."""
    about: Mapping[str, Any]
    """What `seal` was told of the run."""


def partial_folder(run_dir: Path, step: int) -> Path:
    """Make an empty folder to write a checkpoint into; OSError if that fails."""
    path = run_dir / CHECKPOINTS / f".step-{step:08d}.partial"
    shutil.rmtree(path, ignore_errors=True)
    for name in (GROUPS, LEARNER):
        (path / name).mkdir(parents=True)
    return path


def seal(partial: Path, step: int, about: Mapping[str, Any]) -> Checkpoint:
    """Make a checkpoint of the files in a folder of `partial_folder`.

    Args:
        partial: The folder.
        step: Steps that were learned.
        about: JSON-able, to compare with the run that goes on.

    Raises:
        OSError: If it cannot be written; what was there under its name stays.
    """
    files = {}
    for file in _files(partial):
        to_disk(file)
        files[str(file.relative_to(partial))] = [file.stat().st_size, _checksum(file)]
    manifest = {"format": FORMAT, "step": step, "files": files, "about": dict(about)}
    manifest["checksum"] = _own_checksum(manifest)
    with (partial / MANIFEST).open("w", encoding="utf-8") as out:
        json.dump(manifest, out, indent=1)
        out.flush()
        os.fsync(out.fileno())
    for folder in (*(partial / name for name in (GROUPS, LEARNER)), partial):
        to_disk(folder)
    path = partial.with_name(f"step-{step:08d}")
    if path.exists():
        # Of the same step, by a run that went on from it: it gives way to the newer one.
        old = partial.with_suffix(".old")
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
        try:
            partial.rename(path)
        except OSError:
            old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        partial.rename(path)
    to_disk(path.parent)
    return Checkpoint(path, step, dict(about))


def read_checkpoint(path: Path) -> Checkpoint:
    """Check a checkpoint against its manifest.

    Raises:
        ValueError: If it is not whole, with what is wrong.
    """
    manifest = _manifest(path)
    for name, (size, checksum) in manifest["files"].items():
        file = path / name
        try:
            found = file.stat().st_size
            if found != size:
                raise ValueError(f"{file} must have {size} bytes, got {found}")
            if _checksum(file) != checksum:
                raise ValueError(f"{file} must have the checksum that its manifest says")
        except OSError as error:
            raise ValueError(f"{file} must be readable: {error.strerror}") from error
    return Checkpoint(path, manifest["step"], manifest["about"])


def newest_checkpoint(run_dir: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return a run's newest whole checkpoint, and what is wrong with newer ones.

    A folder without a manifest is passed over. Nobody may write checkpoints meanwhile.

    Raises:
        OSError: If the folder of checkpoints cannot be read.
    """
    _put_back(run_dir)
    faults: list[str] = []
    for path in sorted(_checkpoints(run_dir), key=_step, reverse=True):
        try:
            return read_checkpoint(path), faults
        except ValueError as error:
            faults.append(str(error))
    return None, faults


def steps_of_checkpoints(run_dir: Path) -> list[int]:
    """Return the steps of the checkpoints that are there or being written."""
    found = (BEGUN.fullmatch(path.name) for path in _folders(run_dir))
    return [int(match[1]) for match in found if match]


def remove_older(run_dir: Path, keep_last: int) -> None:
    """Take away all but the newest checkpoints; what cannot be removed stays.

    So does what `set_aside_later` renamed, until there is a checkpoint of its step or a later one.
    """
    found = sorted(_checkpoints(run_dir), key=_step)
    learned = max(map(_step, found), default=-1)
    aside = [path for path in _folders(run_dir) if 0 <= _step(path, ASIDE) <= learned]
    for path in (*found[:-keep_last], *aside):
        # At once under another name, so that nobody takes half of it for a whole one.
        removed = path.with_name(f".{path.name}.removed")
        with suppress(OSError):
            path.rename(removed)
            shutil.rmtree(removed, ignore_errors=True)


def set_aside_later(run_dir: Path, step: int) -> list[Path]:
    """Rename checkpoints of later steps, and return where they lie then.

    They are of a past that will be learned anew, and must not be taken for what comes of that. Each
    was passed over, which may be for a fault of the disk, or of the network, that will be over:
    until their steps are learned anew, and `remove_older` is called, they can be given their names
    back.

    Raises:
        OSError: If one cannot be renamed.
    """
    aside = []
    for path in [path for path in _checkpoints(run_dir) if _step(path) > step]:
        names = (path.with_name(f"{path.name}.aside{k or ''}") for k in count())
        aside.append(path.rename(next(name for name in names if not name.exists())))
    return aside


def remove_unfinished(run_dir: Path) -> None:
    """Remove what runs that were killed left of checkpoints; nobody may write any meanwhile."""
    _put_back(run_dir)
    for path in _folders(run_dir):
        half = NAME.fullmatch(path.name) and not _is_sealed(path)
        if half or UNFINISHED.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def _put_back(run_dir: Path) -> None:
    """Give a checkpoint its name back that another one of its step was to get."""
    for old in _folders(run_dir):
        path = old.with_name(old.name.removeprefix(".").removesuffix(".old"))
        if old.name == f".{path.name}.old" and NAME.fullmatch(path.name) and not path.exists():
            old.rename(path)


def _manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    try:
        if file.stat().st_size > MOST_BYTES:
            raise ValueError(f"{file} must have at most {MOST_BYTES} bytes")
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{file} must be readable: {error.strerror}") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{file} must be the JSON of a checkpoint") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else manifest
        raise ValueError(f"{file} must be of format {FORMAT}, got {str(found)[:80]!r}")
    if manifest.get("checksum") != _own_checksum(manifest) or not _is_whole(manifest):
        raise ValueError(f"{file} must be as it was written")
    if manifest["step"] != _step(path):
        raise ValueError(f"{path} must be named after its step, got {manifest['step']!r}")
    return manifest


def _is_whole(manifest: Mapping[str, Any]) -> bool:
    files, about = manifest.get("files"), manifest.get("about")
    return (
        isinstance(manifest.get("step"), int)
        and isinstance(about, dict)
        and isinstance(files, dict)
        and {SCHEDULER, RUN} <= set(files)
        and all(_is_inside(name) for name in files)
    )


def _is_inside(name: str) -> bool:
    path = Path(name)
    return not path.is_absolute() and ".." not in path.parts


def _folders(run_dir: Path) -> list[Path]:
    folder = run_dir / CHECKPOINTS
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _checkpoints(run_dir: Path) -> Iterator[Path]:
    for path in _folders(run_dir):
        if NAME.fullmatch(path.name) and _is_sealed(path):
            yield path


def _is_sealed(path: Path) -> bool:
    try:
        return MANIFEST in os.listdir(path)
    except OSError:
        # It may be: whoever reads it is told why it cannot be read.
        return True


def _step(path: Path, name: re.Pattern[str] = NAME) -> int:
    match = name.fullmatch(path.name)
    return int(match[1]) if match else -1


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)


def _checksum(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _own_checksum(manifest: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
