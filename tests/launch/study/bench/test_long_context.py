"""The bench of long rows, on rows that are not long."""

from dataclasses import replace

import pytest

from launch.study.bench.long_context import CONTESTANTS, LongRow, measure
from learner.numerics import Numerics
from tests.places import CHAIN_MODEL

MODEL = CHAIN_MODEL
NUMERICS = Numerics(dtype="float32", temperature=1.0)


@pytest.mark.parametrize("contestant", CONTESTANTS)
def test_lengths_double_until_the_longest(contestant):
    row = LongRow(chunk_tokens=48, shortest=64, longest_whole=256, longest=256)
    found = measure(str(MODEL), NUMERICS, contestant, row, 1)
    assert list(found) == [64, 128, 256]
    assert all(m.seconds > 0 and m.peak_bytes >= 0 for m in found.values())
    peaks = [m.peak_bytes for m in found.values()]
    assert peaks == sorted(peaks)


def test_a_contestant_stops_past_its_budget_or_when_slow():
    row = LongRow(chunk_tokens=48, shortest=64, longest=256)
    assert list(measure(str(MODEL), NUMERICS, "chunked", row, 1, -1)) == [64]
    slow = replace(row, most_seconds=0.0)
    assert list(measure(str(MODEL), NUMERICS, "chunked", slow, 5)) == [64]


def test_rows_are_whole_up_to_a_length():
    row = LongRow(chunk_tokens=48, shortest=64, longest_whole=128, longest=256)
    assert list(measure(str(MODEL), NUMERICS, "whole", row, 1)) == [64, 128]


def test_a_large_model_has_a_shorter_row_for_its_measure(tmp_path):
    assert LongRow.of_model(str(MODEL)).longest_whole == LongRow().longest_whole
    (tmp_path / "config.json").write_text(
        (MODEL / "config.json")
        .read_text()
        .replace('"intermediate_size": ', '"intermediate_size": 1000')
    )
    large = LongRow.of_model(str(tmp_path)).longest_whole
    assert LongRow().shortest <= large < LongRow().longest_whole
