"""The reference names every key and every member, each with its meaning."""

import pytest
from omegaconf import DictConfig, OmegaConf

from conf.keys import meanings
from conf.loop import LoopConfig
from conf.programs import register
from conf.reference import Key, Member, groups, keys_of, members_of, programs
from conf.schema import RunConfig
from tests.examples import example
from tests.places import CONF

register()
MEMBERS = [member for group in groups() for member in members_of(group)]


def leaves(node: DictConfig, prefix: str = "") -> set[str]:
    """Every key of a composed configuration, those of plugs left out."""
    found = set()
    for key in node:
        inner = OmegaConf.select(node, str(key), throw_on_missing=False)
        if isinstance(inner, DictConfig) and inner:
            found |= leaves(inner, f"{prefix}{key}.")
        else:
            found.add(f"{prefix}{key}")
    return found


def test_every_program_has_its_schema():
    files = {path.stem for path in CONF.glob("*.yaml")} - {"program", "grouped_program"}
    assert set(programs()) == files


@pytest.mark.parametrize("program", sorted(programs()))
def test_every_key_is_there_once_and_has_a_meaning(program):
    schema = programs()[program]
    keys = list(keys_of(schema))
    names = [key.name for key in keys]
    assert len(set(names)) == len(names)
    assert [key.name for key in keys if not key.meaning] == []
    # Whatever the schema makes by itself has its key; mappings of plugs have theirs elsewhere.
    missing = leaves(OmegaConf.structured(schema)) - set(names)
    # A section without a default is one value here.
    assert {each for each in missing if not any(n.startswith(f"{each}.") for n in names)} == set()


def test_a_key_says_what_its_field_says():
    (key,) = [key for key in keys_of(RunConfig) if key.name == "loop.max_staleness"]
    shown = example(Key)
    assert (key.name, key.kind, key.default) == (shown.name, shown.kind, shown.default)
    assert key.meaning == meanings(LoopConfig)["max_staleness"]
    assert key.meaning.startswith("Versions that a batch may be behind when it is trained on")
    nested = {key.name for key in keys_of(RunConfig)}
    assert {"learner.lora.rank", "rollout.engine.kv_cache_gib"} <= nested
    assert "evaluation.sets.NAME.task" in nested


def test_every_file_of_a_group_is_a_member():
    files = {
        (path.parent.name, path.stem)
        for group in groups()
        for path in (CONF / group).glob("*.yaml")
    }
    seen = {(member.group, member.name.split(".")[0]) for member in MEMBERS}
    # A task's held-out half takes all but its split from the other half.
    assert {each for each in files - seen if not each[1].endswith("_held_out")} == set()
    assert (example(Member).group, example(Member).name) in seen


def test_every_member_and_setting_has_a_meaning():
    assert [f"{each.group}/{each.name}" for each in MEMBERS if not each.meaning] == []
    unsaid = [
        f"{each.group}/{each.name}.{key.name}"
        for each in MEMBERS
        for key in each.settings
        if not key.meaning and each.group != "profile"
    ]
    assert unsaid == []
