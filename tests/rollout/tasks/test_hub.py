"""Rows of a data set become prompts; the loader is written by hand, as no network is at hand."""

import sys
from types import SimpleNamespace

import pytest

from learner.warmstart import build_tokenizer
from rollout.tasks.hub import HubTask

ROWS = [
    {"question": "a1 b+2", "answer": "1 + 2 is\n#### 3", "kind": "sums", "number": 3},
    {"question": "a1 b*4", "answer": "one by four\n#### 4", "kind": "products", "number": 4.5},
]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture
def rows(monkeypatch):
    """Puts a loader of the given rows in the place of the package; returns its calls."""

    def install(found):
        calls = []

        def load_dataset(path, name, *, split, revision):
            calls.append((path, name, split, revision))
            if isinstance(found, Exception):
                raise found
            return found

        monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
        return calls

    return install


def test_rows_become_prompts(rows, tokenizer):
    calls = rows(ROWS)
    task = HubTask(
        dataset="owner/name", subset="main", revision="abc", answer_after="####", source="kind"
    )
    prompts = task.prompts(tokenizer)
    assert calls == [("owner/name", "main", "test", "abc")]
    assert [(p.text, p.answer, p.source) for p in prompts] == [
        ("a1 b+2", "3", "sums"),
        ("a1 b*4", "4", "products"),
    ]


def test_columns_instruction_and_source_are_settings(rows, tokenizer):
    rows(ROWS)
    task = HubTask(dataset="owner/name", answer="number", instruction="b2", chat=False)
    first, second = task.prompts(tokenizer)
    assert (first.text, first.answer, first.source) == ("a1 b+2\nb2", "3", "owner/name")
    assert second.answer == "4.5"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"question": "problem"}, r"owner/name:test:0 has no column 'problem'; set task.question"),
        ({"answer_after": "Answer:"}, r"owner/name:test:0 has nothing after task.answer_after"),
    ],
)
def test_settings_that_do_not_fit_are_refused(rows, tokenizer, settings, message):
    rows(ROWS)
    with pytest.raises(ValueError, match=message):
        HubTask(dataset="owner/name", **settings).prompts(tokenizer)


@pytest.mark.parametrize("value", [None, " ", True, ["3"]])
def test_an_answer_that_is_no_text_is_refused(rows, tokenizer, value):
    rows([{"question": "a1 b+2", "answer": value}])
    with pytest.raises(ValueError, match="owner/name:test:0 needs a text that is not blank"):
        HubTask(dataset="owner/name").prompts(tokenizer)


def test_what_cannot_be_loaded_is_one_sentence(rows, tokenizer):
    rows(FileNotFoundError("no such\ndata set"))
    with pytest.raises(ValueError, match=r"^task\.dataset cannot be loaded .*no such data set"):
        HubTask(dataset="owner/name").prompts(tokenizer)


def test_without_the_package_the_sentence_says_what_to_install(monkeypatch, tokenizer):
    # None makes an import fail as if the package were not there.
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"^task\.dataset needs the package datasets.*pip install"):
        HubTask(dataset="owner/name").prompts(tokenizer)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset": ""}, r"^task\.dataset must not be empty"),
        ({"dataset": "a", "split": ""}, r"^task\.split must not be empty"),
        ({"dataset": "a", "duplicates": "keep"}, r"^task\.duplicates must be refuse or skip"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        HubTask(**settings)
