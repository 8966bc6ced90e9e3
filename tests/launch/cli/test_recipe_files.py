"""Which files of recipes and experiments count more, and in which order hydra merges them."""

import pytest

from conf.keys import CONF
from launch.cli.command_line import parsed
from launch.cli.recipe_files import files_of, with_parents

WRITTEN = {
    "experiment/one": "defaults: [quickstart, override /recipe: gspo]\nname: one\n",
    "experiment/two": "defaults: [one]\nname: two\n",
    "experiment/other": "defaults: [two, override /recipe: mine]\nname: other\n",
    "experiment/within": "defaults: [quickstart, /recipe/gspo]\nname: within\n",
    "recipe/mine": "defaults: [grpo]\nname: mine\n",
}
QUICKSTART = ["quickstart_engine", "quickstart"]


@pytest.mark.parametrize(
    ("chosen", "ranked", "merged"),
    [
        ("experiment=quickstart", QUICKSTART, QUICKSTART),
        ("experiment=quickstart recipe=gspo", [*QUICKSTART, "gspo"], ["gspo", *QUICKSTART]),
        (
            "experiment=two",
            [*QUICKSTART, "gspo", "one", "two"],
            ["gspo", *QUICKSTART, "one", "two"],
        ),
        (
            "experiment=two recipe=gspo",
            [*QUICKSTART, "gspo", "one", "two"],
            ["gspo", *QUICKSTART, "one", "two"],
        ),
        (
            "experiment=two recipe=mine",
            [*QUICKSTART, "one", "two", "grpo", "mine"],
            ["grpo", "mine", *QUICKSTART, "one", "two"],
        ),
        (
            "experiment=other",
            [*QUICKSTART, "one", "two", "grpo", "mine", "other"],
            ["grpo", "mine", *QUICKSTART, "one", "two", "other"],
        ),
        (
            "experiment=within recipe=gspo",
            [*QUICKSTART, "gspo", "within"],
            ["gspo", *QUICKSTART, "gspo", "within"],
        ),
        ("experiment=two ~recipe", [*QUICKSTART, "one", "two"], [*QUICKSTART, "one", "two"]),
        ("recipe=mine", ["grpo", "mine"], ["grpo", "mine"]),
    ],
)
def test_which_files_count_more(tmp_path, chosen, ranked, merged):
    for name, text in WRITTEN.items():
        path = tmp_path / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"# @package _global_\n{text}")
    places = [CONF, tmp_path]
    names = {
        id(with_parents(group, path.stem, places)[-1]): path.stem
        for place in places
        for group in ("experiment", "recipe")
        for path in (place / group).glob("*.yaml")
    }
    files = files_of(parsed(chosen.split()), with_parents("", "train", [CONF]), places)
    assert [names[id(each)] for each in files.ranked] == ranked
    assert [names[id(each)] for each in files.merged] == merged
