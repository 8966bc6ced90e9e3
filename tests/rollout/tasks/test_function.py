"""Tasks that are a function or a class of one file."""

import pytest

from rollout.tasks.function import FunctionTask
from tests.test_documents import LetterTokenizer

FILE = """
class Sums:
    def __init__(self, split="train", number=2):
        self.split, self.number = split, number

    def prompts(self, tokenizer, *, max_tokens=None, check=None):
        return [self.split] * self.number


class Whole:
    def prompts(self, tokenizer, *, max_tokens=None, check=None):
        return []


def rows(number=40):
    for k in range(number):
        yield {"prompt": f"{k}+1?", "answer": k + 1, "level": k % 3}


def of_split(split):
    return [{"prompt": split, "answer": "1"}]


def bad():
    yield {"prompt": "1?", "answer": "1"}
    yield {"prompt": "2?"}


def odd():
    yield {"prompt": "1?", "answer": "1", "level": object()}


def none():
    return 3
"""


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "tasks_of_mine.py"
    path.write_text(FILE)
    return lambda name, **given: FunctionTask(f"{path}:{name}", **given)


def test_rows_are_divided_by_their_text_and_keep_their_columns(task):
    parts = {
        split: task("rows", split=split).prompts(LetterTokenizer())
        for split in ("all", "train", "held_out")
    }
    texts = {split: [prompt.text for prompt in prompts] for split, prompts in parts.items()}
    assert len(texts["all"]) == 40
    assert sorted(texts["train"] + texts["held_out"]) == sorted(texts["all"])
    assert texts["held_out"] and texts["train"]
    first = parts["all"][4]
    assert (first.answer, first.source, first.columns["level"]) == ("5", "rows", 1)
    assert len(task("rows", settings={"number": 3}).prompts(LetterTokenizer())) == 3


def test_a_function_that_takes_its_split_divides_itself(task):
    for split in ("train", "held_out"):
        (prompt,) = task("of_split", split=split).prompts(LetterTokenizer())
        assert prompt.text == split


def test_a_class_gets_its_split_and_settings(task):
    assert task("Sums", split="held_out", settings={"number": 1}).prompts(None) == ["held_out"]
    assert task("Sums").prompts(None) == ["train", "train"]
    assert task("Whole", split="train").prompts(None) == []
    with pytest.raises(ValueError, match=r"^task\.path names a class without the parameter split"):
        task("Whole", split="held_out")


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("bad", {}, r"^row 2 of .*tasks_of_mine\.py:bad has no answer"),
        ("odd", {}, r"^row 1 of .* must hold plain values"),
        ("none", {}, "must name a function that yields rows, got 3"),
        ("rows", {"settings": {"nubmer": 3}}, "cannot be called .*nubmer"),
        (
            "rows",
            {"split": "held_out", "settings": {"number": 1}},
            r"^all of the 1 questions of .* training.* give the function a parameter split",
        ),
        ("rows", {"settings": {"number": 0}}, r"^task\.path must name a function that yields rows"),
    ],
)
def test_what_cannot_be_used_is_said_with_its_place(task, name, given, told):
    with pytest.raises(ValueError, match=told):
        task(name, **given).prompts(LetterTokenizer())
