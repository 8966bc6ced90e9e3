"""Paths as a run folder keeps them: to be run again from anywhere, and by another try of a job.

in the project's folder -> relative to it, where they are looked for; elsewhere -> absolute
"""

from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

from conf.own_code import BUILD, FILE, MEMBERS, plugs
from rollout.own_code import PROJECT, absolute


def kept_path(path: str) -> str:
    """Return an absolute path as it is written down: a job's own folder is gone after it."""
    place = Path(path)
    return str(place.relative_to(PROJECT)) if place.is_relative_to(PROJECT) else path


def keep_paths(composed: DictConfig, model: str) -> None:
    """Write the paths of the model and of the user's code so that they hold from anywhere.

    Args:
        composed: As composed; it is changed.
        model: The model's folder, absolute.
    """
    composed.model.path = kept_path(model)
    tools = OmegaConf.select(composed, "environment.tools", throw_on_missing=False)
    listed = enumerate(tools) if isinstance(tools, ListConfig) else ()
    offered = [(f"environment.tools.{k}", tool) for k, tool in listed if OmegaConf.is_dict(tool)]
    for key, node in [*plugs(composed, ""), *offered]:
        target = str(node.get("_target_"))
        if FILE.fullmatch(target):
            OmegaConf.update(composed, f"{key}._target_", _kept(target))
        elif target in (BUILD, *MEMBERS.values()) and not OmegaConf.is_interpolation(node, "path"):
            OmegaConf.update(composed, f"{key}.path", _kept(str(node.path)))


def _kept(path: str) -> str:
    place, _, name = absolute(path).rpartition(":")
    return f"{kept_path(place)}:{name}"
