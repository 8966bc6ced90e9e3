"""Rows of a data set, wherever it lies: files, saved folders, the Hugging Face hub.

    path                       read as                                 needs
    FILE.jsonl, or any other   one JSON object a line
    FILE.json                  a list of objects, or one inside an object; or one object a line
    FILE.csv, FILE.tsv         a header and rows
    FILE.parquet               rows                                    pyarrow
    FOLDER of `save_to_disk`   rows, or those of one split             pyarrow
    other FOLDER, owner/name   what `datasets.load_dataset` reads      datasets

All of it is data: parsed, never executed. Every row comes with its place, for complaints.
"""

import csv
import importlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Placed = tuple[str, Row]
"""A place such as "data.jsonl:12", and the row there."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_LONGEST_CELL = 100_000_000


@dataclass(frozen=True, slots=True)
class Rows:
    """Where rows are read from.

    Example: Rows("openai/gsm8k", subset="main", hub_split="test[:200]") reads from the hub.
    """

    path: str
    """A file, a folder, or the id of a data set on the hub."""
    subset: str | None = None
    """Configuration of the data set on the hub; None where it has one only."""
    hub_split: str | None = None
    """The split's name in the data set's own words; None is "train" of several, and all of one."""
    revision: str | None = None
    """Commit, tag or branch on the hub."""

    @property
    def name(self) -> str:
        """What the rows' source is called: a hub id as it is, a file by its stem."""
        path = Path(self.path)
        return path.stem if path.exists() else self.path

    def read(self) -> Iterator[Placed]:
        """Yield the rows in order.

        Raises:
            ValueError: If it cannot be read, with the line or the remedy.
        """
        path = Path(self.path)
        if path.is_dir():
            if any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
                return self._saved(path)
            return self._loaded()
        if not path.exists() and not path.suffix and HUB_ID.fullmatch(self.path):
            return self._loaded()
        self._refuse_split(path)
        return _of_file(path)

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
        arrow = _pyarrow(str(folder))
        number = 0
        for file in files:
            # A name, and not a way out of the folder.
            with _opened(folder / Path(file).name) as stream:
                for batch in arrow.ipc.open_stream(stream):
                    for row in batch.to_pylist():
                        yield f"{folder}:{number}", row
                        number += 1

    def _loaded(self) -> Iterator[Placed]:
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
            found = datasets.load_dataset(
                self.path, self.subset, split=split, revision=self.revision
            )
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


def _of_file(path: Path) -> Iterator[Placed]:
    # A pipe would wait for a writer, and a device has no end.
    if path.exists() and not path.is_file():
        raise ValueError(f"task.path must be a regular file or a folder, got {str(path)!r}")
    readers = {".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet}
    with _opened(path):
        pass
    return readers.get(path.suffix.lower(), _lines)(path)


def _opened(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise ValueError(
            f"task.path cannot be read ({error.strerror}), got {str(path)!r}"
        ) from error


def _lines(path: Path) -> Iterator[Placed]:
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"{path}:{number}", _parsed(line, f"{path}:{number}")


def _parsed(line: bytes, place: str) -> Row:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise _not_text(place, line) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{place} is not JSON ({error}); write one object a line, got {line[:80]!r}"
        ) from error
    return _object(row, place)


def _not_text(place: str, content: bytes) -> ValueError:
    return ValueError(
        f"{place} is not UTF-8 text; convert the file, or unpack it, got {content[:80]!r}"
    )


def _object(row: Any, place: str) -> Row:
    if not isinstance(row, dict):
        raise ValueError(f"{place} must be a JSON object, got {row!r:.80}")
    return row


def _json(path: Path) -> Iterator[Placed]:
    with _opened(path) as file:
        content = file.read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].split(b"\n")
        line = content[error.start - len(before[-1]) :]
        raise _not_text(f"{path}:{len(before)}", line) from error
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("["):
            raise ValueError(
                f"{path} is not JSON ({error}); correct the list of objects"
            ) from error
        # Many a file called .json has one object a line; a fault is then told with its line.
        yield from _lines(path)
        return
    if isinstance(found, dict):
        lists = [value for value in found.values() if _are_rows(value)]
        found = lists[0] if len(lists) == 1 else [found]
    if not isinstance(found, list):
        raise ValueError(f"{path} must hold a list of objects, got {found!r:.80}")
    for number, row in enumerate(found):
        yield f"{path}[{number}]", _object(row, f"{path}[{number}]")


def _are_rows(value: Any) -> bool:
    """Whether a value is a list of rows, and not one of answers or messages of a single row."""
    rows = isinstance(value, list) and all(isinstance(row, dict) for row in value)
    return rows and not (value and all({"role", "content"} <= set(row) for row in value))


def _csv(path: Path) -> Iterator[Placed]:
    csv.field_size_limit(_LONGEST_CELL)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    through = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            # Without strict, a quote that nothing closes would take all rows after it for its text.
            reader = csv.DictReader(file, delimiter=delimiter, strict=True)
            names = [name for name in reader.fieldnames or () if name]
            through = reader.line_num if reader.fieldnames else 0
            if len(set(names)) < len(names):
                raise ValueError(f"{path}:{through} must name each column once, got {names!r:.200}")
            for row in reader:
                place = f"{path}:{reader.line_num}"
                if None in row or None in row.values():
                    raise ValueError(
                        f"{place} has other fields than the header; quote fields with a "
                        f"{delimiter!r} or a line break in them, got {list(row.values())!r:.80}"
                    )
                yield place, dict(row)
                through = reader.line_num
    except UnicodeDecodeError as error:
        raise _not_text(str(path), error.object) from error
    except csv.Error as error:
        raise ValueError(
            f"{path}:{through + 1} is not CSV ({error}); close the quotes of its fields, and write "
            'a quote in one of them as ""'
        ) from error


def _parquet(path: Path) -> Iterator[Placed]:
    arrow = _pyarrow(str(path))
    parquet = importlib.import_module("pyarrow.parquet")
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    yield f"{path}:row {number}", row
                    number += 1
    except arrow.ArrowException as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"task.path is not Parquet ({reason:.200}), got {str(path)!r}") from error


def _pyarrow(path: str) -> Any:
    try:
        return importlib.import_module("pyarrow")
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        raise ValueError(
            "task.path names Parquet or Arrow, which need the package pyarrow, which is not "
            f'installed: `pip install -e ".[hub]"`, got {path!r}'
        ) from error


def _json_of(path: Path) -> Any:
    with _opened(path) as file:
        text = file.read()
    try:
        return _object(json.loads(text), str(path))
    except ValueError as error:
        raise ValueError(f"{path} is not what save_to_disk writes ({error})") from error
