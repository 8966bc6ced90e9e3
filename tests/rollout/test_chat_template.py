"""Variables that a run sets in a chat template hold wherever that is applied."""

import pytest
from transformers import AutoTokenizer

from rollout.chat_template import set_variables
from tests.places import CHAIN_MODEL

TEMPLATE = (
    "{%- macro said(message) %}{{ message.content }} {{ thinks }}{% endmacro -%}"
    "{%- for message in messages %}{{ said(message) }}|{{ mood | tojson }}{% endfor %}"
    "{%- if add_generation_prompt %} {{ 'hm' if thinks else 'so' }}{% endif %}"
)


def tokenizer(template=TEMPLATE):
    made = AutoTokenizer.from_pretrained(CHAIN_MODEL)
    made.chat_template = template
    return made


def told(tokenizer, **asked):
    messages = [{"role": "user", "content": "2+3"}]
    return tokenizer.apply_chat_template(messages, tokenize=False, **asked)


@pytest.mark.parametrize(
    ("thinks", "mood", "wanted"),
    [
        (False, None, "2+3 False|null so"),
        (True, 'a "%}" \\ \n \N{SNOWMAN} \U0001f600 it\'s', None),
        (12.5, [1, {"a": True}], '2+3 12.5|[1, {"a": true}] hm'),
    ],
)
def test_they_have_their_values_in_macros_and_for_whatever_is_asked(thinks, mood, wanted):
    given = {"thinks": thinks, "mood": mood}
    for asked in ({}, {"add_generation_prompt": True}):
        wanted_by_kwargs = told(tokenizer(), **asked, **given)
        changed = tokenizer()
        set_variables(changed, given)
        assert told(changed, **asked) == wanted_by_kwargs
    assert wanted in (None, told(changed, add_generation_prompt=True))


def test_without_any_the_template_stays_as_it_is():
    own = tokenizer()
    set_variables(own, {})
    assert own.chat_template == TEMPLATE


def test_of_several_templates_each_has_them():
    several = tokenizer({"default": TEMPLATE, "tool_use": "{{ thinks }}"})
    set_variables(several, {"thinks": 7, "mood": "good"})
    assert told(several, chat_template="tool_use") == "7"
    assert told(several).startswith("2+3 7")


@pytest.mark.parametrize("name", ["thnks", "thinks }}", "think", "message.content"])
def test_one_that_no_template_mentions_is_refused(name):
    with pytest.raises(ValueError, match="the chat template mentions no "):
        set_variables(tokenizer(), {name: False})


def test_without_a_template_there_is_nothing_to_set():
    with pytest.raises(ValueError, match="has no chat template"):
        set_variables(tokenizer(None), {"thinks": False})
