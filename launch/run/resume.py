"""Going on with a run folder: which checkpoint, and whether the run is still the same.

resume=RUN -> RUN/config.yaml with the overrides of the command line -> newest whole checkpoint
settings now <-> settings then: what may change is noted, what may not is refused
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from conf.keys import defaults_of, flat
from conf.schema import RunConfig
from cost.state_file import load_state
from launch.cli.refusals import NothingToDoError, UserError
from launch.record.checkpoint import RUN, Checkpoint, newest_checkpoint
from launch.record.notices import why
from launch.record.run_folder import PICTURE, read_summary
from launch.run.budget import Budget
from launch.run.parts import plan_of
from rollout.types import Prompt

AUTO = "auto"
_PLACE_AND_LENGTH = (
    r"name|run_dir|resume"
    r"|loop\.(num_steps|max_(generated_tokens|trained_tokens|compute_flops|seconds))"
)
MAY_CHANGE = re.compile(
    rf"{_PLACE_AND_LENGTH}"
    r"|loop\.(save_every|save_final|samples_\w+|push_\w+)"
    r"|(evaluation|held_out|resources|tracker|checkpoint|parity)(\..*)?"
    r"|rollout\.(engine\..*|max_retries|max_queued_responses)"
    r"|.*(\.path|_deadline_seconds|_timeout_seconds|silence_seconds|num_threads)"
)
"""Settings that a run may go on with other values of: how long, what it is measured by, where."""
ABSENT = "(not set)"
LEAVES_RESULTS = re.compile(rf"{_PLACE_AND_LENGTH}|resources\..*")
"""Of these, those with which a run at its end would come to the results that it has."""


def about(settings: Mapping[str, Any], prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Return what a checkpoint says of the run that it is of.

    Args:
        settings: The configuration as plain values.
        prompts: The task's.
    """
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(len(prompt.token_ids).to_bytes(8, "little"))
        digest.update(prompt.token_ids.astype("<i8").tobytes())
        digest.update(prompt.answer.encode())
    return {"settings": flat(settings), "prompts": digest.hexdigest()}


def check_stays(composed: DictConfig) -> None:
    """Refuse to look for a run to go on with in a folder whose name has the time in it.

    Raises:
        UserError: If `resume` is "auto" there.
    """
    written: Any = OmegaConf.to_container(composed, resolve=False)
    if composed.resume == AUTO and "${now:" in str(written["run_dir"]):
        raise UserError(
            f"resume=auto needs a run_dir that stays the same; name one, got {written['run_dir']!r}"
        )


def find_checkpoint(resume: str, run_dir: Path) -> Checkpoint | None:
    """Return the checkpoint to go on from.

    Args:
        resume: A run folder, or `AUTO` for `run_dir` if it holds a run.
        run_dir: The run folder.

    Returns:
        None with `AUTO` where there is none yet: the run begins from its start.

    Raises:
        UserError: If the folder has no whole checkpoint, or cannot be read.
    """
    try:
        found, faults = newest_checkpoint(run_dir)
    except OSError as error:
        raise UserError(
            f"resume needs to read the checkpoints in {run_dir} ({why(error)}); try again when it "
            "can be read, or begin anew in another run_dir"
        ) from error
    if found is None and faults:
        raise UserError(
            f"{run_dir} must have a whole checkpoint to go on from; {faults[0]}; begin anew in "
            "another run_dir"
        )
    for fault in faults:
        print(f"a checkpoint is passed over: {fault}")
    if found is None and resume != AUTO:
        raise UserError(
            f"resume must be a run folder with a checkpoint, got {str(run_dir)!r}, which has none; "
            "leave resume out to begin anew in another run_dir"
        )
    return found


def changes(saved: Checkpoint, now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ from a checkpoint's, by key the old and the new value.

    One that there was not when the run began had, and has, its default.

    Args:
        saved: The checkpoint.
        now: From `about`.

    Raises:
        UserError: If one of them may not change, or the task's prompts have.
    """
    new = now["settings"]
    old = {key: value for key, value in defaults_of(RunConfig).items() if key in new}
    old |= saved.about["settings"]
    changed = {
        key: (old.get(key, ABSENT), new.get(key, ABSENT))
        for key in sorted({*old, *new})
        if not _same(old.get(key, ABSENT), new.get(key, ABSENT))
    }
    for key, (before, after) in changed.items():
        if not MAY_CHANGE.fullmatch(key) or _names_another(key, before, after):
            raise UserError(
                f"{key} must stay {before!r} in a run that goes on, got {after!r}; begin a new "
                f"run to change it, or leave it out"
            )
    if saved.about["prompts"] != now["prompts"]:
        raise UserError(
            "task must give the same prompts and answers as when the run began, in the same order; "
            f"its files are others now than at the checkpoint {saved.path}"
        )
    return changed


def _same(old: Any, new: Any) -> bool:
    # NaN is no other than itself here.
    return bool(old == new or (old != old and new != new))


def _names_another(key: str, before: Any, after: Any) -> bool:
    """Whether another function or class of a file decides now, and not one in another place."""
    # What is measured, and what is told, may change.
    if key.startswith(("held_out.", "evaluation.", "tracker.")):
        return False
    old, new = (str(each).rpartition(":") for each in (before, after))
    return bool(old[1] and new[1]) and old[2] != new[2]


def check_goes_on(
    config: RunConfig, saved: Checkpoint, changed: Mapping[str, tuple[Any, Any]]
) -> None:
    """Find out whether there is anything to do for a run that is to go on.

    Args:
        config: The run as asked for now.
        saved: Its newest checkpoint.
        changed: From `changes`.

    Raises:
        NothingToDoError: If it is at its end, and would only make the results that it has.
    """
    run_dir = Path(config.run_dir)
    if config.loop.push_to_hub or not all(map(LEAVES_RESULTS.fullmatch, changed)):
        return
    try:
        summary = read_summary(run_dir, ("completed", "num_steps"))
        position = load_state(saved.path / RUN)["position"]
    except (UserError, OSError, ValueError, KeyError):
        # Whoever goes on from it has the sentence.
        return
    kept = run_dir / "policy"
    written = (run_dir / PICTURE).exists() and (kept.exists() or not config.loop.save_final)
    if not (summary["completed"] and summary["num_steps"] == saved.step and written):
        return
    budget = Budget(plan_of(config))
    budget.load_state_dict(position["spent"])
    budget.reached = position.get("reached", budget.reached)
    if saved.step >= config.loop.num_steps or budget.used_up(saved.step):
        raise NothingToDoError(
            f"the run in {run_dir} is at its end, step {saved.step}; set loop.num_steps, or what "
            "else ended it, for a longer one"
        )
