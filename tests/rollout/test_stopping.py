"""What a model folder says of stopping is what everyone goes by."""

import json

import pytest
from transformers import AutoTokenizer

from rollout.engines.arguments import stop_arguments
from rollout.stopping import Stopping, end_of_turn, stopping_of
from tests.model_folders import TEMPLATES, TURN, make_tokenizer

END, USER = 1, 2


def write_folder(path, tokenizer, config, generation=None):
    path.mkdir(exist_ok=True)
    tokenizer.save_pretrained(path)
    (path / "config.json").write_text(json.dumps({"model_type": "llama"} | config))
    if generation is not None:
        (path / "generation_config.json").write_text(json.dumps(generation))
    return str(path), AutoTokenizer.from_pretrained(path)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize(
    ("config", "generation"),
    [
        ({}, None),
        ({"eos_token_id": 7}, {"eos_token_id": [8, 9]}),
        ({"eos_token_id": [7, 8]}, {"eos_token_id": 8}),
        ({"eos_token_id": None}, {"eos_token_id": None}),
        ({"text_config": {"eos_token_id": [7]}}, {}),
    ],
)
def test_every_place_that_names_a_stop_token_counts(tmp_path, template, config, generation):
    path, tokenizer = write_folder(tmp_path, make_tokenizer(template), config, generation)
    expected = {END}
    if template in ("ends_with_turn", "thinks"):
        expected.add(tokenizer.convert_tokens_to_ids(TURN))
    named = [
        config.get("eos_token_id"),
        config.get("text_config", {}).get("eos_token_id"),
        (generation or {}).get("eos_token_id"),
    ]
    for value in named:
        expected |= set(value if isinstance(value, list) else [value] if value else [])
    found = stopping_of(path, tokenizer)
    assert found == Stopping(tuple(sorted(expected)))
    arguments = stop_arguments(found)
    assert arguments["stop_token_ids"] == sorted(expected)
    assert (arguments["stop"], arguments["detokenize"]) == ([], False)


def test_texts_that_a_run_names_end_a_response_like_those_of_the_model(tmp_path):
    model = {"stop_strings": "User:"}
    path, tokenizer = write_folder(tmp_path, make_tokenizer("ends_with_turn"), {}, model)
    found = stopping_of(path, tokenizer, ["</answer>", "User:", TURN])
    assert found.strings == ("User:", "</answer>")
    assert found.token_ids == stopping_of(path, tokenizer).token_ids
    assert tokenizer.convert_tokens_to_ids(TURN) in found.token_ids


def test_a_tokenizer_without_end_of_sequence_names_none(tmp_path):
    bare = make_tokenizer("has_no_end")
    bare.eos_token = None
    path, tokenizer = write_folder(tmp_path, bare, {})
    assert stopping_of(path, tokenizer) == Stopping(())


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ raise_exception('never') }}", None),
        ("{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}<|turn|>{% endif %}"
         "{% endfor %}", None),
        ("{% for m in messages %}{{ m['content'] }} . <|turn|>{% endfor %}", None),
        ("{% for m in messages %}{{ m['content'] }}\n<|turn|>{% endfor %}<|end|>", TURN),
        (None, None),
    ],
)  # fmt: skip
def test_the_end_of_a_turn_is_what_follows_the_assistants_text(template, expected):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    token = None if expected is None else tokenizer.convert_tokens_to_ids(expected)
    assert end_of_turn(tokenizer) == token


def test_texts_end_a_response_too_and_one_that_is_a_token_counts_as_that_token(tmp_path):
    path, tokenizer = write_folder(
        tmp_path, make_tokenizer(), {}, {"stop_strings": ["###", "", TURN, "Question:"]}
    )
    found = stopping_of(path, tokenizer)
    assert found == Stopping((END, tokenizer.convert_tokens_to_ids(TURN)), ("###", "Question:"))
    arguments = stop_arguments(found)
    assert arguments["stop"] == ["###", "Question:"]
    # All that was sampled is searched, special tokens too.
    assert (arguments["detokenize"], arguments["skip_special_tokens"]) == (True, False)
    path, tokenizer = write_folder(tmp_path, make_tokenizer(), {}, {"stop_strings": "###"})
    assert stopping_of(path, tokenizer).strings == ("###",)


def test_the_engine_takes_what_it_is_told():
    from vllm import SamplingParams

    for strings in ((), ("###",)):
        parameters = SamplingParams(**stop_arguments(Stopping((1, 7), strings)))
        assert (parameters.stop, parameters.stop_token_ids) == (list(strings), [1, 7])
        assert not parameters.ignore_eos
    assert SamplingParams(**stop_arguments(Stopping(()))).ignore_eos


def test_the_text_of_a_response_is_without_what_ended_it():
    tokenizer = make_tokenizer()
    # The tokenizer does not call this one special.
    think = tokenizer.convert_tokens_to_ids("<think>")
    stopping = Stopping((END, think), ("###",))

    def text(response):
        return stopping.text(tokenizer, tokenizer.encode(response, add_special_tokens=False))

    assert text("say 4<|end|>") == "say 4"
    assert text("say 4<think>") == "say 4"
    assert text("say<think> 4") == "say<think> 4"
    assert text("say 4") == "say 4"
    assert text("say 4###") == "say 4"
    # It did not end here, or the engine would have stopped.
    assert text("### say 4<|end|>") == "### say 4"
    assert text("### say 4") == "### say 4"
    assert text("") == ""
    assert stopping.without_stop([5, END, END]) == [5, END]
    assert stopping.without_stop([]) == []
