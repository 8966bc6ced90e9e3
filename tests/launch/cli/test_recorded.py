"""What a run folder records, on the command line of another run."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from conf.programs import register
from launch.cli.command_line import with_quotes
from launch.cli.recorded import with_resumed
from launch.cli.refusals import UserError
from launch.program import compose_run, prepare_run_dir


@pytest.fixture
def make_run_folder(tmp_path):
    def make(name):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("seed: 3\n")
        return folder

    return make


@pytest.mark.parametrize("name", ["a", "zwei läufe/ä b", "it's", "x=1", "${y}"])
@pytest.mark.parametrize("quote", ["{}", "'{}'", '"{}"'])
def test_resume_takes_the_configuration_of_that_run(make_run_folder, name, quote):
    folder = make_run_folder(name)
    given = f"resume={quote.format(folder)}"
    found = with_resumed([given, "loop.num_steps=80"])
    assert found[:6] == [
        "--config-path", str(folder), "--config-name", "config", given, "loop.num_steps=80",
    ]  # fmt: skip
    place = OverridesParser.create().parse_override(found[6])
    assert len(found) == 7 and place.key_or_group == "run_dir"
    assert OmegaConf.to_container(OmegaConf.create({"run_dir": place.value()}), resolve=True) == {
        "run_dir": str(folder)
    }


def test_resume_takes_a_folder_relative_to_here(make_run_folder, monkeypatch):
    folder = make_run_folder("runs/a")
    monkeypatch.chdir(folder.parents[1])
    assert with_resumed(["resume=runs/a"])[1] == str(folder)


@pytest.mark.parametrize("name", ["it's", "it's a läuf", 'a "b" c', "d\\'e f"])
def test_resume_takes_a_folder_as_a_program_reads_its_command_line(make_run_folder, name):
    folder = make_run_folder(name)
    assert with_resumed(with_quotes([f"resume={folder}"]))[1] == str(folder)


@pytest.mark.parametrize(
    "arguments",
    [[], ["run_dir=a", "resume=auto"], ["resume=null"], ["resume="], ["loop.num_steps=3"]],
)
def test_what_names_no_run_stays(arguments):
    assert with_resumed(arguments) == arguments


@pytest.mark.parametrize(
    "beside", ["run_dir=x", "--config-path=x", "--config-name=x", "-cp", "-cn"]
)
def test_resume_stands_for_folder_and_configuration_alone(make_run_folder, beside):
    folder = make_run_folder("a")
    key = beside.split("=")[0]
    with pytest.raises(UserError, match=f"which configuration and run folder .* leave {key} out$"):
        with_resumed([f"resume={folder}", beside])


def test_resume_must_be_a_run_folder(tmp_path):
    with pytest.raises(UserError, match=r"^resume must be auto or a run folder, .*got '.*none'$"):
        with_resumed([f"resume={tmp_path / 'none'}"])


def test_an_empty_record_is_said_to_be_empty(make_run_folder):
    folder = make_run_folder("a")
    (folder / "config.yaml").write_text("")
    with pytest.raises(
        UserError, match=r"^resume must be a run folder whose .* empty; begin a new"
    ):
        with_resumed([f"resume={folder}"])


def test_a_run_whose_folder_was_moved_goes_on_there_with_what_the_command_line_changes(tmp_path):
    register()
    first, moved = tmp_path / "first", tmp_path / "zweiter läuf"
    composed = compose_run(["experiment=quickstart", "learner.lr=3e-5", f"run_dir={first}"])
    prepare_run_dir(first, composed, "train")
    first.rename(moved)
    arguments = with_resumed(with_quotes([f"resume={moved}", "loop.num_steps=80"]))
    assert arguments[::2][:2] == ["--config-path", "--config-name"]
    with initialize_config_dir(arguments[1], version_base="1.3"):
        again = compose(arguments[3], arguments[4:])
    assert (again.run_dir, again.resume, again.loop.num_steps) == (str(moved), str(moved), 80)
    same = {"run_dir": str(first), "resume": None, "loop": {"num_steps": 40}}
    assert OmegaConf.merge(again, same) == OmegaConf.create(
        OmegaConf.to_container(composed, resolve=True)
    )


@pytest.fixture
def quickstart(tmp_path):
    """The folder of a run of the quickstart."""
    register()
    folder = tmp_path / "run"
    prepare_run_dir(folder, compose_run(["experiment=quickstart", f"run_dir={folder}"]), "train")
    return folder


@pytest.mark.parametrize(
    "chosen",
    ["experiment=quickstart", "recipe=dapo", "reward=math", "~recipe", "tracker=[default,wandb]",
     "allocator@scheduler.allocator=epoch", "+task@held_out=gsm8k_held_out"],
)  # fmt: skip
def test_over_a_record_no_group_is_chosen_anew(quickstart, chosen):
    key = chosen.partition("=")[0]
    sentence = f"takes that run's configuration, groups and all; leave {key} out"
    with pytest.raises(UserError) as refusal:
        with_resumed([f"resume={quickstart}", chosen])
    assert str(refusal.value) == f"resume={quickstart} {sentence}"


def test_a_record_takes_settings_of_plugs_and_further_sets(quickstart):
    changed = ["reward._target_=mine.Reward", "task={num_prompts:7}"]
    sets = ["+evaluation_set@evaluation.sets.mine=dataset", "evaluation.sets.mine.task.path=läuf"]
    sets += ["+reward@evaluation.sets.mine.reward=math"]
    arguments = with_resumed(with_quotes([f"resume={quickstart}", *changed, *sets]))
    with initialize_config_dir(arguments[1], version_base="1.3"):
        again = compose(arguments[3], arguments[4:])
    assert (again.reward._target_, again.task.num_prompts) == ("mine.Reward", 7)
    assert again.evaluation.sets.mine.task.path == "läuf"
    assert again.evaluation.sets.mine.reward._target_.startswith("rollout.rewards.math_answer.")
