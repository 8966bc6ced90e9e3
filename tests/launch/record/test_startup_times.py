"""How long parts took to start the last time."""

import pytest

from launch.record.startup import Startup
from launch.record.startup_times import MOST, StartupTimes
from tests.launch.record.consoles import plain, text_of, without_times


def test_the_last_time_of_the_same_part_model_and_number_is_told(tmp_path):
    path = tmp_path / "cache" / "startup.json"
    StartupTimes("a", path).took("engines", 2, 13.24)
    StartupTimes("a", path).took("engines", 2, 12.04)
    assert StartupTimes("a", path).of("engines", 2) == 12.0
    assert StartupTimes("b", path).of("engines", 2) is None
    assert StartupTimes("a", path).of("engines", 1) is None
    assert StartupTimes("a", path).of("learners", 2) is None


def test_a_start_tells_of_the_one_before(tmp_path):
    times = StartupTimes("a", tmp_path / "startup.json")
    with Startup(last=times, console=plain()).part("engines"):
        pass
    times.took("engines", 1, 72.0)
    console = plain()
    with Startup(last=times, console=console).part("engines"):
        pass
    first, second = without_times(text_of(console)).splitlines()
    assert first == "starting engines (1m12s the last time)"
    assert second.startswith("ready  engines 0.")
    assert times.of("engines", 1) < 72.0


def test_what_failed_to_start_is_not_kept(tmp_path):
    times = StartupTimes("a", tmp_path / "startup.json")
    with pytest.raises(KeyError), Startup(last=times, console=plain()).part("engines"):
        raise KeyError("x")
    assert times.of("engines", 1) is None


@pytest.mark.parametrize(
    "foreign", [b"", b"\xff", b"[1]", b'{"a | e | 1": "x"}', b'{"a | e | 1": NaN}', b"[" * 100_000]
)
def test_a_foreign_file_is_no_error(tmp_path, foreign):
    path = tmp_path / "startup.json"
    path.write_bytes(foreign)
    times = StartupTimes("a", path)
    assert times.of("e", 1) is None
    times.took("e", 1, 3.0)
    assert times.of("e", 1) == 3.0


def test_a_place_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    times = StartupTimes("a", tmp_path / "file" / "startup.json")
    times.took("e", 1, 3.0)
    assert times.of("e", 1) is None


def test_the_oldest_go(tmp_path):
    times = StartupTimes("a", tmp_path / "startup.json")
    for number in range(MOST + 2):
        times.took("e", number, 1.0)
    assert times.of("e", 1) is None and times.of("e", 2) == 1.0 and times.of("e", MOST + 1) == 1.0


def test_times_of_a_user_without_a_folder_are_not_kept(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    times = StartupTimes("model")
    times.took("engines", 1, 1.0)
    assert times.of("engines", 1) is None and not list(tmp_path.iterdir())
