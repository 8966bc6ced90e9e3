import numpy as np
import pytest

from launch.program import build
from launch.run import plan_text
from launch.run.inputs import Inputs
from launch.run.plan_text import derived_plan
from rollout.types import Prompt
from tests.composing import composed


class Letters:
    """A tokenizer with a token for every character."""

    def decode(self, token_ids):
        return "".join(map(chr, token_ids))


def prompt_of(conversation):
    """A prompt whose last message is the part behind the last bar."""
    tokens = np.array([ord(letter) for letter in conversation], dtype=np.int32)
    return Prompt(0, tokens, "1", "mine", conversation.rpartition("|")[2])


@pytest.fixture
def plan_of():
    """Compose a run with two prompts to learn from and one to be measured on."""
    tokens = [np.array([i, 2, 3], dtype=np.int32) for i in range(3)]
    prompts = [Prompt(i, tokens[i], "1", "mine", "?") for i in range(3)]

    def make(*overrides, trained=prompts[:2], measured=prompts[2:]):
        config = build(composed("train", "experiment=quickstart", *overrides))
        return derived_plan(Inputs(config, {}, Letters(), trained, {"held_out": measured}, {}))

    return make


def test_the_plan_says_what_one_step_comes_to(plan_of):
    plan = plan_of("scheduler.tickets_per_step=3", "scheduler.group_size=4")
    assert plan["one step"] == "3 tickets x 4 responses = 12 responses, at most 6,144 tokens"
    assert plan["prompts"] == "2 for training; evaluated on 1 held_out"
    assert str(plan["objective"]).startswith("uniform over prompts")


def test_prompts_to_measure_on_that_are_trained_on_too_are_counted(plan_of):
    known = [Prompt(7, np.array([0, 2, 3], dtype=np.int32), "1", "other", "?")]
    new = [Prompt(8, np.array([0, 2], dtype=np.int32), "1", "other", "?")]
    said = plan_of(measured=known + new)["prompts"]
    assert said == "2 for training; evaluated on 2 held_out (1 also in training)"


def test_questions_that_are_only_spelled_otherwise_are_counted_as_trained_on(plan_of):
    trained = [prompt_of(each) for each in ("user|What is 2+2?", "be brief|Go on", "user|x\u00b2?")]
    again = ["user|what  is 2+2?\n", "user|\uff37hat is 2+2?", "user|X2?"]
    new = ["user|What is 2+3?", "be long|go on"]
    measured = [prompt_of(each) for each in again + new]
    said = plan_of(trained=trained, measured=measured)["prompts"]
    assert said == "3 for training; evaluated on 5 held_out (3 also in training)"


def test_no_more_training_prompts_are_spelled_out_than_is_said(plan_of, monkeypatch):
    monkeypatch.setattr(plan_text, "MOST_DECODED", 3)
    decoded, decode = [], Letters.decode
    monkeypatch.setattr(
        Letters, "decode", lambda self, ids: decoded.append(ids) or decode(self, ids)
    )
    # Prompts that differ before their last message alone: which are the same only decoding tells.
    trained = [prompt_of(f"be {number}|go on") for number in range(40)]
    others = [prompt_of(f"be brief|{number}?") for number in range(40)]
    measured = [prompt_of("BE 2|go on"), prompt_of("BE 39|go on"), prompt_of("be 7|go on")]
    said = plan_of(trained=trained + others, measured=measured)["prompts"]
    assert said == (
        "80 for training; evaluated on 3 held_out (2 also in training); only 3 of the 40 training "
        "prompts that end like one of these were compared in full"
    )
    assert len(decoded) == 3 + 2
    decoded.clear()
    assert "compared" not in plan_of(trained=others, measured=measured)["prompts"]
    assert not decoded


def test_clipping_is_said_to_change_the_objective(plan_of):
    plan = plan_of("clipping@scheduler.clipping=gradient_share", "scheduler.clipping.max_share=.2")
    assert str(plan["objective"]).startswith("reweighted: the draws, thinning, clipping or ")


def test_batches_that_are_used_again_are_named(plan_of):
    plan = plan_of("reuse@scheduler.reuse=earlier", "scheduler.reuse.max_age=3")
    assert "also trained on up to 3 earlier batches" in str(plan["objective"])


def test_further_passes_over_a_batch_are_named_as_reuse_is(plan_of):
    """Both are second updates on the same responses."""
    assert "clips the ratio" not in str(plan_of()["objective"])
    assert str(plan_of("learner.num_epochs=2")["objective"]).endswith(
        "; also trained on each batch 2 times, which is biased where the objective clips the ratio"
    )


def test_exploring_tickets_are_named_beside_the_others(plan_of):
    plan = plan_of("entropy_control@scheduler.entropy_control=aepo", "scheduler.tickets_per_step=4")
    assert str(plan["one step"]).startswith("(4 tickets + 1 exploring) x 8 responses = 40 resp")
