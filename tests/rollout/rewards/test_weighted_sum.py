"""Several rewards are one, whose value is their weighted sum."""

import asyncio
import pickle
from dataclasses import dataclass, field

import pytest

from conf.programs import register
from conf.schema import RunConfig
from launch.cli.refusals import UserError
from launch.program import build, compose_run
from rollout.rewards.countdown import CountdownReward
from rollout.rewards.math_answer import MathReward
from rollout.rewards.returned import NoScoreError
from rollout.rewards.types import Score
from rollout.rewards.weighted_sum import WeightedSum
from tests.composing import composed

register()


class Length:
    def score(self, prompt_text, response_text, answer):
        return {"score": len(response_text), "spaces": response_text.count(" "), "pred": "no"}


class Columned:
    def score(self, prompt_text, response_text, answer, columns):
        return columns["level"]


@dataclass
class Late:
    """Says when it began, and ends once all of its kind have begun."""

    begun: list
    all_begun: int
    cancelled: list = field(default_factory=list)

    async def score(self, prompt_text, response_text, answer):
        self.begun.append(self)
        try:
            while len(self.begun) < self.all_begun:
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled.append(self)
            raise
        return 0.5


class Failing:
    async def score(self, prompt_text, response_text, answer):
        raise OSError("the judge is down")


def test_it_is_the_sum_of_the_parts_times_their_weights():
    reward = WeightedSum(
        parts={"right": MathReward(), "length": Length(), "level": Columned()},
        weights={"length": -0.01, "level": 2.0},
    )
    found = reward.score("1 + 1?", "It is \\boxed{2}", "2", {"level": 3})
    assert found.reward == pytest.approx(1.0 - 0.01 * 15 + 2 * 3)
    assert found.components["right"] == 1.0 and found.components["level"] == 3.0
    assert found.components["length"] == 15 and found.components["length/spaces"] == 2
    # The first part that found an answer says which.
    assert found.extracted == MathReward().score("", "It is \\boxed{2}", "2").extracted != "no"


def test_names_of_components_do_not_depend_on_the_response():
    reward = WeightedSum(parts={"right": MathReward(), "length": Length()})
    first, second = (reward.score("", text, "2").components for text in ("\\boxed{2}", ""))
    assert first.keys() == second.keys()


def test_parts_that_wait_do_so_side_by_side():
    begun = []
    parts = {"one": Late(begun, 2), "plain": Length(), "other": Late(begun, 2)}
    found = asyncio.run(asyncio.wait_for(WeightedSum(parts=parts).score("", "abc", ""), 10))
    assert found.reward == 0.5 + 3 + 0.5
    assert next(iter(found.components)) == "one" and len(begun) == 2


def test_one_that_fails_fails_the_sum_and_leaves_none_waiting():
    late = Late([], 2)

    async def main():
        with pytest.raises(OSError, match="the judge is down"):
            await WeightedSum(parts={"late": late, "judge": Failing()}).score("", "", "")
        await asyncio.sleep(0)
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(main()) == set() and late.cancelled == [late]


def test_a_part_that_returns_no_score_is_the_one_that_is_named():
    class Wrong:
        def score(self, prompt_text, response_text, answer):
            return "one"

    with pytest.raises(NoScoreError, match="must return a number") as found:
        WeightedSum(parts={"length": Length(), "wrong": Wrong()}).score("", "", "")
    assert found.value.place.startswith(__file__)


def test_it_checks_loads_and_shows_examples_as_its_parts_do():
    class Loaded(Length):
        loaded = False

        def load(self):
            self.loaded = True

        def check(self, answer):
            if not answer:
                raise ValueError("the answer must not be empty")

        def example(self, answer):
            return 2 * answer

    loaded = Loaded()
    reward = WeightedSum(parts={"length": loaded, "right": MathReward()})
    reward.load()
    assert loaded.loaded
    reward.check("2")
    with pytest.raises(ValueError, match="must not be empty"):
        reward.check("")
    assert reward.example("7") == "77"
    assert WeightedSum(parts={"length": Length()}).example("7") == ""


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"parts": {}}, r"reward\.parts must name at least one reward: \+reward@"),
        ({"parts": {"x": 3}}, r"reward\.parts\.x must be a reward, got 3"),
        (
            {"parts": {"x": Length()}, "weights": {"y": 1.0}},
            r"reward\.weights must name parts, one of x, got 'y'",
        ),
        (
            {"parts": {"x": Length()}, "weights": {"x": float("nan")}},
            r"reward\.weights\.x must be a number, got nan",
        ),
    ],
)
def test_what_cannot_be_added_up_is_refused(settings, told):
    with pytest.raises(ValueError, match=told):
        WeightedSum(**settings)


def test_code_that_outlives_its_process_is_refused_in_a_part_as_well():
    parts = ["reward=sum", "+reward@reward.parts.tests=code"]
    with pytest.raises(UserError, match=r"reward\.parts\.tests\.seconds must be less than"):
        build(composed("train", "experiment=quickstart", *parts, "reward.parts.tests.seconds=11"))


def test_the_command_line_names_parts_and_weights(tmp_path):
    (tmp_path / "mine.py").write_text(
        "def short(response_text):\n    return float(len(response_text) < 5)\n"
    )
    config: RunConfig = build(
        compose_run(
            [
                "experiment=quickstart",
                "run_dir=x",
                "reward=sum",
                "+reward@reward.parts.right=countdown",
                "reward.parts.right.format_reward=0.2",
                f"+reward@reward.parts.short={tmp_path}/mine.py:short",
                "+reward.weights.short=0.1",
            ]
        )
    )
    reward = pickle.loads(pickle.dumps(config.reward))
    assert reward.parts["right"] == CountdownReward(format_reward=0.2)
    assert reward.score("", "no", '{"numbers": [1], "target": 1}').reward == pytest.approx(0.1)
    assert isinstance(reward.score("", "no", '{"numbers": [1], "target": 1}'), Score)
