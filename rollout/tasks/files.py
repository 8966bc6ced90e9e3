"""Rows of one file, by what it is called; see `rollout.tasks.rows`.

All of it is data: parsed, never executed. Every row comes with its place, for complaints.
"""

import csv
import gzip
import importlib
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

Row = dict[str, Any]
Placed = tuple[str, Row]
"""A place such as "data.jsonl:12", and the row there."""
_LONGEST_CELL = 100_000_000
_PACKED = ".gz"


def rows_of(path: Path) -> Iterator[Placed]:
    """Yield the rows of a file in order.

    Raises:
        ValueError: If it cannot be read, with the line or the remedy.
    """
    # A pipe would wait for a writer, and a device has no end.
    if path.exists() and not path.is_file():
        raise ValueError(f"task.path must be a regular file or a folder, got {str(path)!r}")
    readers = {".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet}
    with opened(path):
        pass
    kind = Path(path.stem) if path.suffix.lower() == _PACKED else path
    try:
        yield from readers.get(kind.suffix.lower(), _lines)(path)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is not whole ({error}); pack it with gzip anew") from error


def opened(path: Path) -> BinaryIO | gzip.GzipFile:
    """Open a file for its bytes, unpacked.

    Raises:
        ValueError: If it cannot be opened.
    """
    try:
        return gzip.open(path) if path.suffix.lower() == _PACKED else path.open("rb")
    except OSError as error:
        raise ValueError(
            f"task.path cannot be read ({error.strerror}), got {str(path)!r}"
        ) from error


def _lines(path: Path) -> Iterator[Placed]:
    with opened(path) as file:
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
    return as_row(row, place)


def _not_text(place: str, content: bytes) -> ValueError:
    return ValueError(
        f"{place} is not UTF-8 text; convert the file, or unpack it, got {content[:80]!r}"
    )


def as_row(row: Any, place: str) -> Row:
    """Return what JSON holds at a place if it is an object.

    Raises:
        ValueError: If it is none.
    """
    if not isinstance(row, dict):
        raise ValueError(f"{place} must be a JSON object, got {row!r:.80}")
    return row


def _json(path: Path) -> Iterator[Placed]:
    with opened(path) as file:
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
        yield f"{path}[{number}]", as_row(row, f"{path}[{number}]")


def _are_rows(value: Any) -> bool:
    """Whether a value is a list of rows, and not one of answers or messages of a single row."""
    rows = isinstance(value, list) and all(isinstance(row, dict) for row in value)
    return rows and not (value and all({"role", "content"} <= set(row) for row in value))


def _csv(path: Path) -> Iterator[Placed]:
    csv.field_size_limit(_LONGEST_CELL)
    delimiter = "\t" if ".tsv" in (suffix.lower() for suffix in path.suffixes[-2:]) else ","
    through = 0
    try:
        with io.TextIOWrapper(opened(path), encoding="utf-8-sig", newline="") as file:
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
    arrow = pyarrow_for(str(path))
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


def pyarrow_for(path: str) -> Any:
    """Import pyarrow, an optional package, to read what lies at a path.

    Raises:
        ValueError: If it is not installed.
    """
    try:
        return importlib.import_module("pyarrow")
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        raise ValueError(
            "task.path names Parquet or Arrow, which need the package pyarrow, which is not "
            f'installed: `pip install -e ".[hub]"`, got {path!r}'
        ) from error
