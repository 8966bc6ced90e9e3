import copy
import math
import struct
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
@settings(max_examples=50)
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
        with pytest.raises(ValueError, match=r"path must be a file of save_state .*, got .*state"):
            load_state(path)
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="path must be a file of save_state"):
        load_state(tmp_path / "other.npz")
    with pytest.raises(FileNotFoundError):
        load_state(tmp_path / "none")


def npy(*, shape=(3,), dtype="<f8", content=bytes(24)):
    """A file of numpy with whatever header."""
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    header += " " * (-(10 + len(header) + 1) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + content


def write_archive(path, array, skeleton='{"dict": {"a": {"array": 0}}}', kind=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("0.npy", array)
        text = skeleton.encode()
        archive.writestr("skeleton.npy", npy(shape=(len(text),), dtype="|u1", content=text))
    return path


def test_reads_an_archive_made_by_hand(tmp_path):
    assert load_state(write_archive(tmp_path / "state", npy()))["a"].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (npy(shape=(10**15,)), r"0\.npy must hold what its header says, .* in 152 bytes"),
        (npy(shape=(10**40,)), "must hold what its header says"),
        (npy(shape=(10**40, 0), content=b""), "OverflowError|ValueError"),
        (npy(shape=(-3, -1)), "must hold what its header says"),
        (npy(shape=(10**15,), dtype="<U0", content=b""), "must hold what its header says"),
        (npy(dtype="|O"), "must hold what its header says|Object arrays"),
        (npy(shape=(3,), dtype="<f8", content=bytes(23)), "must hold what its header says"),
        (b"\x93NUMPY\x09\x00" + bytes(90), "KeyError"),
        (b"", "EOF"),
    ],
)
def test_an_array_is_no_larger_than_its_bytes(array, reason, tmp_path):
    path = write_archive(tmp_path / "state", array)
    with pytest.raises(ValueError, match=rf"^path must be a file of save_state \(.*({reason})"):
        load_state(path)


@pytest.mark.parametrize(
    "skeleton",
    [
        '{"dict": {"a": {"array": 0}, "b": {"array": 0}}}',
        '{"dict": {"a": {"array": "skeleton"}}}',
        '{"dict": 5}', '{"array": 0', "{}", "[]", "[" * 9**6,
    ],
)  # fmt: skip
def test_an_odd_skeleton_is_one_error(skeleton, tmp_path):
    """Above all one that names an array so often that it fills the memory."""
    path = write_archive(tmp_path / "state", npy(), skeleton)
    with pytest.raises(ValueError, match=r"^path must be a file of save_state \("):
        load_state(path)


def test_a_bomb_is_not_unpacked(tmp_path):
    large = npy(shape=(10**7,), content=bytes(8 * 10**7))
    path = write_archive(tmp_path / "state", large, kind=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10**6
    with pytest.raises(ValueError, match="its arrays must not be compressed"):
        load_state(path)


def test_entries_that_overlap_are_not_read(tmp_path):
    path = write_archive(tmp_path / "state", npy(shape=(10**4,), content=bytes(8 * 10**4)))
    with zipfile.ZipFile(path, "a") as archive:
        first = archive.infolist()[0]
        for name in range(1, 100):
            again = copy.copy(first)
            again.filename = again.orig_filename = f"{name}.npy"
            archive.filelist.append(again)
        archive._didModify = True
    assert path.stat().st_size < 10**5
    with pytest.raises(ValueError, match=r"its arrays must lie within its \d+ bytes"):
        load_state(path)


@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
@settings(max_examples=200)
def test_a_byte_that_changed_is_at_most_one_kind_of_error(tmp_path_factory, place, value):
    path = tmp_path_factory.mktemp("state") / "state"
    save_state(path, {"a": np.arange(4.0), "b": [1, "two", None]})
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] = value
    path.write_bytes(content)
    try:
        load_state(path)
    except ValueError as error:
        assert str(error).startswith("path must be a file of save_state (")


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
