import pytest
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from launch.cli.command_line import (
    HYDRA_OPTIONS_WITH_VALUE,
    check_emptied,
    check_options,
    check_overrides,
    options_last,
    with_quotes,
    with_words,
)
from launch.cli.refusals import UserError


@given(st.lists(st.text(alphabet="ab =\\'\"$?{}[](),:%*~+-ü\n", max_size=8), min_size=1))
def test_words_reach_the_program_letter_for_letter(words):
    words = [f"w{word}".replace("=", "") for word in words]
    [override] = with_words(words, "runs")
    parsed = OverridesParser.create().parse_override(override)
    assert parsed.key_or_group == "runs"
    assert list(OmegaConf.create({"runs": parsed.value()}).runs) == words


def test_words_are_told_from_overrides_and_options():
    others = ["out=x", "+a=1", "~tracker.ray", "--cfg", "job", "-cn", "config", "--resolve"]
    assert with_words(others, "runs") == others == with_words(others, None)
    assert with_words(["a=1", "one", "--cfg", "job", "two"], "runs") == [
        "a=1", "runs=['one','two']", "--cfg", "job",
    ]  # fmt: skip


def test_the_options_with_a_value_are_those_of_hydra():
    valued = [
        name
        for action in get_args_parser()._actions
        if action.nargs != 0 and action.option_strings
        for name in action.option_strings
    ]
    assert set(HYDRA_OPTIONS_WITH_VALUE) == set(valued)


def value_of(override):
    return OverridesParser.create().parse_override(override).value()


def test_lists_of_settings_need_no_quotes():
    """Hydra's grammar has no place for `=` within a list."""
    written = "+arms.mine=[recipe=dapo, reward=mine.py:score,name=a b]"
    [override] = with_quotes([written])
    assert value_of(override) == ["recipe=dapo", "reward=mine.py:score", "name=a b"]
    for stays in ("seeds=[0,1]", "base=['a=1']", "base=[a=[1,2]]", "x=[]"):
        assert with_quotes([stays]) == [stays]


@pytest.mark.parametrize(
    "value", ["/home/jörg/läufe", "/a b/ü", "runs/lr=1", "/数据/x", "a;b", "#1", "~/x y", "é"]
)
def test_paths_reach_the_program_letter_for_letter(value):
    [override] = with_quotes([f"run_dir={value}"])
    assert value_of(override) == value


@pytest.mark.parametrize(
    "value",
    ["Q: {{prompt}}", "{{prompt}} Think, then say \"yes\" (or 'no').", "It's {{a.b}}[0]: \\boxed{}",
     "f(x)", "$5, {{prompt}}", "one\n{{prompt}}\n"],
)  # fmt: skip
def test_templates_need_no_quotes(value):
    [override] = with_quotes([f"task.template={value}"])
    assert value_of(override) == value


@given(st.text(alphabet="ab /=\\ü~#;é.-_", min_size=1, max_size=12))
def test_every_plain_value_parses(value):
    [override] = with_quotes([f"run_dir={value}"])
    assert isinstance(value_of(override), str | int | float)


@pytest.mark.parametrize(
    "argument",
    ["a=1", "a=[1,2]", "a={b:1}", "a='ü'", 'a="ü b"', "a=${b}", "--cfg", "~a", "a=", "+a=x",
     "a ü=1", "a=b,c", "a=null", "a=[1", "a={b", "a='b", "a=x{} ${b}"],
)  # fmt: skip
def test_what_means_something_to_hydra_stays(argument):
    assert with_quotes([argument]) == [argument]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--cfg"], "expected one argument"),
        (["--cfg", "x=1"], "invalid choice"),
        (["--nope"], "--nope"),
        (["-m"], "--multirun"),
        (["--multirun", "seed=1,2"], "--multirun"),
    ],
)
def test_an_unknown_option_is_one_sentence(arguments, part, capsys):
    with pytest.raises(UserError, match=part):
        check_options(arguments)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["a=1", "--cfg", "job", "b=2"], ["a=1", "b=2", "--cfg", "job"]),
        (["a=1", "--shell-completion", "install=bash"], ["a=1", "install=bash",
                                                         "--shell-completion"]),
        (["-cn", "x", "a=1", "--cfg=job", "~b"], ["a=1", "~b", "-cn", "x", "--cfg=job"]),
        (["a=1", "--info"], ["a=1", "--info"]),
    ],
)  # fmt: skip
def test_options_may_stand_among_overrides(arguments, found):
    assert options_last(arguments) == found
    check_options(found)


def test_of_an_option_among_overrides_it_is_the_option_that_is_refused():
    with pytest.raises(UserError, match=r"got --multirun$"):
        check_options(options_last(["a=1", "--multirun", "b=1,2"]))


def test_known_options_pass():
    check_options(["--cfg", "job", "a=1", "--resolve", "-cn", "config"])
    check_options(["--help"])
    check_options(["--version"])


@pytest.mark.parametrize("value", ["null", "3", "1.5", "true", "[chain]", "[]"])
@pytest.mark.parametrize("group", ["task", "reward", "recipe", "allocator@scheduler.allocator"])
def test_a_group_takes_the_name_of_a_member(group, value):
    with pytest.raises(UserError, match=rf"^{group} must be the name of one member .*, got "):
        check_overrides([f"{group}={value}"])


def test_what_is_no_group_or_names_a_member_passes():
    check_overrides(
        ["task=chain", "tracker=[default,wandb]", "seed=3", "scheduler.entropy_control=null",
         "~recipe", "+evaluation_set@evaluation.sets.x=dataset", "--cfg", "job"]
    )  # fmt: skip


@pytest.mark.parametrize("setting", ["=3", "name=[", "name={", "a b=1", "name='", "'name=1'"])
def test_what_hydra_cannot_parse_is_shown(setting):
    with pytest.raises(UserError, match=r"^settings must be written as KEY=VALUE.*, got ") as found:
        check_overrides(with_quotes([setting]))
    assert "\n" not in str(found.value) and "None" not in str(found.value)


@pytest.mark.parametrize(
    "setting", ["learner.lr=1e-4,1e-5", "recipe=grpo,dapo", "seed=range(1,4)", "name=choice(a,b)"]
)
def test_several_values_are_for_a_comparison(setting):
    key, _, value = setting.partition("=")
    with pytest.raises(
        UserError, match=rf"^{key} must be one value; .*launch\.compare.*, got "
    ) as e:
        check_overrides([setting])
    assert str(e.value).endswith(f"got {value!r}") and "--multirun" not in str(e.value)


def test_an_empty_mapping_over_a_full_one_is_refused():
    config = OmegaConf.create({"task": {"a": 1}, "scheduler": {"allocator": {"b": 2}}, "extra": {}})
    for setting in ("task={}", "scheduler.allocator={}", "allocator@scheduler.allocator={}"):
        with pytest.raises(UserError, match=r"must be given what is to change.*got \{\}$"):
            check_emptied([setting], config)
    check_emptied(["extra={}", "task={a:2}", "~task", "task.a=3", "nowhere={}"], config)


def test_a_member_is_chosen_by_its_group():
    for group, place, member in (
        ("aggregation", "scheduler.aggregation", "batch_token_mean"),
        ("correction", "learner.correction", "truncated"),
    ):
        with pytest.raises(UserError, match=rf"^{place} .* chosen by {group}@{place}={member}, "):
            check_overrides([f"{place}={member}"])
        check_overrides([f"{group}@{place}={member}", f"{place}=null", f"{place}=mine.py:Mine"])
    check_overrides(["tracker.mlflow.experiment=quickstart"])
