"""Prices by closed forms; the laws of every member are in tests/contracts."""

import json
from pathlib import Path

import numpy as np
import pytest

from cost.prices.flops import FlopsPrice
from cost.prices.shape import UNGATED, ModelShape
from cost.prices.tokens import TokenPrice
from tests.places import CHAIN_MODEL

SHAPE = {
    "hidden_size": 8, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "head_dim": 5,
    "intermediate_size": 7, "vocab_size": 11,
}  # fmt: skip


def test_counts_every_token_the_machine_processes():
    prompt_tokens, lengths = np.array([10, 20]), np.array([5, 0])
    assert TokenPrice().of_training(prompt_tokens, lengths).tolist() == [15, 20]
    shared = TokenPrice(overhead_tokens=3.0, prompt_share=0.5)
    assert shared.of_training(prompt_tokens, lengths).tolist() == [13, 13]
    assert shared.of_drawing(prompt_tokens, lengths.astype(float), 8).tolist() == [13, 13]


def test_an_empty_response_is_not_free():
    assert TokenPrice(prompt_share=0.0).of_training(np.array([9]), np.array([0])).tolist() == [1]


@pytest.mark.parametrize(
    "changes",
    [
        {"overhead_tokens": -1.0}, {"overhead_tokens": np.nan}, {"overhead_tokens": np.inf},
        {"prompt_share": 1.5}, {"prompt_share": np.nan},
    ],
)  # fmt: skip
def test_refuses(changes):
    with pytest.raises(ValueError, match=rf"price\.{next(iter(changes))} must .* got"):
        TokenPrice(**changes)


def flops_by_counting(first: int, last: int, head: bool) -> int:
    """FLOPs of the tokens at positions first ... last of SHAPE, matrix by matrix.

    A product of [a, b] and [b, c] takes a * b * c multiplications and as many additions.
    """
    queries, keys = 4 * 5, 2 * 5
    matrices = [(8, queries), (8, keys), (8, keys), (queries, 8), (8, 7), (8, 7), (7, 8)]
    total = 0
    for position in range(first, last + 1):
        total += 3 * sum(2 * rows * columns for rows, columns in matrices)
        for _head in range(4):
            scores, mix = 2 * 5 * position, 2 * position * 5
            total += 3 * (scores + mix)
        total += 2 * 8 * 11 * head
    return total


@pytest.mark.parametrize(("prompt", "length"), [(1, 0), (1, 1), (6, 9), (13, 2)])
def test_flops_are_those_of_every_matrix(prompt, length):
    price = FlopsPrice(**SHAPE, trained_share=0.25)
    prefill = flops_by_counting(1, prompt, head=False)
    decode = flops_by_counting(prompt + 1, prompt + length, head=True)
    tokens, lengths = np.array([prompt]), np.array([length])
    training = price.of_training(tokens, lengths)
    assert training.tolist() == [3 * (prefill + decode)]
    drawing = price.of_drawing(tokens, lengths.astype(float), 4)
    assert drawing == pytest.approx(prefill / 4 + decode + 0.25 * 3 * (prefill / 4 + decode))
    whole = FlopsPrice(**SHAPE, trained_share=0.0, prefix_caching=False)
    assert whole.of_drawing(tokens, lengths.astype(float), 4) == pytest.approx(prefill + decode)
    again = FlopsPrice(**SHAPE, gradient_checkpointing=True).of_training(tokens, lengths)
    assert again.tolist() == [4 * (prefill + decode) - 2 * 8 * 11 * length]


def test_flops_grow_linearly_at_first_and_then_with_the_square():
    price = FlopsPrice(**(SHAPE | {"intermediate_size": 4096}), trained_share=0.0)
    prompt = np.array([1])

    def growth(length: float) -> float:
        once, twice = (
            price.of_drawing(prompt, np.array([n]), 999)[0] for n in (length, 2 * length)
        )
        return float(twice / once)

    assert growth(10) == pytest.approx(2, rel=0.01)
    assert growth(1e7) == pytest.approx(4, rel=0.01)


def test_the_shape_is_read_from_the_model():
    price = FlopsPrice.of_model(str(CHAIN_MODEL), trained_share=0.5)
    assert price == FlopsPrice(
        hidden_size=128, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=32,
        intermediate_size=384, vocab_size=261, trained_share=0.5,
    )  # fmt: skip


MODEL = {
    "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 5,
    "vocab_size": 9,
}  # fmt: skip


def model_folder(folder: Path, settings: object) -> str:
    (folder / "config.json").write_text(json.dumps(settings))
    return str(folder)


def test_a_prompt_that_is_shared_is_a_part_of_training():
    prompts, lengths = np.array([7, 7]), np.array([1, 30])
    for checkpointing, passes in ((False, 3), (True, 4)):
        price = FlopsPrice(**SHAPE, gradient_checkpointing=checkpointing)
        assert (
            price.of_prompt(prompts).tolist()
            == [passes * (7 * price.token + 7 * 8 / 2 * price.pair)] * 2
        )
        # What is left is the response's, which sees the prompt.
        own = price.of_training(prompts, lengths) - price.of_prompt(prompts)
        per_token = passes * price.token + 3 * price.head
        assert own[0] == pytest.approx(per_token + passes * 8 * price.pair)
        apart = FlopsPrice(**SHAPE, gradient_checkpointing=checkpointing, shared_prefix=False)
        assert not apart.of_prompt(prompts).any()
        less = apart.of_drawing(prompts, lengths, 4) - price.of_drawing(prompts, lengths, 4)
        assert less == pytest.approx(0.75 * price.of_prompt(prompts))


def test_heads_that_the_model_does_not_name_follow_from_the_others(tmp_path):
    price = FlopsPrice.of_model(model_folder(tmp_path, MODEL | {"head_dim": None}))
    assert (price.num_kv_heads, price.head_dim) == (3, 4)


@pytest.mark.parametrize("kind", [*UNGATED, "llama", "qwen3"])
def test_matrices_of_an_mlp_are_those_of_the_model_that_is_built(tmp_path, kind):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    width = 37
    sizes = MODEL | {"hidden_size": 16, "intermediate_size": width}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2}
    # Fuyu's text model is a Persimmon, in a config.json with the sizes of that.
    built = "persimmon" if kind == "fuyu" else kind
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(built, **sizes))
    matrices = [p for p in model.parameters() if p.ndim == 2 and width in p.shape]
    shape = ModelShape.of_model(model_folder(tmp_path, sizes | {"model_type": kind}))
    assert len(matrices) == shape.num_layers * shape.mlp_matrices


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"n_embd": 8}, "has hidden_size, num_hidden_layers, .* got"),
        ({k: v for k, v in MODEL.items() if k != "vocab_size"}, "config.json has vocab_size, or"),
        (MODEL | {"num_experts_per_tok": 2}, "without experts, .* got"),
        (MODEL | {"moe_num_experts": 8, "moe_topk": 2}, "without experts, .* got"),
        ([], "config.json has hidden_size"),
    ],
)
def test_refuses_a_model_that_does_not_tell_its_shape(tmp_path, settings, sentence):
    folder = model_folder(tmp_path, settings)
    with pytest.raises(ValueError, match=rf"^price\.model_path must .*{sentence}") as refusal:
        FlopsPrice.of_model(folder)
    assert "cost.prices.flops.FlopsPrice" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_refuses_a_model_that_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match=r"price\.model_path must .*No such file.* got"):
        FlopsPrice.of_model(str(tmp_path / "nowhere"))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"price\.model_path must .*not JSON.* got"):
        FlopsPrice.of_model(str(tmp_path))


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 0}, {"vocab_size": -1}, {"num_layers": 1.5}, {"head_dim": "5"},
        {"mlp_matrices": 0}, {"trained_share": -0.1}, {"trained_share": np.nan},
        {"trained_share": np.inf},
    ],
)  # fmt: skip
def test_refuses_a_shape_that_cannot_be(changes):
    with pytest.raises(ValueError, match=rf"price\.{next(iter(changes))} must .* got"):
        FlopsPrice(**(SHAPE | changes))
