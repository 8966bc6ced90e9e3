"""Measuring takes of a training what it needs: the folder of a run, or what an experiment sets.

launch.evaluate RUN ...   -> --config-path RUN --config-name config model.path=RUN/policy ...
composed for a training   -> the settings that an evaluation has, as they come out there
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from conf.schema import EvaluateConfig
from conf.secrets import recorded
from launch.cli.command_line import bare_words, parsed, quoted
from launch.cli.recorded import of_record
from launch.cli.refusals import UserError

_ELSEWHERE = ("--config-path", "--config-name", "-cp", "-cn")
_TEMPERATURE = "rollout.temperature"
_OF_TRAININGS = re.compile(
    r"rollout\.(temperature|permute_rewards|update_mode|(overlong|branching)(\..*)?)"
    r"|evaluation\.(before|after|every|target|background)"
)
"""Settings that both have, and that say how and when a training samples or is measured."""
_THROUGH = ("task", "experiment", "hydra")
"""Settings that others of an evaluation come from: its held-out questions are those of its task."""


def with_measured(arguments: Sequence[str]) -> list[str]:
    """Let the bare word RUN take the configuration and the policy of that run.

    What else the command line says changes it. The results go into a folder of their own.

    Example: with_measured(["runs/a", "seed=1"]) begins with "--config-path", "/here/runs/a",
    "--config-name", "config", "model.path='/here/runs/a/policy'", and ends with "seed=1".

    Args:
        arguments: The command line without the program's name.

    Raises:
        UserError: If RUN is no run folder or has no policy, or a member of a group or another
            configuration is named beside.
    """
    places = list(bare_words(arguments))
    if not places:
        return list(arguments)
    word = arguments[places[0]]
    run = Path(word).resolve()
    if len(places) > 1 or not (run / "config.yaml").is_file():
        words = " ".join(arguments[place] for place in places)
        raise UserError(
            "what is measured must be one run folder, which has a config.yaml, or a model folder "
            f"as model.path=DIR, got {words!r}"
        )
    others = [each for place, each in enumerate(arguments) if place != places[0]]
    for argument in others:
        if argument.startswith(_ELSEWHERE):
            raise UserError(
                f"{word} says which configuration is meant; leave {argument.split('=')[0]} out"
            )
    policy = run / "policy"
    if not policy.is_dir() and not any(each.startswith("model.path=") for each in others):
        raise UserError(
            f"{word} must have a policy to measure, which a run writes when it ends; wait for it, "
            "or name a model folder as model.path=DIR"
        )
    # In the configuration these are the training's.
    own_folder = f"run_dir=runs/evaluate-{time.strftime('%Y%m%d-%H%M%S')}"
    own = [f"model.path={quoted(str(policy))}", "name=evaluate", own_folder]
    own += ["++evaluation.write_responses=true"]
    return [*of_record(run, others, f"launch.evaluate {word}"), *own, *others]


def is_measured_by(key: str) -> bool:
    """Whether a setting or group is of an evaluation, and not of a training alone."""
    names = [each.name for each in fields(EvaluateConfig)]
    return key.lstrip("/").partition(".")[0].partition("/")[0] in (*names, *_THROUGH)


def is_of_training(key: str, config: Any) -> bool:
    """Whether a setting is of a training alone, and would change nothing that is measured.

    Args:
        key: The setting.
        config: Of the evaluation, whose temperature may be the training's.
    """
    evaluation = config.get("evaluation") if key == _TEMPERATURE else None
    alike = evaluation is not None and OmegaConf.is_interpolation(evaluation, "temperature")
    return not is_measured_by(key) or (_OF_TRAININGS.fullmatch(key) is not None and not alike)


def evaluation_of(composed: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Return the configuration of an evaluation, out of one that has a training's settings as well.

    Args:
        composed: What the program or a run folder has, with all overrides.
        overrides: Those of the command line.

    Raises:
        UserError: If an override is of the training alone.
    """
    for override in parsed(overrides):
        key = override.package or override.key_or_group
        if is_of_training(key, composed):
            instead = "; set evaluation.temperature" if key == _TEMPERATURE else ""
            raise UserError(
                f"{key} must be left out: it is of a training, and would change nothing that "
                f"an evaluation measures{instead}, got {override.input_line!r}"
            )
    # Resolved, as questions may come from a task that the evaluation does not have.
    settings: dict[str, Any] = recorded(composed)
    kept = {each.name: settings[each.name] for each in fields(EvaluateConfig)}
    found = OmegaConf.merge(OmegaConf.structured(EvaluateConfig), kept)
    assert isinstance(found, DictConfig)
    OmegaConf.set_struct(found, True)
    return found
