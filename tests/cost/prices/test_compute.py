"""FLOPs of generating and scoring, counted token by token."""

import numpy as np
import pytest

from cost.prices.compute import ONE_TURN_EACH, Turns, generating, group_flops, scoring
from cost.prices.shape import ModelShape
from tests.cost.prices.test_prices import SHAPE
from tests.cost.worth.test_turns import report_of

MODEL = ModelShape(**SHAPE)


def counted(positions, num_logits):
    """FLOPs of tokens at these positions (from 1) of a model of two small matrices' worth."""
    total = num_logits * MODEL.head
    for position in positions:
        total += MODEL.token + position * MODEL.pair
    return total


def flops_of(prompt, prefill, lengths, turns=ONE_TURN_EACH):
    """FLOPs of one group alone."""
    of_group = (np.array([number]) for number in (prompt, prefill, len(lengths)))
    return group_flops(MODEL, *of_group, lengths, turns)[0]


def test_the_parts_are_counted_by_hand():
    # Of 3 layers: queries and output [8, 20], keys and values [8, 10], MLP [8, 7] three times.
    assert MODEL.token == 3 * 2 * (2 * 8 * 20 + 2 * 8 * 10 + 3 * 8 * 7)
    # Scores and mix of 4 heads of 5, and the logits of 11 words.
    assert MODEL.pair == 3 * 2 * (4 * 5 + 4 * 5)
    assert MODEL.head == 2 * 8 * 11


def test_a_cached_prompt_is_prefilled_once_and_the_last_token_never_fed_in():
    prompt, lengths = 6, np.array([4, 1, 3])
    positions = [*range(1, 7), *range(7, 10), *range(7, 9)]
    assert flops_of(prompt, 6, lengths) == counted(positions, 8)
    # Without a cache each response has a prompt of its own.
    uncached = counted(positions + 2 * list(range(1, 7)), 8)
    assert flops_of(prompt, 18, lengths) == uncached
    # Two tokens at the ends of the two other prompts were not cached.
    partly = counted(positions + 2 * [5, 6], 8)
    assert flops_of(prompt, 10, lengths) == partly


def test_a_group_may_be_empty_or_have_empty_responses():
    assert flops_of(5, 0, np.zeros(0, np.int64)) == 0
    assert flops_of(5, 5, np.zeros(2, np.int64)) == counted(range(1, 6), 0)


def test_groups_side_by_side_come_to_what_each_comes_to_alone():
    rng, reports = np.random.default_rng(0), []
    for count in (3, 0, 8, 1, 20):
        lengths = rng.integers(0, 300, count)
        turns = {"num_turns": rng.integers(1, 4, count), "environment_tokens": lengths // 3}
        again = np.where(turns["num_turns"] > 1, lengths, 0)
        reports.append(
            report_of(prompt_tokens=7, prefill_tokens=14 + int(again.sum()), lengths=lengths,
                turn_prefill_tokens=again, **turns)
        )  # fmt: skip
    alone = [generating(MODEL, [report])[0] for report in reports]
    assert alone[1] == 0 < min(alone[:1] + alone[2:])
    assert generating(MODEL, reports).tolist() == alone
    assert generating(MODEL, []).tolist() == []


def played(prompt, own, environment, num_turns, cached):
    """Positions that are computed, logits and later prefills of one play of equal turns."""
    positions, prefills, end = list(range(1, prompt + 1)), 0, prompt
    for turn in range(num_turns):
        if turn:
            # What was sampled last was never fed in.
            start, end = (end - 1 if cached else 0), end + environment
            positions += range(start + 1, end + 1)
            prefills += end - start
        positions += range(end + 1, end + own)
        end += own
    return positions, own * num_turns, prefills


@pytest.mark.parametrize(
    ("num_turns", "cached"), [(1, True), (2, True), (3, True), (5, True), (2, False)]
)
@pytest.mark.parametrize(("own", "environment"), [(4, 3), (1, 6), (7, 0)])
def test_every_token_of_several_turns_is_counted_once(num_turns, cached, own, environment):
    prompt = 6
    positions, logits, prefills = played(prompt, own, environment, num_turns, cached)
    written = environment * (num_turns - 1)
    report = report_of(
        prompt_tokens=prompt, prefill_tokens=prompt + prefills,
        lengths=[own * num_turns + written], num_turns=[num_turns],
        environment_tokens=[written], turn_prefill_tokens=[prefills],
    )  # fmt: skip
    assert generating(MODEL, [report])[0] == pytest.approx(counted(positions, logits), rel=1e-12)


def test_conversations_computed_anew_each_turn_are_counted_a_little_low_in_attention():
    positions, logits, prefills = played(6, 4, 3, 6, cached=False)
    turns = Turns(np.array([6]), np.array([15]), prefill=np.array([prefills]))
    found = flops_of(6, 6, np.array([24 + 15]), turns)
    true = counted(positions, logits)
    # The mean of squares is above the square of the mean; tokens and logits are exact.
    variance = np.var(np.arange(1, 6) * 7.0)
    assert true - found == pytest.approx(MODEL.pair * 5 * variance / 2) and found > 0.9 * true


def test_scoring_is_a_forward_pass_over_prompt_and_response():
    found = scoring(MODEL, 3, np.array([2, 0]))
    assert found.tolist() == [counted(range(1, 6), 2), counted(range(1, 4), 0)]
    of_turns = scoring(MODEL, 3, np.array([7]), np.array([4]))
    assert of_turns.tolist() == [counted(range(1, 11), 4)]


def test_a_plain_mlp_has_two_matrices(tmp_path):
    import json

    settings = {
        "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 5,
        "num_key_value_heads": 2, "intermediate_size": 7, "vocab_size": 11,
    }  # fmt: skip
    path = tmp_path / "config.json"
    path.write_text(json.dumps(settings))
    assert ModelShape.of_model(str(tmp_path)) == MODEL
    path.write_text(json.dumps(settings | {"model_type": "gpt_neox"}))
    plain = ModelShape.of_model(str(tmp_path))
    assert MODEL.token - plain.token == 3 * 2 * 8 * 7
    path.write_text("{}")
    assert ModelShape.found(str(tmp_path)) is None


@pytest.mark.parametrize("length", [1, 7, 100])
def test_a_response_alone_costs_the_same_generated_as_scored_but_for_its_last_token(length):
    generated = flops_of(9, 9, np.array([length]))
    scored = float(scoring(MODEL, 9, np.array([length]))[0])
    assert scored - generated == pytest.approx(MODEL.token + (9 + length) * MODEL.pair)
