"""What hydra and OmegaConf say of a command line, in this project's words.

Error merging override seed=a; Value 'a' of type ... -> seed must be a whole number, got 'a'
Could not override 'learner.lrr'.; To append ...     -> learner.lrr is not a setting; did you ...
In 'experiment/my': ...; Key 'lrr' not in... -> learner.lrr is not a setting in experiment/my
In 'train': Could not find 'reward/r.py'; Avail...   -> reward must name what it takes of r.py ...
"""

from __future__ import annotations

import re
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from conf.keys import CONF, GROUPS, keys_of, nearest

_KINDS = (
    ("could not be converted to Integer", "a whole number"),
    ("could not be converted to Float", "a number"),
    ("is not a valid bool", "true or false"),
    ("' to string: ", "a text"),
    ("is not Optional", "set"),
    ("is not a ListConfig, list or tuple", "a list, such as [A,B]"),
    ("Invalid type assigned", "changed by its settings, one by one"),
    ("Cannot assign ", "a mapping, such as {NAME:VALUE}"),
)
"""What OmegaConf says of a value that does not fit, and what it must be."""
_PASSED_ON = ("learner.deepspeed.", "rollout.engine.vllm.")
"""Where settings of others go, of which none is there before it is given."""
_OF_SETTINGS = ("comparison", "experiment", "recipe")
"""Groups whose members are settings of others, and whose place no code can take."""


def reworded(sentence: str) -> str:
    """Say what is wrong and what was probably meant, in place of hydra's advice.

    Args:
        sentence: What hydra says, its lines joined by "; "; what is not known here stays.
    """
    for reword in (
        _no_number_yet,
        _wrong_type,
        _no_setting,
        _no_setting_of_file,
        _no_member,
        _no_group,
        _elsewhere,
    ):
        if found := reword(sentence):
            return found
    return sentence


def _no_number_yet(sentence: str) -> str:
    found = re.search(r"Value 'auto'.*full_key: scheduler\.(group_size|tickets_per_step)", sentence)
    if not found:
        return ""
    return (
        f"scheduler.{found[1]} must be a whole number, that of the first batch; for one that "
        "then follows prices add sizing@scheduler.sizing=priced, got 'auto'"
    )


def _wrong_type(sentence: str) -> str:
    key = re.search(r"full_key: (\S+)$", sentence)
    wanted = next((must for said, must in _KINDS if said in sentence), "")
    if key is None or not wanted:
        return ""
    place = re.match(r"In '([^']+)': ", sentence)
    override = re.match(r"Error merging override [^=]+=(.*?); ", sentence)
    value = re.search(r"Value '(.*)' (?:of type|is not a valid)", sentence)
    if value is None and override is None:
        return ""
    got = value[1] if value else override[1] if override else ""
    shown = repr(got) if re.search(r"type '?str\b", sentence) else got
    return f"{key[1]} must be {wanted}{f' in {place[1]}' if place else ''}, got {shown}"


def _no_setting(sentence: str) -> str:
    """Hydra says to append a key that it does not know; of a setting there is not, none can be."""
    found = re.search(
        r"Could not override '([\w.]+)'\.(?:; To append .*Key '| No match in the defaults)",
        sentence,
    )
    if not found:
        return ""
    key = found[1]
    if key in GROUPS:
        return f"{key} is a group, of which this configuration takes no member; leave {key} out"
    if "; Key '" not in sentence:
        return ""
    missing = sentence.rpartition("Key '")[2].partition("'")[0]
    if key.startswith(_PASSED_ON) or _is_named_freely(key, missing):
        return f"{key} is not there yet; add it with a plus, +{key}=VALUE"
    if told := _no_setting_of_plug(key):
        return told
    close = _meant(key, sentence)
    reason = sentence.rpartition("Key ")[2].partition(";")[0]
    if close == key:
        name = reason.split("'")[1]
        return f"{key} has no {name!r} yet; add it with a plus, +{key}={{{name}:VALUE}}"
    meant = f"; did you mean {close}?" if close else "; --help lists what there is"
    return f"{key} is not a setting{meant} (Key {reason})"


def _no_setting_of_file(sentence: str) -> str:
    found = re.match(r"In '([^']+)': ConfigKeyError .*; (Key .*); full_key: ([\w.]+)$", sentence)
    if not found:
        return ""
    file, reason, key = found.groups()
    if key in _OF_SETTINGS:
        return f"{key} is chosen among the defaults in {file}: override /{key}: MEMBER"
    close = _meant(key, sentence)
    within = close and key.startswith(f"{close}.")
    meant = f"; did you mean {close}?" if close and not within else "; --help lists what there is"
    return f"{key} is not a setting in {file}{meant} ({reason})"


def _meant(key: str, sentence: str) -> str:
    """Return the setting that comes nearest to a key of which hydra says that it is none."""
    schemas = [OmegaConf.get_type(node.node) for node in _stored()]
    # What is missing at the top is missing in the program's own schema, whatever others have.
    own = [each for each in schemas if each and f"not in '{each.__name__}'" in sentence]
    keys = {each for schema in own or schemas if schema for each in keys_of(schema)}
    return nearest(key, sorted(keys))


def _is_named_freely(key: str, missing: str) -> bool:
    """Say whether what is missing is of a mapping that the user is to fill."""
    above, _, name = key.rpartition(".")
    plug, _, mapping = above.rpartition(".")
    group = plug.rpartition(".")[2]
    folder = CONF / ("task" if group == "held_out" else group)
    members: list[Any] = [OmegaConf.to_container(OmegaConf.load(x)) for x in folder.glob("*.yaml")]
    return name == missing and any(member.get(mapping) == {} for member in members)


def _no_setting_of_plug(key: str) -> str:
    """What to say of a setting that the member in the place of a plug does not have.

    Which member that is only the composed configuration knows, and there is none.
    """
    plug, _, name = key.rpartition(".")
    group = plug.rpartition(".")[2]
    group = "task" if group == "held_out" else group
    if group not in GROUPS or group in _OF_SETTINGS:
        return ""
    having: dict[str, list[str]] = {}
    for path in sorted((CONF / group).glob("*.yaml")):
        if path.stem.endswith("_held_out"):
            continue
        for setting in OmegaConf.load(path):
            having.setdefault(str(setting), []).append(path.stem)
    close = name if name in having else nearest(name, having.keys() - {"_target_", "defaults"})
    what = f"{key} is not a setting of the {group} that is chosen"
    if not close:
        return f"{what}; a class or function of yours gets it with a plus, +{key}=VALUE"
    members = f"{group}={', '.join(having[close])}"
    if close == name:
        return f"{what}, but of {members}"
    return f"{what}; did you mean {plug}.{close}, a setting of {members}?"


def _no_member(sentence: str) -> str:
    found = re.match(r".*Could not find '(\w+)/([^']+)'; Available options in '.*?':; ", sentence)
    if not found:
        return ""
    group, member = found.groups()
    if member.endswith(".py") and group not in _OF_SETTINGS:
        return (
            f"{group} must name what it takes of a file of yours, a function or class of it: "
            f"{member}:NAME, got {member!r}"
        )
    rest = sentence[found.end() :].partition("; Config search path")[0]
    close = nearest(member, rest.split("; "))
    meant = f"did you mean {close}? " if close else ""
    return f"{group} has no member {member!r}; {meant}There are {rest.replace('; ', ', ')}"


def _no_group(sentence: str) -> str:
    found = re.match(r"Override (\S+) .*config group '(\w+)' does not exist", sentence)
    if not found:
        return ""
    close = nearest(found[2], GROUPS)
    meant = f"; did you mean {close}?" if close else "; --help lists the groups"
    return f"{found[2]} is not a group{meant}, got {found[1]!r}"


def _elsewhere(sentence: str) -> str:
    """A group is overridden where it stands; what hydra says to append would change nothing."""
    found = re.match(r"Could not override '(\w+)'\.; Did you mean to override (\S+)\?;", sentence)
    if not found:
        return ""
    return f"a member of {found[1]} is chosen by its place too: {found[2]}=MEMBER"


def _stored() -> list[Any]:
    repo = ConfigStore.instance().repo
    return [node for name, node in repo.items() if name.endswith("_schema.yaml")]
