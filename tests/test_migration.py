"""Every key and member of ours that the migration page names is there."""

import re

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from conf.programs import register
from tests.places import CONF, PROJECT

register()
TEXT = (PROJECT / "docs/migration.md").read_text(encoding="utf-8")
ROWS = [line.split(" | ") for line in TEXT.splitlines() if line.startswith("| `")]
OURS = [name for row in ROWS for cell in row[1:] for name in re.findall(r"`([^`]+)`", cell)]
KEYS = {
    name
    for name in [*OURS, *re.findall(r"`([a-z_]+\.[a-z_.]+)`", TEXT.split("## TRL")[0])]
    if re.fullmatch(r"(model|task|held_out|rollout|scheduler|objective|learner|loop|checkpoint|"
                    r"evaluation|resources)(\.[a-z_]+)+|tracker|resume", name)
}  # fmt: skip
MEMBERS = {
    (group.partition("@")[0], member)
    for text in re.findall(r"`([^`]+)`", TEXT)
    for group, member in re.findall(r"([a-z_]+(?:@[a-z_.]+)?)=([a-z_]+)(?= |$)", text)
    if (CONF / group.partition("@")[0]).is_dir()
}


@pytest.fixture(scope="module")
def composed():
    chosen = ["experiment=quickstart", "task=dataset", "task@held_out=dataset_held_out"]
    with initialize_config_module("conf", version_base="1.3"):
        return OmegaConf.to_container(compose("train", chosen), resolve=False)


def test_every_key_of_ours_is_there(composed):
    absent = []
    for key in sorted(KEYS):
        node = composed
        for part in key.split("."):
            if not isinstance(node, dict) or part not in node:
                absent.append(key)
                break
            node = node[part]
    assert absent == []
    assert len(KEYS) > 50


def test_every_member_of_ours_is_there():
    absent = [one for one in MEMBERS if not (CONF / one[0] / f"{one[1]}.yaml").is_file()]
    assert absent == []
    assert ("recipe", "dapo") in MEMBERS and ("allocator", "dynamic_sampling") in MEMBERS


def test_every_row_says_what_is_here_or_that_nothing_is():
    assert all(len(row) == 3 and (row[1].startswith("`") or row[1] == "-") for row in ROWS)
