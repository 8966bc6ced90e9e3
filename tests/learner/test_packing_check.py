"""Models that packed rows would get wrong are noticed before they train."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from learner import attention
from learner.config import LearnerConfig
from learner.logprobs import PackedPolicy
from learner.numerics import Numerics
from learner.packing_check import check_packing
from learner.policy import load_policy
from tests.learner.architectures import MODELS, small_model
from tests.model_folders import KINDS, make_folder

REFUSED = {
    "gpt2": "does not call attention as packed rows need it",
    "opt": "OPTForCausalLM does not score packed rows as it scores single sequences",
    "gpt_oss": "plain scores .*got s_aux",
    "mamba": "MambaForCausalLM does not score packed rows",
    "bloom": "BloomForCausalLM does not score packed rows",
}


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_packing_would_get_wrong_are_refused_at_start(name):
    with pytest.raises(ValueError, match=r"^model\.path: .*" + REFUSED[name]):
        check_packing(PackedPolicy(small_model(name), 1.0))


@pytest.mark.parametrize("name", [name for name in MODELS if name not in REFUSED])
def test_others_pass_also_with_a_window_shorter_than_the_responses(name):
    window = {"sliding_window": 4} if "sliding_window" in MODELS[name][1] else {}
    check_packing(PackedPolicy(small_model(name, **window), 1.0))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_folders_are_loaded_to_score_packed_rows_as_single_sequences(tmp_path, kind, dtype):
    """Their weights in several files, and fewer tokens in the window than a row has."""
    window = {"sliding_window": 8} if KINDS[kind][1].get("sliding_window") else {}
    folder = make_folder(tmp_path, kind, dtype=dtype, num_shards=2, **window)
    policy = load_policy(str(folder), LearnerConfig(), Numerics(dtype=dtype, temperature=0.7))
    check_packing(PackedPolicy(policy, 0.7))


def test_attention_that_knows_no_shared_prompts_is_noticed(model_paths):
    model = AutoModelForCausalLM.from_pretrained(model_paths[False], dtype=torch.float32)
    with pytest.raises(ValueError, match="does not score packed rows"):
        check_packing(PackedPolicy(model, 1.0))
    model.set_attn_implementation(attention.register())
    check_packing(PackedPolicy(model, 1.0))
    assert model.config._attn_implementation == attention.NAME
