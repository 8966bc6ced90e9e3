"""One reward for several sets: each response reaches the reward of its own set."""

import asyncio

import numpy as np
import pytest

from conf.evaluation import EvaluationConfig, EvaluationSet
from rollout.rewards.by_set import SEPARATOR, RewardBySet, address
from rollout.rewards.chain import ChainReward
from rollout.rewards.math_answer import MathReward
from rollout.rewards.pool import RewardPool
from rollout.rewards.types import Score
from rollout.tasks.chain import ChainTask
from rollout.types import Prompt

BOTH = RewardBySet(ChainReward(), {"sums": MathReward()})
FRACTION = r"\boxed{\frac{10}{2}}"
"""Right to math-verify, wrong to the chain reward."""


def prompt(answer):
    return Prompt(0, np.arange(2, dtype=np.int32), answer, "mine", "what?")


@pytest.mark.parametrize(
    ("reward", "to_default", "to_sums"),
    [(BOTH, 0.0, 1.0), (RewardBySet(MathReward(), {"sums": ChainReward()}), 1.0, 0.0)],
    ids=["math for sums", "chain for sums"],
)
def test_the_set_in_the_answer_decides(reward, to_default, to_sums):
    plain, addressed = prompt("5"), address(prompt("5"), "sums")
    assert reward.score("what?", FRACTION, plain.answer).reward == to_default
    assert reward.score("what?", FRACTION, addressed.answer).reward == to_sums
    assert reward.score("what?", "no", addressed.answer).reward == 0.0


def test_an_answer_of_the_task_is_passed_on_whole_whatever_it_holds():
    class Recorder:
        def score(self, prompt_text, response_text, answer):
            self.answer = answer
            return 0.0

    recorder = Recorder()
    RewardBySet(recorder, {"sums": ChainReward()}).score("q", "r", f"other{SEPARATOR}5")
    assert recorder.answer == f"other{SEPARATOR}5"


def test_rewards_of_sets_may_return_plain_numbers_and_accept_every_answer():
    class Plain:
        def score(self, prompt_text, response_text, answer):
            return response_text == answer

    both = RewardBySet(Plain(), {"sums": Plain()})
    both.check("anything")
    assert both.score("q", "5", address(prompt("5"), "sums").answer) == Score(1.0)
    assert both.score("q", "5", "6") == Score(0.0)


def test_all_load_that_have_something_to_load():
    class Loads(ChainReward):
        def load(self):
            loaded.append(self)

    loaded = []
    first, second = Loads(), Loads()
    RewardBySet(first, {"sums": second, "plain": ChainReward()}).load()
    assert loaded == [first, second]


def test_it_scores_in_the_reward_processes():
    async def score():
        pool = RewardPool(BOTH)
        await pool.start()
        try:
            answers = ["5", address(prompt("5"), "sums").answer]
            return await pool.score([("what?", FRACTION, answer) for answer in answers])
        finally:
            pool.close()

    assert [scored.score.reward for scored in asyncio.run(score())] == [0.0, 1.0]


def test_without_a_reward_of_their_own_sets_leave_the_reward_as_it_is():
    task, reward = ChainTask(), ChainReward()
    assert EvaluationConfig(sets={"a": EvaluationSet(task=task)}).engine_reward(reward) is reward
    own = {"a": EvaluationSet(task=task, reward=MathReward()), "b": EvaluationSet(task=task)}
    found = EvaluationConfig(sets=own).engine_reward(reward)
    assert found == RewardBySet(reward, {"a": MathReward()})
