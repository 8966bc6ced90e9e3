"""Hydra's and OmegaConf's sentences, as they come of command lines, say what to change."""

import pytest

from conf.programs import register
from launch.cli.hydra_errors import reworded
from launch.cli.refusals import UserError
from launch.program import compose_run

register()


def refusal_of(*overrides, program="train"):
    with pytest.raises(UserError) as refused:
        compose_run(overrides, program)
    return str(refused.value)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("learner.lr=abc", "learner.lr must be a number, got 'abc'"),
        ("++learner.lr=a=b", "learner.lr must be a number, got 'a=b'"),
        ("learner.lr={a:1}", "learner.lr must be a number, got {'a': 1}"),
        ("learner.lr=null", "learner.lr must be set, got null"),
        ("seed=abc", "seed must be a whole number, got 'abc'"),
        ("loop.num_steps=1.5", "loop.num_steps must be a whole number, got 1.5"),
        ("resources.use_gpu=maybe", "resources.use_gpu must be true or false, got 'maybe'"),
        ("name=[a]", "name must be a text, got [a]"),
        ("learner=3", "learner must be changed by its settings, one by one, got 3"),
        ("evaluation.sets=3", "evaluation.sets must be a mapping, such as {NAME:VALUE}, got 3"),
        (
            "rewrd@reward=math",
            "rewrd is not a group; did you mean reward?, got 'rewrd@reward=math'",
        ),
    ],
)
def test_a_value_of_another_type_is_refused_in_one_form(override, sentence):
    assert refusal_of(override) == sentence


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (
            "scheduler.allocator.flor=0.9",
            "chosen; did you mean scheduler.allocator.floor, a setting",
        ),
        (
            "held_out.num_prompt=9",
            "of the task that is chosen; did you mean held_out.num_prompts, a",
        ),
        (
            "objective.kappa=1",
            "chosen; a class or function of yours gets it with a plus, +objective",
        ),
        ("thinning.d3s=1", "thinning.d3s is not a setting"),
        ("scheduler.thinning.num_kept=4", "thinning that is chosen, but of thinning=pods"),
    ],
)
def test_a_setting_that_the_member_of_a_group_lacks_is_told_as_such(override, told):
    """What the nearest key of the schema was named for is the plug itself."""
    assert told in refusal_of("experiment=quickstart", override)


def test_a_mapping_without_a_key_says_how_to_add_it():
    """It is a setting, and was said to be none."""
    found = refusal_of("comparison=pays", "budget.shares={half:0.5}", program="compare")
    assert (
        found == "budget.shares has no 'half' yet; add it with a plus, +budget.shares={half:VALUE}"
    )
    compose_run(["comparison=pays", "+budget.shares={half:0.5}"], "compare")


@pytest.mark.parametrize(
    ("choices", "key"),
    [
        (["reward=sum", "+reward@reward.parts.x=math"], "reward.weights.x"),
        (["task=mixed", "+task@task.sets.x=chain"], "task.weights.x"),
        (["task@held_out=mixed"], "held_out.sets.x"),
    ],
)
def test_what_the_user_names_in_a_mapping_of_a_plug_is_added(choices, key):
    added = f"{key} is not there yet; add it with a plus, +{key}=VALUE"
    assert refusal_of("experiment=quickstart", *choices, f"{key}=2") == added
    # Where the plug has no such mapping, nothing can be added to it.
    assert "is not a setting" in refusal_of("experiment=quickstart", "reward.weights.x=2")


@pytest.mark.parametrize(
    "key", ["learner.deepspeed.zero_optimization.sub_group_size", "rollout.engine.vllm.block_size"]
)
def test_a_setting_that_is_passed_on_says_how_to_add_it(key):
    assert refusal_of(f"{key}=16") == (f"{key} is not there yet; add it with a plus, +{key}=VALUE")
    compose_run([f"+{key}=16"])


def test_a_list_and_what_is_in_it_too():
    assert refusal_of("seeds=3", program="compare") == "seeds must be a list, such as [A,B], got 3"
    found = refusal_of("seeds=[1,a]", program="compare")
    assert found == "seeds[1] must be a whole number, got 'a'"


def test_a_value_in_a_file_is_named_with_the_file(tmp_path):
    file = tmp_path / "experiment" / "bad.yaml"
    file.parent.mkdir()
    file.write_text("# @package _global_\ndefaults: [quickstart]\nlearner: {lr: abc}\n")
    found = refusal_of(f"--config-dir={tmp_path}", "experiment=bad")
    assert found == "learner.lr must be a number in experiment/bad, got 'abc'"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            "learner: {lrr: 1}",
            "learner.lrr is not a setting in experiment/bad; did you mean learner.lr? "
            "(Key 'lrr' not in 'LearnerConfig')",
        ),
        (
            "allocator: mine.py:Mine",
            "allocator is not a setting in experiment/bad; did you mean scheduler.allocator? "
            "(Key 'allocator' not in 'RunConfig')",
        ),
        (
            "evaluation: {sets: {mine: {foo: 1}}}",
            "evaluation.sets.mine.foo is not a setting in experiment/bad; --help lists what "
            "there is (Key 'foo' not in 'EvaluationSet')",
        ),
        (
            "recipe: dapo",
            "recipe is chosen among the defaults in experiment/bad: override /recipe: MEMBER",
        ),
    ],
)
def test_a_key_in_a_file_is_told_with_the_one_that_was_meant(line, sentence, tmp_path):
    """Hydra named its own error and its schema, and nothing that exists."""
    file = tmp_path / "experiment" / "bad.yaml"
    file.parent.mkdir()
    file.write_text(f"# @package _global_\ndefaults: [quickstart]\n{line}\n")
    assert refusal_of(f"--config-dir={tmp_path}", "experiment=bad") == sentence


def test_a_member_without_its_place_is_told_the_place():
    """What hydra said to append would have been refused as well."""
    assert refusal_of("allocator=epoch") == (
        "a member of allocator is chosen by its place too: allocator@scheduler.allocator=MEMBER"
    )


@pytest.mark.parametrize("file", ["r.py", "some/where/r.py", "/some/where/r.py"])
@pytest.mark.parametrize("chosen", ["reward", "allocator@scheduler.allocator"])
def test_a_file_without_a_name_in_it_is_told_how_to_name_one(chosen, file):
    group = chosen.partition("@")[0]
    assert refusal_of(f"{chosen}={file}") == (
        f"{group} must name what it takes of a file of yours, a function or class of it: "
        f"{file}:NAME, got {file!r}"
    )


@pytest.mark.parametrize("chosen", ["experiment=r.py", "reward=maht", "recipe=da.po"])
def test_a_member_that_is_not_there_is_answered_with_those_that_are(chosen):
    group, _, member = chosen.partition("=")
    found = refusal_of(chosen)
    assert found.startswith(f"{group} has no member {member!r}; ")
    assert "There are " in found and "provider" not in found and ":NAME" not in found


def test_a_group_is_not_called_no_setting():
    told = "recipe is a group, of which this configuration takes no member; leave recipe out"
    assert refusal_of("recipe=dapo", program="simulate") == told
    # As of a run folder's configuration, which has no groups at all.
    unknown = (
        "Could not override 'recipe'.; To append to your config use +recipe=dapo; Key 'recipe'"
    )
    assert reworded(f"{unknown} not in 'RunConfig'") == told


@pytest.mark.parametrize(
    "said",
    [
        "something else; full_key: a.b",
        "Could not override 'of_mine'. No match in the defaults list.; To append use +of_mine=a",
    ],
)
def test_what_is_not_known_stays(said):
    assert reworded(said) == said
