"""The tracker `wandb`, without an account and without a network."""

import json
import math
import os
import socket
import struct
from dataclasses import fields, replace
from pathlib import Path

import pytest

from launch.record import wandb_tracker
from launch.record.restarts import Restart
from launch.record.tracking import RunInfo, Sample
from launch.record.wandb_tracker import MOST_CHARACTERS, MOST_ROWS, WandbTracker

SAMPLE = Sample("2+2?", "it is 4", "4", "4", 1.0, 4, 0.5, 2.0)


@pytest.fixture
def run(tmp_path: Path) -> RunInfo:
    return RunInfo("test", tmp_path / "test-run", {"seed": 3, "learner": {"lr": 1e-5}}, 2)


@pytest.fixture
def no_account(monkeypatch, tmp_path):
    """A machine on which nobody logged in to wandb, without a network."""
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / "netrc"))
    connect = socket.socket.connect

    def local_only(self, address):
        local = self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "localhost", "::1")
        assert local, f"connection to {address}"
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)
    import wandb

    wandb.teardown()
    yield
    wandb.teardown()


def test_wandb_offline_needs_no_account(run, no_account, capfd):
    import wandb

    tracker = WandbTracker().open(run)
    tracker.log(1, {"rollout/reward_mean": 0.5, "learner/loss": math.nan})
    tracker.samples(1, [SAMPLE])
    tracker.log(2, {"rollout/reward_mean": 0.6})
    tracker.close({"pass_rate_after": 0.5, "seconds": {"total": 3.0}})
    # The service process writes on after `close`; a program's end waits for it as this does.
    wandb.teardown()
    recorded = list((run.run_dir / "wandb").glob("offline-run-*/*.wandb"))
    assert len(recorded) == 1 and recorded[0].stat().st_size > 500
    printed = capfd.readouterr()
    assert printed.out == f"to upload the run: wandb sync {recorded[0].parent}\n"
    assert printed.err == ""


def records(path: Path) -> list:
    """What an offline run recorded: a log in LevelDB's format after 7 bytes of header.

    Blocks of 32 KiB hold parts of records: checksum (4 bytes), length (2), kind (1: all of it, 2:
    first, 3: middle, 4: last part), then the part; no part begins in a block's last 6 bytes.
    """
    from wandb.proto import wandb_internal_pb2

    content, position, parts, found = path.read_bytes(), 7, b"", []
    assert content[:4] == b":W&B"
    while position < len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        length, kind = struct.unpack_from("<HB", content, position + 4)
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            found.append(record)
            parts = b""
    return found


def read_items(items) -> dict:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def test_an_offline_wandb_run_holds_everything_but_the_key(run, no_account, monkeypatch, capfd):
    import wandb

    key = "0123456789abcdef" * 2 + "deadbeef"
    monkeypatch.setenv("WANDB_API_KEY", key)
    tracker = WandbTracker(group="baselines", tags=["plain", "seed-3"]).open(run)
    for step in (1, 2):
        tracker.log(step, {"rollout/reward_mean": step / 2})
    long = replace(SAMPLE, response="x" * (3 * MOST_CHARACTERS))
    tracker.samples(2, [long] * (3 * MOST_ROWS))
    tracker.close({"pass_rate_after": 0.5, "seconds": {"total": 3.0}, "spent": math.nan})
    wandb.teardown()

    [path] = (run.run_dir / "wandb").glob("offline-run-*/*.wandb")
    found = records(path)
    [opened] = [record.run for record in found if record.HasField("run")]
    assert (opened.display_name, opened.run_group) == ("test-run", "baselines")
    assert list(opened.tags) == ["plain", "seed-3"]
    config = read_items(opened.config.update)
    assert config["seed"] == 3 and config["learner"] == {"lr": 1e-5}
    history = [read_items(record.history.item) for record in found if record.HasField("history")]
    assert [row["rollout/reward_mean"] for row in history] == [0.5, 1.0]
    assert [row["_step"] for row in history] == [1, 2]
    summary: dict = {}
    for record in found:
        summary |= read_items(record.summary.update)
    assert summary["pass_rate_after"] == 0.5 and summary["seconds"] == {"total": 3.0}
    assert summary["spent"] is None

    table = json.loads((path.parent / "files" / history[1]["samples/path"]).read_text())
    assert table["columns"] == [field.name for field in fields(Sample)]
    assert len(table["data"]) == MOST_ROWS
    assert len(table["data"][0][1]) < MOST_CHARACTERS + 50

    printed = capfd.readouterr()
    assert key not in printed.out + printed.err
    written = [file for file in run.run_dir.rglob("*") if file.is_file()]
    assert path in written and len(written) > 2
    assert not [file for file in written if key.encode() in file.read_bytes()]


@pytest.mark.parametrize("rows", [1, 300])
def test_an_offline_run_that_a_full_disk_cut_short_is_told_of(run, no_account, monkeypatch, rows):
    import wandb

    tracker = WandbTracker().open(run)
    for step in range(rows):
        tracker.log(step, {f"metric/{number}": step / 7 for number in range(20)})
    [path] = (run.run_dir / "wandb").glob("offline-run-*/*.wandb")
    finish = tracker._run.finish

    def finish_on_a_full_disk():
        finish()
        wandb.teardown()
        os.truncate(path, path.stat().st_size - 20)

    monkeypatch.setattr(tracker._run, "finish", finish_on_a_full_disk)
    monkeypatch.setattr(wandb_tracker, "FLUSH_SECONDS", 0.0)
    with pytest.raises(OSError, match=r"\.wandb lacks the last steps"):
        tracker.close({"pass_rate_after": 0.5})


def test_a_wandb_run_goes_on_under_its_id(run, no_account, capsys):
    """Offline: a folder for each start, one run at wandb, one line to upload all."""
    import wandb

    tracker = WandbTracker().open(run)
    for step in (1, 2, 3):
        tracker.log(step, {"x": float(step)})
    state = json.loads(json.dumps(tracker.state_dict(), allow_nan=False))
    tracker.close({})
    again = WandbTracker().open(
        replace(run, config={"seed": 4}, first_step=2, state=state, restarts=[Restart(2, 1, 1, "")])
    )
    assert again.state_dict() == state
    for step in (3, 4):
        again.log(step, {"x": float(step)})
    again.close({})
    wandb.teardown()

    folders = sorted((run.run_dir / "wandb").glob("offline-run-*"))
    found = [records(path) for folder in folders for path in folder.glob("*.wandb")]
    opened = [record.run for each in found for record in each if record.HasField("run")]
    assert [each.run_id for each in opened] == [state["id"]] * 2
    assert [read_items(each.config.update)["seed"] for each in opened] == [3, 4]
    steps = [
        [read_items(record.history.item)["_step"] for record in each if record.HasField("history")]
        for each in found
    ]
    assert steps == [[1, 2, 3], [3, 4]]
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == f"to upload the run: wandb sync {folders[0]} {folders[1]}"


def test_wandb_online_without_an_account_is_one_clear_error(run, no_account):
    with pytest.raises(ValueError, match="online but no account is set: run `wandb login`"):
        WandbTracker(mode="online").open(run)


@pytest.mark.parametrize("tag", ["", "x" * 65])
def test_wandb_refuses_tags_that_it_could_not_send(tag):
    with pytest.raises(ValueError, match=r"tracker\.wandb\.tags must have 1 to 64 characters"):
        WandbTracker(tags=[tag])


def test_wandb_refuses_another_mode():
    with pytest.raises(ValueError, match=r"tracker\.wandb\.mode .* got 'shared'"):
        WandbTracker(mode="shared")
