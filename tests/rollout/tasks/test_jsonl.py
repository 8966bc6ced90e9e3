import json

import pytest

from launch.models.warmstart import build_tokenizer
from rollout.rewards.chain import ChainReward
from rollout.tasks.jsonl import JsonlTask


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture
def write(tmp_path):
    def write(*lines):
        path = tmp_path / "mine.jsonl"
        rows = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")
        return str(path)

    return write


def test_a_file_becomes_prompts(write, tokenizer):
    path = write(
        {"prompt": "2+2?", "answer": "4", "difficulty": 1},
        "",
        {
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": "1+1?"},
            ],
            "answer": "2",
            "source": "sums",
        },
    )
    first, second = JsonlTask(path=path).prompts(tokenizer)
    assert (first.text, first.answer, first.source) == ("2+2?", "4", "mine")
    assert (second.text, second.answer, second.source) == ("1+1?", "2", "sums")
    assert tokenizer.decode(second.token_ids).startswith("<|system|>be brief<|end|><|user|>1+1?")


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ("4", "4"),
        ("-2.50", "-2.5"),
        ("1e-7", "1e-07"),
        ("true", "true"),
        ("false", "false"),
        ('{"asserts":["a"]}', '{"asserts": ["a"]}'),
    ],
)
def test_an_answer_may_be_a_number_a_boolean_or_an_object(write, tokenizer, value, answer):
    task = JsonlTask(path=write(f'{{"prompt": "2+2?", "answer": {value}}}'))
    assert [prompt.answer for prompt in task.prompts(tokenizer)] == [answer]


GOOD = {"prompt": "2+2?", "answer": "4"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", r"mine.jsonl:2 is not JSON \(.*\); write one object a line, got"),
        ("[1, 2]", r"mine.jsonl:2 must be a JSON object, got \[1, 2\]"),
        ({"answer": "4"}, r"mine.jsonl:2 needs either prompt or messages, got keys \['answer'\]"),
        (
            {"prompt": "a", "messages": [], "answer": "4"},
            "mine.jsonl:2 needs either prompt or messages",
        ),
        ({"prompt": "a"}, r"mine.jsonl:2 has no answer; add it as a string, got keys \['prompt'\]"),
        ({"prompt": "a", "answer": [4]}, r"mine.jsonl:2 needs answer as a string .*got \[4\]"),
        ({"prompt": "a", "answer": None}, "mine.jsonl:2 needs answer as a string .*got None"),
        ('{"prompt": "a", "answer": NaN}', "mine.jsonl:2 needs answer as a string .*got nan"),
        ({"prompt": 4, "answer": "4"}, "mine.jsonl:2 needs prompt as a string .*got 4"),
        ({"prompt": " ", "answer": "4"}, "mine.jsonl:2 needs prompt as a string .*got ' '"),
        ({"messages": [], "answer": "4"}, r"mine.jsonl:2 needs messages as a list .*got \[\]"),
        ({"messages": [{"role": "user"}], "answer": "4"}, "mine.jsonl:2 needs messages as a list"),
        (
            {"messages": [{"role": "assistant", "content": "a"}], "answer": "4"},
            "mine.jsonl:2 must end with a user message, got role 'assistant'",
        ),
        ({"prompt": "a", "answer": "4", "source": 3}, "mine.jsonl:2 needs source as a string"),
        (GOOD, "mine.jsonl:2 repeats the prompt of .*mine.jsonl:1; .*task.duplicates=skip"),
        ({"prompt": "x" * 99, "answer": "4"}, "mine.jsonl:2 is longer than the 50 tokens"),
        ({"prompt": "a", "answer": "four"}, "mine.jsonl:2 has an answer that the reward refuses"),
        ("[" * 200_000, "mine.jsonl:2 is not JSON"),
    ],
)
def test_a_bad_line_is_named(write, tokenizer, line, message):
    task = JsonlTask(path=write(GOOD, line))
    with pytest.raises(ValueError, match=message):
        task.prompts(tokenizer, max_tokens=50, check=ChainReward().check)


def test_bytes_that_are_not_utf8_are_named(tmp_path, tokenizer):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"prompt": "\xff", "answer": "1"}\n')
    with pytest.raises(ValueError, match=r"mine.jsonl:2 is not UTF-8; convert the file"):
        JsonlTask(path=str(path)).prompts(tokenizer)


def test_a_missing_and_an_empty_file_are_named(write, tmp_path, tokenizer):
    with pytest.raises(ValueError, match=r"task.path cannot be read \(No such file"):
        JsonlTask(path=str(tmp_path / "absent.jsonl")).prompts(tokenizer)
    with pytest.raises(ValueError, match=r"task.path names an empty file; add a line, got"):
        JsonlTask(path=write("", "")).prompts(tokenizer)


def test_long_and_repeated_prompts_can_be_skipped(write, tokenizer):
    path = write(GOOD, {"prompt": "x" * 99, "answer": "1"}, GOOD, {"prompt": "b", "answer": "1"})
    task = JsonlTask(path=path, long_prompts="skip", duplicates="skip")
    assert [p.text for p in task.prompts(tokenizer, max_tokens=50)] == ["2+2?", "b"]


def test_one_file_divides_into_two_splits(write, tokenizer):
    path = write(*({"prompt": f"question {i}", "answer": "1"} for i in range(200)))
    splits = {
        split: {
            p.text for p in JsonlTask(path=path, split=split, held_out_one_in=5).prompts(tokenizer)
        }
        for split in ("all", "train", "held_out")
    }
    assert splits["train"] | splits["held_out"] == splits["all"]
    assert not splits["train"] & splits["held_out"]
    assert 20 <= len(splits["held_out"]) <= 60


def test_messages_need_the_chat_template(write, tokenizer):
    path = write({"messages": [{"role": "user", "content": "hi"}], "answer": "1"})
    with pytest.raises(ValueError, match=r"mine.jsonl:1 holds messages.*task.chat=true"):
        JsonlTask(path=path, chat=False).prompts(tokenizer)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "test"}, "task.split must be one of train, held_out, all, got 'test'"),
        ({"held_out_one_in": 1}, "task.held_out_one_in must be at least 2, got 1"),
        ({"duplicates": "drop"}, "task.duplicates must be refuse or skip, got 'drop'"),
        ({"long_prompts": "cut"}, "task.long_prompts must be refuse or skip, got 'cut'"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        JsonlTask(path="mine.jsonl", **settings)
