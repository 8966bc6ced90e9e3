import numpy as np
import pytest

from rollout.tasks.chain import Chain, ChainTask
from rollout.tasks.features import feature_table
from rollout.types import Prompt


def prompts(*features):
    token_ids = np.arange(3, dtype=np.int32)
    return [
        Prompt(i, token_ids, "1", "mine", "?", features=each) for i, each in enumerate(features)
    ]


def test_columns_get_mean_0_and_variance_1_and_constant_ones_are_left_out():
    table = feature_table(prompts((1e9, 5.0, 0.0), (3e9, 5.0, 0.0), (5e9, 5.0, 3.0)))
    assert table.dtype == np.float16 and table.shape == (3, 2)
    np.testing.assert_allclose(table.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(table.std(axis=0), 1, atol=1e-3)


def test_tasks_that_offer_nothing_make_no_table():
    assert feature_table(prompts((), ())) is None
    assert feature_table(prompts((2.0,), (2.0,))) is None


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (((1.0,), (1.0, 2.0)), r"as many features, at most 64; .* got \[1, 2\]"),
        (((1.0,) * 65,), r"at most 64; .* got \[65\]"),
        (((1.0,), (float("nan"),)), r"finite features, got \(nan,\) for prompt 1"),
    ],
)
def test_what_is_no_table_is_refused(features, message):
    with pytest.raises(ValueError, match=message):
        feature_table(prompts(*features))


def test_a_chain_counts_what_there_is_to_do():
    chain = Chain(start=34, steps=(("+", 4), ("*", 3), ("-", 2), ("+", 9)))
    assert chain.features == (2.0, 1.0, 1.0, 1.0)
    (prompt,) = ChainTask(num_prompts=1).prompts(Tokenizer())
    operations = [step[1] for step in prompt.text.split()[1:]]
    assert prompt.features == (*(float(operations.count(op)) for op in "+-*"), 0.0)


class Tokenizer:
    chat_template = "{{ messages }}"
    bos_token_id = None

    def apply_chat_template(self, messages, **settings):
        return messages[0]["content"]

    def encode(self, text, add_special_tokens):
        return list(text.encode())
