"""Models that cannot work are named before anything starts."""

import json

import pytest
import torch
import transformers

from learner.architecture import check_architecture, check_token_ids
from learner.logprobs import PackedPolicy
from learner.packing_check import check_packing
from tests.learner.architectures import MODELS, small_model
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


@pytest.mark.parametrize(("window", "fits"), [(None, True), (256, True), (255, False)])
def test_a_window_that_layers_keep_to_themselves_is_refused(tmp_path, window, fits):
    """Packed rows have no masks, and the check at a learner's start has too few tokens for it."""
    model = small_model("phimoe", sliding_window=12)
    text = torch.arange(2, 32) * 7 % 97
    check_packing(PackedPolicy(model, 1.0))
    with torch.no_grad():
        packed = PackedPolicy(model, 1.0)(text, torch.arange(30), torch.arange(30) > 0)[0]
        model.set_attn_implementation("eager")
        logprobs = model(input_ids=text[None], use_cache=False).logits[0].log_softmax(-1)
    alone = logprobs[:-1].gather(1, text[1:, None]).squeeze(1)
    assert (packed[1:] - alone).abs().max() > 0.1
    settings = model.config.to_dict() | {"sliding_window": window}
    path = write(tmp_path, **settings)
    if fits:
        check_architecture(path, trained=True)
        return
    with pytest.raises(ValueError, match=r"^model\.path .*phimoe' with a sliding window that its"):
        check_architecture(path, trained=True)


@pytest.mark.parametrize("settings", [{"vocab_size": 261}, {"text_config": {"vocab_size": 261}}])
def test_a_token_without_an_embedding_is_refused(tmp_path, settings):
    path = write(tmp_path, **settings)
    check_token_ids(path, 260)
    with pytest.raises(ValueError, match=r"^model\.path .*it has 261; .*got token 261$"):
        check_token_ids(path, 261)
