import copy
import json
import logging

import pytest

from launch.models.warmstart import build_tokenizer
from rollout.rewards.chain import ChainReward
from rollout.rewards.math_answer import MathReward
from rollout.tasks.dataset import DatasetTask
from rollout.tasks.prompts import is_held_out


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
    first, second = DatasetTask(path=path).prompts(tokenizer)
    assert (first.text, first.answer, first.source) == ("2+2?", "4", "mine")
    assert (second.text, second.answer, second.source) == ("1+1?", "2", "sums")
    assert tokenizer.decode(second.token_ids).startswith("<|system|>be brief<|end|><|user|>1+1?")


@pytest.mark.parametrize(
    ("value", "answer"),
    [("4", "4"), ("-2.50", "-2.5"), ("1e-7", "1e-07"), ("true", "true"), ("false", "false")],
)
def test_an_answer_may_be_a_number_or_a_boolean(write, tokenizer, value, answer):
    task = DatasetTask(path=write(f'{{"prompt": "2+2?", "answer": {value}}}'))
    assert [prompt.answer for prompt in task.prompts(tokenizer)] == [answer]


GOOD = {"prompt": "2+2?", "answer": "4"}
NO_PROMPT = "mine.jsonl:2 must have one of the columns prompt, messages, problem, question, or task"
NO_TEXT = "mine.jsonl:2 needs a number, a boolean or a text that is not blank in"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", r"mine.jsonl:2 is not JSON \(.*\); write one object a line, got"),
        ("[1, 2]", r"mine.jsonl:2 must be a JSON object, got \[1, 2\]"),
        ({"answer": "4"}, rf"{NO_PROMPT}.*got \['answer'\]"),
        ({"prompt": "a", "messages": [], "answer": "4"}, NO_PROMPT),
        ({"prompt": "a"}, r"mine.jsonl:2 has no answer: .* task.answer, got \['prompt'\]"),
        ({"prompt": "a", "answer": None}, r"mine.jsonl:2 has no answer: .*"),
        ('{"prompt": "a", "answer": NaN}', f"{NO_TEXT} answer, got nan"),
        ({"prompt": "a", "answer": []}, rf"{NO_TEXT} answer, got \[\]"),
        ({"prompt": "a", "answer": ["4", ""]}, f"{NO_TEXT} answer, got ''"),
        ({"prompt": 4, "answer": "4"}, "mine.jsonl:2 needs a text, or a list of objects with .* 4"),
        ({"prompt": " ", "answer": "4"}, "mine.jsonl:2 needs a text that is not blank in prompt"),
        ({"messages": [], "answer": "4"}, r"mine.jsonl:2 needs a text, or a list .*, got \[\]"),
        ({"messages": [{"role": "user"}], "answer": "4"}, "mine.jsonl:2 needs a text, or a list"),
        (
            {"messages": [{"role": "assistant", "content": "a"}], "answer": "4"},
            "mine.jsonl:2 must end with a user message, got role 'assistant'",
        ),
        (GOOD, "mine.jsonl:2 repeats the prompt of .*mine.jsonl:1; .*task.duplicates=skip"),
        ({"prompt": "x" * 99, "answer": "4"}, "mine.jsonl:2 is longer than the 50 tokens"),
        ({"prompt": "a", "answer": "four"}, "mine.jsonl:2 has an answer that the reward refuses"),
        ("[" * 200_000, "mine.jsonl:2 is not JSON"),
    ],
)
def test_a_bad_line_is_named(write, tokenizer, line, message):
    task = DatasetTask(path=write(GOOD, line))
    with pytest.raises(ValueError, match=message):
        task.prompts(tokenizer, max_tokens=50, check=ChainReward().check)


def test_bytes_that_are_not_utf8_are_named(tmp_path, tokenizer):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"prompt": "\xff", "answer": "1"}\n')
    with pytest.raises(ValueError, match=r"mine.jsonl:2 is not UTF-8 text; convert the file"):
        DatasetTask(path=str(path)).prompts(tokenizer)


def test_a_missing_and_an_empty_file_are_named(write, tmp_path, tokenizer):
    with pytest.raises(ValueError, match=r"task.path cannot be read \(No such file"):
        DatasetTask(path=str(tmp_path / "absent.jsonl")).prompts(tokenizer)
    with pytest.raises(ValueError, match=r"task.path has no rows; add some, got"):
        DatasetTask(path=write("", "")).prompts(tokenizer)


TALK = (("system", "\ud800"), ("user", "2+3?"))


@pytest.mark.parametrize(
    "row",
    [
        GOOD | {"prompt": "a\ud800 b"},
        GOOD | {"answer": "\udc00"},
        GOOD | {"prompt": "b", "source": "\ud83d"},
        {"messages": [{"role": r, "content": c} for r, c in TALK], "answer": "4"},
    ],
)
def test_half_a_character_is_refused_or_left_out(write, tokenizer, row):
    path = write(GOOD, row)
    with pytest.raises(ValueError, match=r"mine\.jsonl:2 must hold characters, .*got '\\ud"):
        DatasetTask(path=path).prompts(tokenizer)
    found = DatasetTask(path=path, bad_rows="skip", duplicates="skip").prompts(tokenizer)
    assert [prompt.text for prompt in found] == ["2+2?"]


def test_calls_of_tools_in_a_conversation_reach_the_chat_template(write, tokenizer):
    """Parquet has null for what a message has not."""
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
    rest = {"tool_calls": None, "tool_call_id": None}
    talk = [
        {"role": "user", "content": "2+2?", **rest},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "4", "tool_call_id": "1"},
        {"role": "user", "content": "2+3?", **rest},
    ]
    shows = copy.deepcopy(tokenizer)
    shows.chat_template = (
        "{% for m in messages %}{{ m.role + m.content }}{% if m.tool_calls is defined %}"
        "{{ m.tool_calls[0].function.name }}{% endif %}{% endfor %}"
    )
    task = DatasetTask(path=write({"messages": talk, "answer": "5"}))
    (prompt,) = task.prompts(shows)
    wanted = shows.encode("user2+2?assistantaddtool4user2+3?", add_special_tokens=False)
    assert prompt.token_ids.tolist() == wanted and prompt.text == "2+3?"


def test_messages_that_are_a_text_are_read_as_json(write, tokenizer):
    talk = [{"role": "user", "content": "2+2?"}]
    path = write({"messages": json.dumps(talk), "answer": "4"})
    (prompt,) = DatasetTask(path=path).prompts(tokenizer)
    assert prompt.text == "2+2?"
    for text in ("[2+2]?", "4"):
        (prompt,) = DatasetTask(path=write({"messages": text, "answer": "4"})).prompts(tokenizer)
        assert prompt.text == text


def test_long_and_repeated_prompts_can_be_skipped(write, tokenizer):
    path = write(GOOD, {"prompt": "x" * 99, "answer": "1"}, GOOD, {"prompt": "b", "answer": "1"})
    task = DatasetTask(path=path, long_prompts="skip", duplicates="skip")
    assert [p.text for p in task.prompts(tokenizer, max_tokens=50)] == ["2+2?", "b"]


def test_a_split_without_a_question_is_told_where_they_all_went(write, tokenizer):
    rows = [{"prompt": f"{n}+2?", "answer": "4", "n": n} for n in (2, 3, 4)]
    path = write(*rows)
    few = {"path": path, "where": {"n": [2, 3]}, "split": "held_out", "held_out_one_in": 10**9}
    with pytest.raises(ValueError, match=r"^all of the 2 questions of '.*mine.jsonl' ") as error:
        DatasetTask(**few).prompts(tokenizer)
    parts = (
        "(left out: 1 outside task.where (first: ",
        ") fall into training, by their text; lower task.held_out_one_in, add questions or hold ",
        "(task.split=all held_out.split=all held_out.path=FILE), got task.held_out_one_in=1000000",
    )
    assert all(part in str(error.value) for part in parts)
    one_in = next(n for n in range(2, 10**6) if is_held_out("2+2?", n))
    alone = {"path": path, "where": {"n": 2}, "held_out_one_in": one_in}
    with pytest.raises(ValueError, match=r"held-out part, by their text; raise task\.held_out"):
        DatasetTask(**alone, split="train").prompts(tokenizer)


def test_one_file_divides_into_two_splits(write, tokenizer):
    path = write(*({"prompt": f"question {i}", "answer": "1"} for i in range(200)))
    splits = {
        split: {
            p.text
            for p in DatasetTask(path=path, split=split, held_out_one_in=5).prompts(tokenizer)
        }
        for split in ("all", "train", "held_out")
    }
    assert splits["train"] | splits["held_out"] == splits["all"]
    assert not splits["train"] & splits["held_out"]
    assert 20 <= len(splits["held_out"]) <= 60


def test_messages_need_the_chat_template(write, tokenizer):
    user = {"role": "user", "content": "hi"}
    (bare,) = DatasetTask(path=write({"messages": [user], "answer": 1}), chat=False).prompts(
        tokenizer
    )
    assert tokenizer.decode(bare.token_ids) == "hi"
    path = write({"messages": [{"role": "system", "content": "be brief"}, user], "answer": "1"})
    with pytest.raises(ValueError, match=r"mine.jsonl:1 holds messages.*task.chat=true"):
        DatasetTask(path=path, chat=False).prompts(tokenizer)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "test"}, "task.split must be one of train, held_out, all, got 'test'"),
        ({"held_out_one_in": 1}, "task.held_out_one_in must be at least 2, got 1"),
        ({"bad_rows": "drop"}, "task.bad_rows must be refuse or skip, got 'drop'"),
        ({"extract": "after:"}, "task.extract must be plain, boxed, json, or after: and a text"),
        ({"template": "solve it"}, "task.template must say where the prompt goes"),
        ({"where": {"level": {"mn": 2}}}, r"task.where.level must be a value, .*, got {'mn': 2}"),
        ({"where": {"level": {"min": "a"}}}, "task.where.level must .* min and max as numbers"),
        ({"where": {"level": {}}}, "task.where.level must be a value, a list of values, or bounds"),
        ({"max_prompts": 0}, "task.max_prompts must be at least 1, got 0"),
        ({"path": " "}, "task.path must not be empty"),
        ({"duplicates": "drop"}, "task.duplicates must be refuse or skip, got 'drop'"),
        ({"long_prompts": "cut"}, "task.long_prompts must be refuse or skip, got 'cut'"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DatasetTask(**{"path": "mine.jsonl", **settings})


def test_columns_may_be_nested_and_the_rest_goes_along(write, tokenizer):
    row = {
        "data_source": "sums",
        "prompt": [{"role": "user", "content": "2+2?"}],
        "reward_model": {"ground_truth": "4", "style": "rule"},
        "about": '{"level": 3}',
        "image": None,
    }
    (found,) = DatasetTask(
        path=write(row), source="data_source", where={"about.level": {"min": 3}}
    ).prompts(tokenizer)
    assert (found.text, found.answer, found.source) == ("2+2?", "4", "sums")
    assert found.columns == {name: row[name] for name in ("reward_model", "about", "image")}
    (found,) = DatasetTask(path=write(row), columns=["about"]).prompts(tokenizer)
    assert found.columns == {"about": '{"level": 3}'}


@pytest.mark.parametrize(
    ("extract", "value", "answer"),
    [
        ("after:####", "one #### two\n#### 1,234 ", "1,234"),
        ("boxed", r"so \boxed{2}, no: \boxed{\frac{1}{2}} it is", r"\frac{1}{2}"),
        ("boxed", r"\boxed{\{1, 2\}} and \boxed{cut", r"\{1, 2\}"),
        ("boxed", r"$x=\boxed{2}$ or $x=\boxed{3}$", "2, 3"),
        ("boxed", r"<think>\boxed{9}</think>so \boxed{\boxed{5}}", "5"),
        ("boxed", r"\boxed{\frac{\boxed{1}}{2}}", r"\frac{{1}}{2}"),
        ("json", '"42"', "42"),
        ("json", '["1/2", "0.5"]', '["1/2", "0.5"]'),
        ("json", "[7]", "7"),
        ("plain", ["0.5", 0.5, "1/2"], '["0.5", "1/2"]'),
        ("plain", {"target": 3}, '{"target": 3}'),
    ],
)
def test_answers_are_extracted(write, tokenizer, extract, value, answer):
    task = DatasetTask(path=write({"prompt": "?", "answer": value}), extract=extract)
    assert [prompt.answer for prompt in task.prompts(tokenizer)] == [answer]


@pytest.mark.parametrize(
    "solution",
    [
        r"$x=\boxed{2}$ or $x=\boxed{3}$",
        r"first \boxed{1}, no: \boxed{2} and \boxed{3}",
        r"\boxed{\frac{\boxed{1}}{2}}",
        r"\boxed{x = \boxed{5}}",
    ],
)
def test_a_solution_with_several_boxes_is_right_as_a_response(write, tokenizer, solution):
    path = write({"prompt": "?", "answer": solution})
    (found,) = DatasetTask(path=path, extract="boxed").prompts(tokenizer)
    assert MathReward().score("?", solution, found.answer).reward == 1.0


@pytest.mark.parametrize("extract", ["after:####", "boxed", "json"])
def test_an_answer_that_is_not_found_is_refused_or_left_out(write, tokenizer, caplog, extract):
    path = write(GOOD | {"answer": r"\boxed{4 ###"}, GOOD | {"answer": '"#### \\boxed{4}"'})
    with pytest.raises(
        ValueError, match=r"mine\.jsonl:1 (has no answer for task\.extract|needs JSON)"
    ):
        DatasetTask(path=path, extract=extract).prompts(tokenizer)
    with caplog.at_level(logging.WARNING):
        found = DatasetTask(path=path, extract=extract, bad_rows="skip").prompts(tokenizer)
    assert len(found) == 1
    assert "1 prompts; left out: 1 without a usable question or answer (first: " in caplog.text
    assert "mine.jsonl:1" in caplog.text


def test_system_and_template_make_the_prompt(write, tokenizer):
    row = {"question": "2+2?", "answer": "4", "nums": [2, 2], "a hint": "add"}
    task = DatasetTask(
        path=write(row),
        system="be brief",
        template=r"{{prompt}} of {{nums}} ({{ a hint }}) in \boxed{}",
    )
    (found,) = task.prompts(tokenizer)
    assert found.text == r"2+2? of [2, 2] (add) in \boxed{}"
    text = tokenizer.decode(found.token_ids)
    assert text.startswith("<|system|>be brief<|end|><|user|>2+2? of [2, 2]")
    own = [{"role": "system", "content": "mine"}, {"role": "user", "content": "1+1?"}]
    (found,) = DatasetTask(path=write({"messages": own, "answer": 2}), system="be brief").prompts(
        tokenizer
    )
    assert tokenizer.decode(found.token_ids).startswith("<|system|>mine<|end|><|user|>1+1?")
    with pytest.raises(ValueError, match=r"no column 'numbers', which task\.template names"):
        DatasetTask(path=write(row), template="{{numbers}}").prompts(tokenizer)


def test_rows_are_filtered_by_column_length_and_count(write, tokenizer, caplog):
    rows = [{"prompt": f"number {i}", "answer": i, "rate": i / 100} for i in range(100)]
    path = write(*rows, {"prompt": "x" * 99, "answer": 1, "rate": 0.3})
    task = DatasetTask(
        path=path, where={"rate": {"min": 0.25, "max": 0.5}}, max_prompt_tokens=50, max_prompts=10
    )
    with caplog.at_level(logging.WARNING):
        found = task.prompts(tokenizer, max_tokens=200)
    assert [prompt.index for prompt in found] == list(range(10))
    numbers = [int(prompt.answer) for prompt in found]
    assert numbers == sorted(set(numbers))
    assert numbers[0] >= 25 and numbers[-1] <= 50
    assert "74 outside task.where (first: " in caplog.text
    assert "1 over 50 tokens (first: " in caplog.text
    assert "16 beyond task.max_prompts" in caplog.text
    assert [p.text for p in task.prompts(tokenizer)] == [p.text for p in found]
