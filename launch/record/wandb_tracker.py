"""The tracker `wandb`: a run at Weights & Biases."""

import glob
import json
import os
import shlex
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from cost.draws.distribution import DrawCells
from launch.record.json_file import json_ready
from launch.record.tracking import OpenTracker, RunInfo, Sample

LONGEST_TAG = 64
"""Most characters of a tag; wandb refuses longer ones."""
FINISH_SECONDS = 300.0
"""Longest wait at a run's end for what wandb has not uploaded; `wandb sync` uploads it later."""
FLUSH_SECONDS = 10.0
"""Longest wait for wandb's process to write the end of an offline run, after `finish`."""
BLOCK = 32768
"""Bytes in which the file of an offline run is divided."""
MOST_ROWS = 64
MOST_CHARACTERS = 20_000
"""Most of a table of samples at wandb, whose pages grow slow with large ones."""


@dataclass(frozen=True, slots=True)
class WandbTracker:
    """Sends metrics, samples, configuration and results to Weights & Biases.

    Offline needs no account and no network; the run lies in the folder `wandb` in the run folder,
    and the line printed at its end uploads it later. The account is wandb's own business: `wandb
    login` or WANDB_API_KEY, which no file of the run folder holds.

    A run that goes on after a stop goes on at wandb under the same id, whose history only grows:
    online wandb passes over steps that it has already, so that lost steps stay there as they were
    before the stop. Offline every start leaves a folder of its own, with all steps that it took;
    the line printed at the end uploads all of them, in order.
    """

    project: str = "cost-aware-rl"
    """Under which wandb lists the run."""
    mode: str = "offline"
    """"offline" or "online"."""
    group: str | None = None
    """Name under which wandb shows runs together; None for none. A comparison puts its own name."""
    tags: Sequence[str] = ()
    """Labels of the run; a comparison adds arm and seed."""

    def __post_init__(self) -> None:
        """Check the mode and what wandb takes for a tag."""
        if self.mode not in ("offline", "online"):
            raise ValueError(f"tracker.wandb.mode must be offline or online, got {self.mode!r}")
        if any(not 1 <= len(tag) <= LONGEST_TAG for tag in self.tags):
            raise ValueError(
                f"tracker.wandb.tags must have 1 to {LONGEST_TAG} characters each, "
                f"got {list(self.tags)!r}"
            )

    def open(self, run: RunInfo) -> OpenTracker:
        """Start a wandb run.

        Raises:
            ValueError: If the mode is online and wandb knows no account.
        """
        # wandb would advertise another product on every start.
        os.environ.setdefault("WANDB_DISABLE_WEAVE", "true")
        import wandb

        if self.mode == "online" and not wandb.login(prompt=False):
            raise ValueError(
                "tracker.wandb.mode is online but no account is set: run `wandb login`, set "
                f"WANDB_API_KEY, or use mode offline, got {self.mode!r}"
            )
        run.run_dir.mkdir(parents=True, exist_ok=True)
        known = run.state.get("id")
        return _OpenWandb(
            wandb.init(
                project=self.project,
                id=known,
                # Not `resume_from`, which rewinds: servers without that would refuse the run.
                resume="allow" if known else None,
                name=run.title,
                group=self.group,
                tags=list(self.tags),
                dir=str(run.run_dir),
                config=dict(run.config),
                mode="online" if self.mode == "online" else "offline",
                # wandb would read the terminal, the git remote and the list of packages.
                settings=wandb.Settings(
                    silent=True,
                    console="off",
                    disable_git=True,
                    x_save_requirements=False,
                    finish_timeout=FINISH_SECONDS,
                    finish_timeout_raises=True,
                ),
            ),
            offline=self.mode == "offline",
        )


class _OpenWandb:
    def __init__(self, run: Any, *, offline: bool) -> None:
        self._run = run
        self._offline = offline

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def samples(self, step: int, rows: Sequence[Sample]) -> None:
        import wandb

        columns: list[str | int] = [field.name for field in fields(Sample)]
        data = [[_short(value) for value in asdict(row).values()] for row in rows[:MOST_ROWS]]
        table = wandb.Table(columns=columns, data=data)
        self._run.log({"samples": table}, step=step)

    def cells(self, step: int, cells: DrawCells) -> None:
        """The metrics say how far from uniform the draws are; the files have the rest."""

    def state_dict(self) -> dict[str, Any]:
        return {"id": self._run.id}

    def close(self, summary: Mapping[str, object]) -> None:
        self._run.summary.update(json_ready(summary))
        folder = Path(self._run.dir).parent
        self._run.finish()
        if self._offline:
            # One folder a start; their names begin with the time.
            folders = sorted(folder.parent.glob(f"offline-run-*-{glob.escape(self._run.id)}*"))
            print(f"to upload the run: wandb sync {shlex.join(map(str, folders))}")
            _require_end(folder / f"run-{self._run.id}.wandb")


def _require_end(path: Path) -> None:
    """Check that an offline run is written to its end, of which wandb only writes a log.

    Raises:
        OSError: If its file ends before, as on a full disk.
    """
    until = time.monotonic() + FLUSH_SECONDS
    while not _has_end(path):
        if time.monotonic() >= until:
            raise OSError(f"{path} lacks the last steps and the results, as where the disk is full")
        time.sleep(0.1)


def _has_end(path: Path) -> bool:
    """Whether the last record is the one of a run's end, which fits into the last two blocks.

    Behind 7 bytes blocks hold parts of records: checksum (4 bytes), length (2), kind (1: all of a
    record, 2: its first part, 3, 4: a further one), then the part. None begins in a block's last 6
    bytes.
    """
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record

    with path.open("rb") as file:
        begin = max(path.stat().st_size // BLOCK - 1, 0) * BLOCK
        file.seek(begin)
        content = file.read()
    position, last = 0 if begin else 7, b""
    while position + 7 <= len(content):
        if (left := BLOCK - position % BLOCK) < 7:
            position += left
            continue
        length, kind = struct.unpack_from("<HB", content, position + 4)
        part = content[position + 7 : position + 7 + length]
        last = part if kind <= 2 else last + part
        position += 7 + length
    try:
        return bool(Record.FromString(last).HasField("exit"))
    except DecodeError:
        return False


def _short(value: Any) -> Any:
    """Cut a text that is too long for a table; the files have all of it."""
    if isinstance(value, tuple):
        value = json.dumps(value) if value else ""
    if isinstance(value, str) and len(value) > MOST_CHARACTERS:
        return value[:MOST_CHARACTERS] + f" ... ({len(value):,} characters)"
    return value
