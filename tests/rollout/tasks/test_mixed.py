import json
import logging

import pytest

from launch.models.warmstart import build_tokenizer
from rollout.tasks.dataset import DatasetTask
from rollout.tasks.mixed import MixedTask, shares


@pytest.fixture
def sets(tmp_path):
    """Two files of 10 and 40 questions, of which 4 are in both."""
    found = {}
    for name, numbers in {"a": range(10), "b": range(6, 46)}.items():
        path = tmp_path / f"{name}.jsonl"
        rows = ({"prompt": f"number {i}", "answer": i} for i in numbers)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        found[name] = DatasetTask(path=str(path))
    return found


def test_sets_are_put_together_without_repeats(sets, caplog):
    with caplog.at_level(logging.WARNING):
        found = MixedTask(sets=sets).prompts(build_tokenizer())
    assert [prompt.index for prompt in found] == list(range(46))
    assert [prompt.source for prompt in found] == ["a"] * 10 + ["b"] * 36
    assert "task.sets (10 of a, 36 of b): 46 prompts; left out: 4 of b in a set" in caplog.text


def test_weights_are_shares_of_the_prompts(sets):
    found = MixedTask(sets=sets, weights={"a": 1, "b": 2}).prompts(build_tokenizer())
    sources = [prompt.source for prompt in found]
    assert (sources.count("a"), sources.count("b")) == (10, 20)
    assert len({prompt.text for prompt in found}) == 30
    assert [prompt.index for prompt in found] == list(range(30))


def test_the_largest_mixture_with_the_weights_is_taken():
    assert shares({"a": 10, "b": 36}, {}) == {"a": 10, "b": 36}
    assert shares({"a": 10, "b": 36}, {"b": 9}) == {"a": 4, "b": 36}
    assert shares({"a": 10, "b": 36}, {"a": 1000}) == {"a": 10, "b": 1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sets": {}}, "task.sets must name at least one task"),
        ({"sets": {"a": 3}}, "task.sets.a must be a task, got 3"),
        ({"weights": {"c": 1}}, "task.weights must name sets, one of a, b, got 'c'"),
        ({"weights": {"a": 0}}, "task.weights.a must be positive, got 0"),
    ],
)
def test_settings_that_fit_no_sets_are_refused(sets, settings, message):
    with pytest.raises(ValueError, match=message):
        MixedTask(**{"sets": sets, **settings})


def test_a_complaint_names_the_set(sets):
    sets["b"] = DatasetTask(path="absent.jsonl")
    with pytest.raises(ValueError, match=r"^task\.sets\.b\.path cannot be read"):
        MixedTask(sets=sets).prompts(build_tokenizer())
