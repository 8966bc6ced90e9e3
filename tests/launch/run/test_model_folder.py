import json
import shutil

import pytest
from transformers import AutoTokenizer

from launch.cli.refusals import UserError
from launch.run.model_folder import (
    check_context,
    check_model,
    check_vocabulary,
    load_tokenizer,
    read_settings,
    resolve_model,
    resolve_reference,
)
from learner.lora import LoraConfig
from rollout.config import EngineConfig
from tests.places import CHAIN_MODEL


@pytest.fixture
def model(tmp_path):
    """A copy of the shipped model to break."""
    return shutil.copytree(CHAIN_MODEL, tmp_path / "modell ü")


def change(model, **changes):
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def assert_refused(model, *parts):
    with pytest.raises(UserError) as refusal:
        resolve_model(str(model))
    message = str(refusal.value)
    assert message.startswith("model.path must ")
    assert "\n" not in message
    for part in (*parts, "modell ü"):
        assert part in message


def test_a_whole_model_passes(model):
    assert resolve_model(str(model)) == str(model)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"[1]", b"{}", b"null", b"3", b'"text"', b"\xff\xfe", b"[" * 100_000,
     b'{"a": 1}', b'{"model_type": 3}'],
)  # fmt: skip
def test_a_config_that_is_none_is_refused(model, content):
    (model / "config.json").write_bytes(content)
    assert_refused(model, "config.json")


@pytest.mark.parametrize("value", ["512", 1.5, -1, 0, 10**30, [512], True, {"a": 1}])
@pytest.mark.parametrize("key", ["max_position_embeddings", "vocab_size", "num_hidden_layers"])
def test_a_size_that_is_no_number_is_refused(model, key, value):
    change(model, **{key: value})
    assert_refused(model, key)


@pytest.mark.parametrize("kept", [0, 4, 8, 100, 5000, -1])
def test_weights_cut_short_are_refused(model, kept):
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    assert_refused(model, "model.safetensors", "whole")


def test_weights_that_are_something_else_are_refused(model):
    (model / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0[1,2,3] ")
    assert_refused(model, "model.safetensors")


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"vocab_size": 300}, "embedding"),
        ({"hidden_size": 64}, "embedding"),
        ({"num_hidden_layers": 4}, "layers"),
        ({"intermediate_size": 100}, "down_proj"),
    ],
)
def test_weights_of_other_shapes_are_refused(model, changes, part):
    change(model, **changes)
    assert_refused(model, part, "config.json")


@pytest.mark.parametrize(
    ("index", "part"),
    [
        ("{", "index.json"),
        ("[]", "index.json"),
        ('{"weight_map": 3}', "index.json"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "gone.safetensors"),
        ('{"weight_map": {"other": "model.safetensors"}}', "other"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(model, index, part):
    (model / "model.safetensors.index.json").write_text(index)
    assert_refused(model, part)


def test_variables_are_set_in_the_chat_template_and_unknown_ones_refused(model):
    file = model / "chat_template.jinja"
    file.write_text(file.read_text() + "{% if thinks %}hm{% endif %}")
    assert load_tokenizer(str(model), {"thinks": True}).chat_template.endswith(file.read_text())
    told = (
        r"^model\.chat_template_kwargs must name .*: .* no enable_thinking, got \{'enable_thinking'"
    )
    with pytest.raises(UserError, match=told):
        load_tokenizer(str(model), {"enable_thinking": False})


@pytest.mark.parametrize("content", [None, b"", b"{", b"{}", b"[]", b"\xff", b'{"model": 3}'])
def test_a_tokenizer_that_does_not_load_is_refused(model, content):
    (model / "tokenizer.json").unlink()
    if content is not None:
        (model / "tokenizer.json").write_bytes(content)
    with pytest.raises(UserError, match=r"^model\.path must hold a tokenizer that loads") as found:
        load_tokenizer(str(model))
    assert "\n" not in str(found.value)
    assert len(str(found.value)) < 500


def test_a_tokenizer_of_a_larger_model_is_refused(model):
    tokenizer = AutoTokenizer.from_pretrained(model)
    settings = read_settings(model)
    check_vocabulary(model, tokenizer, settings)
    tokenizer.add_tokens(["<one>", "<two>"])
    with pytest.raises(UserError, match=r"^model\.path must hold the model's own tokenizer: .*26"):
        check_vocabulary(model, tokenizer, settings | {"vocab_size": 261})


def test_a_reference_is_a_folder_with_a_model(model, monkeypatch):
    monkeypatch.chdir(model.parent)
    assert resolve_reference(model.name) == str(model)
    (model / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"^learner\.reference\.path must hold a config\.json"):
        resolve_reference(str(model))
    for none in ("nowhere", "OWNER/NAME"):
        with pytest.raises(UserError, match=r"^learner\.reference\.path must be a folder with a "):
            resolve_reference(none)


def test_a_model_is_found_here_first_and_then_in_the_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_model("rollout/tasks/chain_model") == str(CHAIN_MODEL)
    here = shutil.copytree(CHAIN_MODEL, tmp_path / "rollout/tasks/chain_model")
    assert resolve_model("rollout/tasks/chain_model") == str(here)


def test_a_missing_model_is_refused_with_the_way_to_make_one(tmp_path):
    with pytest.raises(UserError, match=r"^model\.path must be .* got '.*nothing'; .*launch\.smol"):
        resolve_model(str(tmp_path / "nothing"))


def test_in_place_of_a_run_its_policy_is_meant(tmp_path):
    shutil.copytree(CHAIN_MODEL, tmp_path / "run" / "policy")
    with pytest.raises(UserError, match=r" got '.*/run'; did you mean .*/run/policy\?$"):
        resolve_model(str(tmp_path / "run"))


def test_a_model_without_weights_is_refused(model):
    (model / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"^model\.path must hold weights .* got '.*modell ü'$"):
        resolve_model(str(model))


def test_a_context_longer_than_the_models_is_refused(tmp_path):
    settings = '{"model_type": "llama", "max_position_embeddings": 512}'
    (tmp_path / "config.json").write_text(settings)
    check_context(str(tmp_path), 512)
    with pytest.raises(UserError, match=r"^model\.max_model_len .* 512 positions .*, got 513$"):
        check_context(str(tmp_path), 513)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    check_context(str(tmp_path), 10**6)


def test_adapters_of_layers_that_are_not_there_are_refused():
    def check(**settings):
        check_model(str(CHAIN_MODEL), EngineConfig(), LoraConfig(rank=4, **settings))

    check()
    check(target_modules=["q_proj", "mlp.up_proj"])
    with pytest.raises(UserError, match=r"^learner\.lora\.target_modules .*q_proj.* got 'qproj'"):
        check(target_modules=["qproj"])
