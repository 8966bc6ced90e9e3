"""The bench of long rows, on rows that are not long."""

from dataclasses import replace

import pytest

from launch.program import build
from launch.study.bench.long_context import KINDS, LongRow, bench_long_context, measure
from tests.composing import composed
from tests.places import CHAIN_MODEL

ROW = LongRow(chunk_tokens=48, shortest=64, longest_whole=128, longest=256)


@pytest.fixture(scope="module")
def config():
    return build(composed("bench", f"model.path={CHAIN_MODEL}"))


@pytest.fixture(scope="module")
def found(config):
    row = replace(ROW, longest_whole=512, longest=1024)
    return bench_long_context(config, repetitions=1, warm_ups=0, row=row)


def test_lengths_double_until_the_longest(config):
    for kind, longest in (("whole", 128), ("checkpointed", 256), ("chunked", 256)):
        measured = measure(config, kind, ROW, 1)
        assert list(measured) == [n for n in (64, 128, 256) if n <= longest]
        assert all(m.seconds > 0 for m in measured.values())
        peaks = [m.peak_bytes for m in measured.values()]
        assert peaks == sorted(peaks) and peaks[0] > 0


def test_the_longest_whole_row_is_the_budget_within_which_chunks_go_further(found):
    assert set(found["measured"]) == set(KINDS)
    assert found["budget_bytes"] == found["measured"]["whole"]["512"]["peak_bytes"]
    longest = found["longest_within_budget"]
    assert longest["whole"] == 512 < longest["chunked"] == 1024


def test_a_kind_stops_past_its_budget_or_when_slow(config):
    assert list(measure(config, "chunked", ROW, 1, -1)) == [64]
    slow = replace(ROW, most_seconds=0.0)
    assert list(measure(config, "chunked", slow, 5)) == [64]


def test_a_large_model_has_a_shorter_row_for_its_measure(tmp_path):
    assert LongRow.of_model(str(CHAIN_MODEL)).longest_whole == LongRow().longest_whole
    (tmp_path / "config.json").write_text(
        (CHAIN_MODEL / "config.json")
        .read_text()
        .replace('"intermediate_size": ', '"intermediate_size": 1000')
    )
    large = LongRow.of_model(str(tmp_path)).longest_whole
    assert LongRow().shortest <= large < LongRow().longest_whole
