import asyncio

import numpy as np
import pytest
from transformers import AutoTokenizer

from cost.types import LengthReport
from rollout.environments import SingleTurn
from rollout.reporting import make_report
from rollout.rewards.chain import ChainReward
from rollout.types import Completion, Group, GroupRef, Prompt, Trajectory, VersionSpan
from tests.examples import example
from tests.places import CHAIN_MODEL


@pytest.fixture(scope="module")
def group():
    """The group that the examples add up to."""

    async def generate(token_ids, max_tokens):
        return example(Completion)

    prompt = example(Prompt)
    right = asyncio.run(SingleTurn().play(generate, prompt, 256))
    return example(Group, prompt=prompt, right=right, wrong=example(Trajectory))


def test_examples_add_up_to_the_report_of_their_ticket(group):
    made, shown = make_report(group.ticket, group.prompt, group), example(LengthReport)
    assert made.reward_failure == shown.reward_failure == ""
    assert made.reward_components == shown.reward_components
    for name in {*LengthReport.__dataclass_fields__} - {"reward_failure", "reward_components"}:
        np.testing.assert_allclose(getattr(made, name), getattr(shown, name), atol=1e-3)
    assert example(GroupRef, report=shown, reference=object()).report is shown


def test_examples_say_what_their_tokens_say(group):
    tokenizer = AutoTokenizer.from_pretrained(CHAIN_MODEL)
    prompt, reward = group.prompt, ChainReward()
    message = {"role": "user", "content": prompt.text}
    templated = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    assert tokenizer.encode(templated, add_special_tokens=False) == prompt.token_ids.tolist()
    for j, trajectory in enumerate(group.trajectories):
        text = tokenizer.decode(trajectory.token_ids, skip_special_tokens=True)
        score = reward.score(prompt.text, text, prompt.answer)
        assert score.reward == group.rewards[j]
        assert score.extracted == group.answers[j]
        assert score.components == {k: v[j] for k, v in group.reward_components.items()}


def test_example_of_a_span_is_one_of_the_trajectory():
    assert example(VersionSpan) in example(Trajectory).version_spans
