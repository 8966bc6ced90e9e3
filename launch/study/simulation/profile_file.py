"""A profile fitted to a real run and written as a file that hydra builds again."""

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hydra.utils import instantiate
from omegaconf import OmegaConf

from conf.targets import require_own_settings
from launch.cli.refusals import UserError
from launch.record.run_folder import CONFIG, refused, write_new
from launch.run.inputs import load_prompts
from launch.run.model_folder import load_tokenizer, resolve_model
from launch.study.simulation.fit import fit
from launch.study.simulation.measured import MeasuredRun
from launch.study.simulation.profile import Profile


def plain(value: Any) -> Any:
    """Turn a plug into what hydra builds it from again: nested dicts with `_target_`."""
    if is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        found = {f.name: plain(getattr(value, f.name)) for f in fields(value)}
        return {"_target_": f"{kind.__module__}.{kind.__qualname__}"} | found
    return value


def fit_profile(folder: str, out: str) -> Profile:
    """Fit a profile to a real run and write it.

    Raises:
        UserError: If the run does not serve, or the file exists or cannot be written.
    """
    path = Path(out)
    if path.exists() or path.suffix != ".yaml":
        raise UserError(f"out must be a new file ending in .yaml, got {out!r}")
    run = MeasuredRun.read(folder)
    config = OmegaConf.create(run.config)
    variables = config.model.get("chat_template_kwargs")
    tokenizer = load_tokenizer(resolve_model(config.model.path), variables)
    room = config.model.max_model_len - config.rollout.max_tokens
    try:
        require_own_settings(run.config.get("task"), "task", "rollout.tasks")
    except ValueError as error:
        raise refused(run.folder, f"{CONFIG} has a task that is not built: {error}") from error
    # Its reward has accepted all answers.
    prompts = load_prompts(instantiate(config.task), tokenizer, None, room)
    profile = fit(run, np.array([len(prompt.token_ids) for prompt in prompts]))
    text = yaml.safe_dump(plain(profile), sort_keys=False, default_flow_style=None, width=98)
    write_new(path, text.encode())
    return profile
