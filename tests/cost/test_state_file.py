import math
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost.state_file import load_state, save_state
from tests.cost.play import select

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
)
KEYS = st.text(max_size=5) | st.sampled_from(["array", "dict", "skeleton", "0"])
STATES = st.dictionaries(
    KEYS,
    st.recursive(
        LEAVES,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
        max_leaves=10,
    ),
    max_size=4,
)


@given(state=STATES)
@settings(max_examples=50, deadline=None)
def test_plain_data_comes_back(tmp_path_factory, state):
    path = tmp_path_factory.mktemp("state") / "state.npz"
    save_state(path, state)
    assert load_state(path) == state


def test_arrays_and_odd_numbers_come_back(tmp_path):
    arrays = [
        np.array([0.1, np.nan, -np.inf]), np.array([2**62]), np.array([True, False]),
        np.zeros((0,)), np.arange(6.0).reshape(2, 3).T, np.array(7), np.array(["a", "bc"]),
    ]  # fmt: skip
    state = {"deep": [{"arrays": arrays}], "nan": math.nan, "scalar": np.float64(0.1)}
    save_state(tmp_path / "state", state)
    found = load_state(tmp_path / "state")
    for array, original in zip(found["deep"][0]["arrays"], arrays, strict=True):
        assert array.dtype == original.dtype
        np.testing.assert_array_equal(array, original)
    assert math.isnan(found["nan"]) and found["scalar"] == 0.1


def test_a_scheduler_continues_from_the_file(tmp_path, make_scheduler, make_report):
    scheduler, other = make_scheduler(), make_scheduler()
    for batch in range(3):
        reports = [make_report(ticket) for ticket in scheduler.draw(batch, batch).tickets]
        select(scheduler, batch, reports)
    # One batch is out, and half of it reported.
    for ticket in scheduler.draw(3, 2).tickets[::2]:
        scheduler.observe(make_report(ticket))
    save_state(tmp_path / "state", scheduler.state_dict())
    other.load_state_dict(load_state(tmp_path / "state"))
    for one in (scheduler, other):
        (undone,) = one.resume(3, [])
        select(one, 3, [make_report(ticket) for ticket in undone.draw.tickets])
    for batch in (4, 5):
        draw = scheduler.draw(batch, batch)
        assert other.draw(batch, batch) == draw
        for ticket in draw.tickets:
            scheduler.observe(make_report(ticket))
            other.observe(make_report(ticket))
    assert other.metrics() == pytest.approx(scheduler.metrics(), nan_ok=True)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": {"b": object()}}, r"state\.a\.b must hold plain data"),
        ({"a": np.array([None])}, r"state\.a must hold plain data"),
        ({"a": {1: 2}}, r"state\.a must have strings for keys, got \[1\]"),
    ],
)
def test_what_cannot_be_written_leaves_the_old_file(tmp_path, state, message):
    path = tmp_path / "state"
    save_state(path, {"old": 1})
    with pytest.raises(TypeError, match=message):
        save_state(path, state)
    assert load_state(path) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    def interrupted(file, **arrays):
        file.write(b"half")
        raise OSError("no space left")

    path = tmp_path / "state"
    save_state(path, {"old": 1})
    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(OSError, match="no space left"):
        save_state(path, {"new": 2})
    assert load_state(path) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_refuses_other_files(tmp_path):
    path = tmp_path / "state"
    for content in (b"", b"text", b"PK\x03\x04broken"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"path must be a file of save_state, got .*state"):
            load_state(path)
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="path must be a file of save_state"):
        load_state(tmp_path / "other.npz")
    with pytest.raises(FileNotFoundError):
        load_state(tmp_path / "none")


def test_never_unpickles(tmp_path):
    """An array of objects is a pickle inside the archive."""
    path = tmp_path / "state"
    save_state(path, {"a": np.zeros(3)})
    with zipfile.ZipFile(path) as archive:
        skeleton = archive.read("skeleton.npy")
    np.savez(tmp_path / "evil.npz", **{"0": np.array([{}], dtype=object)})
    with zipfile.ZipFile(tmp_path / "evil.npz", "a") as archive:
        archive.writestr("skeleton.npy", skeleton)
    with pytest.raises(ValueError, match="path must be a file of save_state"):
        load_state(tmp_path / "evil.npz")
