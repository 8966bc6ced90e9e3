"""Rows of a data set, wherever it lies: files, saved folders, the Hugging Face hub.

path                       read as                                 needs
FILE.jsonl, or any other   one JSON object a line
FILE.json                  a list of objects, or one inside an object; or one object a line
FILE.csv, FILE.tsv         a header and rows
FILE.parquet               rows                                    pyarrow
any but Parquet with .gz   the same, unpacked
FILES with *, ? or []      the rows of each, by name
FOLDER of `save_to_disk`   rows, or those of one split             pyarrow
other FOLDER, owner/name   what `datasets.load_dataset` reads      datasets

Patterns are those of Python's `glob`, `**` for folders at any depth among them.
"""

import importlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from rollout.own_code import PROJECT
from rollout.tasks.files import Placed, as_row, opened, pyarrow_for, rows_of

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, slots=True)
class Rows:
    """Where rows are read from.

    Example: Rows("openai/gsm8k", subset="main", hub_split="test[:200]") reads from the hub.
    """

    path: str
    """A file, files by a pattern such as "data/*.jsonl", a folder, or a data set of the hub."""
    subset: str | None = None
    """Configuration of the data set on the hub; None where it has one only."""
    hub_split: str | None = None
    """The split's name in the data set's own words; None is "train" of several, and all of one."""
    revision: str | None = None
    """Commit, tag or branch on the hub."""

    @property
    def name(self) -> str:
        """What the rows' source is called: a hub id as it is, files by their stem."""
        return Path(self.path).stem if files_of(located(self.path)) else self.path

    def read(self) -> Iterator[Placed]:
        """Yield the rows in order.

        Raises:
            ValueError: If it cannot be read, with the line or the remedy.
        """
        files = files_of(located(self.path))
        path = Path(files[0]) if files else Path(self.path)
        if len(files) == 1 and path.is_dir():
            if any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
                return self._saved(path)
            return self._loaded(str(path))
        if not files and not path.suffix and HUB_ID.fullmatch(self.path):
            return self._loaded(self.path)
        return self._of_files([Path(file) for file in files] or [path])

    def _of_files(self, files: Sequence[Path]) -> Iterator[Placed]:
        for file in files:
            self._refuse_split(file)
            yield from rows_of(file)

    def _refuse_split(self, path: Path) -> None:
        """Refuse a lone file in the place of a split that its name does not speak of."""
        split = (self.hub_split or "train").partition("[")[0]
        if split != "train" and split not in path.stem:
            raise ValueError(
                f"task.hub_split = {self.hub_split} cannot be chosen from a lone file; name the "
                "file of that split in task.path and set task.hub_split=null, or hold a part of "
                "the file out with task@held_out=dataset_held_out and split=train of the task, "
                f"got {str(path)!r}"
            )

    def _saved(self, folder: Path) -> Iterator[Placed]:
        """Rows of `Dataset.save_to_disk` or `DatasetDict.save_to_disk`."""
        splits = folder / "dataset_dict.json"
        if splits.is_file():
            names = _json_of(splits).get("splits") or []
            wanted = self.hub_split or "train"
            if wanted not in names:
                raise ValueError(
                    f"task.hub_split must be a split of {str(folder)!r}, one of "
                    f"{', '.join(map(str, names))}, got {wanted!r}"
                )
            folder = folder / wanted
        files = [
            entry.get("filename", "") for entry in _json_of(folder / "state.json")["_data_files"]
        ]
        arrow = pyarrow_for(str(folder))
        number = 0
        for file in files:
            # A name, and not a way out of the folder.
            with opened(folder / Path(file).name) as stream:
                for batch in arrow.ipc.open_stream(stream):
                    for row in batch.to_pylist():
                        yield f"{folder}:{number}", row
                        number += 1

    def _loaded(self, path: str) -> Iterator[Placed]:
        """Rows of what the package `datasets` loads; it runs no code of a data set's author."""
        split = self.hub_split or "train"
        try:
            # An optional package, which takes seconds to import.
            datasets = importlib.import_module("datasets")
        except ModuleNotFoundError as error:
            if error.name != "datasets":
                raise
            raise ValueError(
                "task.path is no regular file here; data sets of the hub and folders of files need "
                'the package datasets, which is not installed: `pip install -e ".[hub]"`, '
                f"got {self.path!r}"
            ) from error
        try:
            found = datasets.load_dataset(path, self.subset, split=split, revision=self.revision)
        except Exception as error:
            # Hub, network, parser and cache each fail with errors of their own.
            reason = " ".join(str(error).split())
            raise ValueError(
                f"task.path cannot be loaded ({type(error).__name__}: {reason:.200}); check "
                "task.path, task.subset, task.hub_split and task.revision, "
                f"got {self.path!r}"
            ) from error
        for number, row in enumerate(found):
            yield f"{self.path}:{split}:{number}", row


def located(path: str) -> str:
    """Return where the files of a path or pattern lie: here, or else in the project's folder.

    Run folders name what lies there by its path within. A hub id stays as it is.
    """
    return next((place for place in (path, str(PROJECT / path)) if files_of(place)), path)


def files_of(path: str) -> list[str]:
    """Return the file or folder at a path, or the files that fit a pattern, by name; or none."""
    if Path(path).exists():
        return [path]
    return sorted(glob(path, recursive=True)) if has_magic(path) else []


def _json_of(path: Path) -> Any:
    with opened(path) as file:
        text = file.read()
    try:
        return as_row(json.loads(text), str(path))
    except ValueError as error:
        raise ValueError(f"{path} is not what save_to_disk writes ({error})") from error
