"""Models that cannot work are named before anything starts."""

import json

import pytest
import transformers

from learner.architecture import check_architecture, check_token_ids
from tests.learner.architectures import MODELS
from tests.learner.test_packing_check import REFUSED
from tests.model_folders import KINDS


def write(path, **settings):
    (path / "config.json").write_text(json.dumps(settings))
    return str(path)


@pytest.mark.parametrize("name", MODELS)
def test_the_configuration_tells_what_the_weights_would(tmp_path, name):
    """What `learner.packing_check` refuses is refused, and nothing else."""
    prefix, sizes = MODELS[name]
    config = getattr(transformers, f"{prefix}Config")(**sizes)
    path = write(tmp_path, **config.to_dict())
    if name not in REFUSED or name == "gpt2":
        check_architecture(path, trained=True)
        return
    with pytest.raises(ValueError, match=rf"^model\.path must hold .*choose.*{config.model_type}'"):
        check_architecture(path, trained=True)
    # An engine can measure it all the same.
    check_architecture(path, trained=False)


@pytest.mark.parametrize("kind", KINDS)
def test_the_kinds_that_are_trained_pass(tmp_path, kind):
    prefix, sizes = KINDS[kind]
    config = getattr(transformers, f"{prefix}Config")(**sizes)
    check_architecture(write(tmp_path, **config.to_dict()), trained=True)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "chatty", "auto_map": {"AutoModelForCausalLM": "modeling_chatty.C"}},
         r"code is in transformers.*trust_remote_code.*got model_type 'chatty'$"),
        ({}, r"code is in transformers.*got model_type None$"),
        ({"model_type": "t5"}, r"decoder that continues a text.*got model_type 't5'$"),
        ({"model_type": "bart", "is_encoder_decoder": True}, r"decoder .*got model_type 'bart'$"),
    ],
)  # fmt: skip
def test_what_nobody_could_load_is_refused(tmp_path, settings, message, trained):
    with pytest.raises(ValueError, match=rf"^model\.path must hold a .*{message}"):
        check_architecture(write(tmp_path, **settings), trained=trained)


def test_quantised_weights_are_measured_but_not_trained(tmp_path):
    path = write(tmp_path, model_type="llama", quantization_config={"quant_method": "gptq"})
    check_architecture(path, trained=False)
    with pytest.raises(ValueError, match=r"^model\.path .* 16 or 32 bits.*got quant_method 'gptq'"):
        check_architecture(path, trained=True)


@pytest.mark.parametrize("settings", [{"vocab_size": 261}, {"text_config": {"vocab_size": 261}}])
def test_a_token_without_an_embedding_is_refused(tmp_path, settings):
    path = write(tmp_path, **settings)
    check_token_ids(path, 260)
    with pytest.raises(ValueError, match=r"^model\.path .*it has 261; .*got token 261$"):
        check_token_ids(path, 261)
