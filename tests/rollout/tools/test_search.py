"""A user's texts are found by their words; a corpus that is none is refused."""

import asyncio
import json

import pytest

from rollout.tools.calls import Call
from rollout.tools.search import SearchTool
from rollout.tools.tool import Tool, observe, tools_by_name

pytest.importorskip("bm25s", reason="the extra `search` is not installed")
TEXTS = [
    {"title": "Paris", "text": "Paris is the capital of France."},
    {"text": "Rome is the capital of Italy."},
    {"text": "Bread is baked from flour and water."},
]


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n".join(map(json.dumps, TEXTS)) + "\n\n")
    return str(path)


def test_the_best_text_comes_first(corpus):
    tool = SearchTool(corpus, most_results=1)
    assert isinstance(tool, Tool)
    tools = tools_by_name([tool])

    def found(query):
        return asyncio.run(observe(Call("search", {"query": query}), tools))

    assert found("flour bread").text == TEXTS[2]["text"]
    assert found("capital France").text == "Paris: Paris is the capital of France."
    assert found("quantum").text == "(nothing found)"
    assert found("").failed


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "a corpus without a text"),
        ('{"text": " "}', "a corpus without a text"),
        ('{"text": "a"}\n{"body": "b"}', r"corpus\.jsonl:2 must be a JSON object with a text"),
        ("no", r"corpus\.jsonl:1 must be a JSON object with a text, got 'no'"),
        (None, "cannot be read"),
    ],
)
def test_a_corpus_that_is_none_is_refused(tmp_path, text, told):
    path = tmp_path / "corpus.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=told):
        SearchTool(str(path))
    with pytest.raises(ValueError, match="most_results must be at least 1"):
        SearchTool(str(path), most_results=0)
