import logging

import numpy as np
import pytest

from launch.models.warmstart import build_tokenizer
from rollout.tasks.left_out import LeftOut
from rollout.tasks.prompts import Item, is_held_out, make_prompts, require_policy, require_split
from tests.model_folders import BEGIN, TEMPLATES, make_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def item(text, place="file:1", messages=None):
    return Item(text, "1", "mine", place, messages)


def test_prompts_are_numbered_in_order(tokenizer):
    prompts = make_prompts([item("one"), item("two")], tokenizer)
    assert [(p.index, p.text, p.answer, p.source) for p in prompts] == [
        (0, "one", "1", "mine"),
        (1, "two", "1", "mine"),
    ]


def test_a_long_prompt_is_refused_with_its_place(tokenizer):
    items = [item("short"), item("x" * 30, "file:2")]
    assert len(make_prompts(items, tokenizer, max_tokens=33)) == 2
    with pytest.raises(ValueError, match=r"file:2 is longer than the 32 .*got 33 tokens"):
        make_prompts(items, tokenizer, max_tokens=32)


def test_long_prompts_can_be_skipped_and_are_counted(tokenizer, caplog):
    items = [item("x" * 30), item("short"), item("brief")]
    with caplog.at_level(logging.WARNING):
        prompts = make_prompts(items, tokenizer, max_tokens=20, long_prompts="skip")
    assert [(p.index, p.text) for p in prompts] == [(0, "short"), (1, "brief")]
    assert "2 prompts; left out: 1 over 20 tokens (first: file:1)" in caplog.text


def test_a_repeated_prompt_is_refused_with_both_places(tokenizer):
    items = [item("same", "file:1"), item("other", "file:2"), item("same", "file:3")]
    with pytest.raises(ValueError, match=r"file:3 repeats the prompt of file:1"):
        make_prompts(items, tokenizer)


def test_repeated_prompts_can_be_skipped_and_are_counted(tokenizer, caplog):
    items = [item("same"), item("other"), item("same")]
    with caplog.at_level(logging.WARNING):
        prompts = make_prompts(items, tokenizer, duplicates="skip")
    assert [p.text for p in prompts] == ["same", "other"]
    assert "2 prompts; left out: 1 repeated (first: file:1)" in caplog.text


def test_nothing_left_is_refused(tokenizer):
    with pytest.raises(
        ValueError, match=r"the task has no prompts, left out: 1 over 3 tokens"
    ) as e:
        make_prompts([item("long")], tokenizer, max_tokens=3, long_prompts="skip")
    assert "; raise model.max_model_len, choose another split, or add prompts, got 0" in str(
        e.value
    )


def test_what_helps_where_nothing_is_left_is_told_by_what_was_left_out(tokenizer):
    left_out = LeftOut()
    left_out.add("outside task.where", "file:1")
    with pytest.raises(ValueError, match=r"; change task\.where, choose another split, or add p"):
        make_prompts([], tokenizer, left_out=left_out)


def test_an_answer_that_the_reward_refuses_is_named_by_place(tokenizer):
    def check(answer):
        raise ValueError(f"no number, got {answer!r}")

    with pytest.raises(ValueError, match=r"file:7 has an answer that .* refuses: no number"):
        make_prompts([item("text", "file:7")], tokenizer, check=check)


def test_other_errors_of_a_check_are_not_hidden(tokenizer):
    def check(answer):
        raise KeyError(answer)

    with pytest.raises(KeyError):
        make_prompts([item("text")], tokenizer, check=check)


def test_a_conversation_is_templated_whole(tokenizer):
    messages = ({"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"})
    prompt = make_prompts([item("hi", messages=messages)], tokenizer)[0]
    text = tokenizer.decode(prompt.token_ids)
    assert text == "<|system|>be brief<|end|><|user|>hi<|end|><|assistant|>"
    assert prompt.text == "hi"


def test_a_missing_chat_template_is_named(tokenizer):
    bare = build_tokenizer()
    bare.chat_template = None
    with pytest.raises(ValueError, match=r"has no chat template; choose a model"):
        make_prompts([item("hi")], bare)
    prompt = make_prompts([item("hi")], bare, chat=False)[0]
    assert bare.decode(prompt.token_ids) == "hi"
    assert prompt.token_ids.dtype == np.int32


def test_special_tokens_are_not_added_to_a_template_that_has_them(tokenizer):
    class Doubling:
        chat_template = "present"
        bos_token_id = 9

        def apply_chat_template(self, messages, *, tokenize, add_generation_prompt):
            assert not tokenize
            assert add_generation_prompt
            return "text"

        def encode(self, text, *, add_special_tokens=True):
            return [9, 5] if add_special_tokens else [5]

    assert make_prompts([item("hi")], Doubling())[0].token_ids.tolist() == [5]


def test_a_template_that_writes_the_day_makes_the_same_prompts_on_every_day(tokenizer):
    dated = build_tokenizer()
    dated.chat_template = (
        "{% if date is not defined %}{% set date = strftime_now('%d %b %Y') %}{% endif %}"
        "Today Date: {{ date }}\n{{ messages[0]['content'] }}"
    )
    (prompt,) = make_prompts([item("hi")], dated)
    assert dated.decode(prompt.token_ids) == "Today Date: 26 Jul 2024\nhi"


def test_a_switch_that_is_set_in_the_template_holds():
    switched = build_tokenizer()
    template = (
        "{{ messages[0]['content'] }}<|assistant|>"
        "{% if enable_thinking is defined and enable_thinking is false %}no thought{% endif %}"
    )
    found = []
    for begin in ("", "{% set enable_thinking = false %}\n"):
        switched.chat_template = begin + template
        (prompt,) = make_prompts([item("hi")], switched)
        found.append(switched.decode(prompt.token_ids))
    assert found == ["hi<|assistant|>", "hi<|assistant|>no thought"]


BEGIN_TEXTS = ("hi", BEGIN + "hi", BEGIN + BEGIN + "hi", f"hi {BEGIN}", "")


@pytest.mark.parametrize("text", BEGIN_TEXTS)
@pytest.mark.parametrize("begins", [False, True])
@pytest.mark.parametrize("template", [None, *TEMPLATES])
def test_a_prompt_begins_once_and_does_not_end(template, begins, text):
    """Template, tokenizer and text may each bring a beginning; the tokenizer brings an end."""
    made = make_tokenizer(template or "has_no_end", begins=begins)
    begin, end = made.bos_token_id, made.eos_token_id
    (prompt,) = make_prompts([item(text + "?")], made, chat=template is not None)
    found = prompt.token_ids.tolist()
    assert found[:2] != [begin, begin]
    expected = template == "ends_with_turn" or (
        template is None and (begins or text.startswith(BEGIN))
    )
    assert (found[0] == begin) == expected
    # What the text says elsewhere is the text's.
    inner = 0 if template is None else text.count(BEGIN)
    inner = inner or int(not text.startswith(BEGIN) and BEGIN in text)
    assert found.count(begin) == expected + inner
    assert found[-1] != end


def test_an_end_that_the_text_itself_has_stays():
    made = make_tokenizer(begins=True)
    (prompt,) = make_prompts([item("hi<|end|>")], made, chat=False)
    assert made.decode(prompt.token_ids) == BEGIN + "hi<|end|>"


def test_the_split_is_decided_by_the_text_alone():
    texts = [f"question {i}" for i in range(5000)]
    share = sum(is_held_out(t, 50) for t in texts) / len(texts)
    assert 0.012 < share < 0.028
    assert all(is_held_out(t, 1) for t in texts[:10])


def test_words_that_are_not_choices_are_refused():
    with pytest.raises(ValueError, match=r"task.duplicates must be refuse or skip, got 'drop'"):
        require_policy("task.duplicates", "drop")
    with pytest.raises(ValueError, match=r"task.split must be one of train, held_out, got 'test'"):
        require_split("test")
