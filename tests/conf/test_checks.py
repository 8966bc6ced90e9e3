import pytest

from conf.checks import ObjectivePlug, ProfilePlug, TrackerPlug, require_plug
from launch.record.tracking import JsonlTracker, Tracker
from launch.study.simulation.profile import Profile
from learner.objectives.types import Objective
from rollout.environments import Environment, SingleTurn
from rollout.rewards.chain import ChainReward
from rollout.rewards.types import Reward
from rollout.tasks.chain import ChainTask
from rollout.tasks.prompts import Task


class Scores:
    """A reward that accepts every answer."""

    def score(self, prompt_text, response_text, answer):
        return 1.0


@pytest.mark.parametrize(
    ("contract", "plug", "method"),
    [
        (Task, ChainReward(), "prompts"),
        (Reward, ChainTask(), "score"),
        (Environment, ChainReward(), "play"),
        (ObjectivePlug, SingleTurn(), "token_losses"),
        (TrackerPlug, SingleTurn(), "open"),
        (ProfilePlug, SingleTurn(), "engine"),
        (Task, None, "prompts"),
        (Task, {"prompts": 3}, "prompts"),
    ],
)
def test_a_refusal_names_the_key_and_the_method_that_is_missing(contract, plug, method):
    with pytest.raises(ValueError, match=rf"^my\.key must be a plug with the method {method}, got"):
        require_plug("my.key", plug, contract)


@pytest.mark.parametrize(
    ("contract", "plug"),
    [
        (Task, ChainTask()),
        (Reward, ChainReward()),
        (Reward, Scores()),
        (Environment, SingleTurn()),
        (TrackerPlug, JsonlTracker()),
    ],
)
def test_a_plug_of_the_kind_is_accepted(contract, plug):
    require_plug("key", plug, contract)


@pytest.mark.parametrize(
    ("asked", "contract"), [(ObjectivePlug, Objective), (TrackerPlug, Tracker)]
)
def test_what_is_asked_here_is_what_the_contract_has(asked, contract):
    def methods(protocol):
        return {name for name in vars(protocol) if not name.startswith("_")}

    assert methods(asked) == methods(contract)


def test_a_profile_has_what_is_asked_here():
    assert "engine" in Profile.__dataclass_fields__
