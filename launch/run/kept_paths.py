"""Paths as a run folder keeps them: to be run again from anywhere, and by another try of a job.

in the project's folder -> relative to it, where they are looked for; elsewhere -> absolute
"""

import os
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

from conf.own_code import BUILD, FILE, MEMBERS, files_within, plugs
from rollout.own_code import PROJECT, absolute
from rollout.tasks.rows import files_of, located

_DATA = "rollout.tasks.dataset.DatasetTask"


def kept_path(path: str) -> str:
    """Return an absolute path as it is written down: a job's own folder is gone after it."""
    place = Path(path)
    return str(place.relative_to(PROJECT)) if place.is_relative_to(PROJECT) else path


def keep_paths(composed: DictConfig, model: str) -> None:
    """Write the paths of the model, data and the user's code so that they hold from anywhere.

    Args:
        composed: As composed; it is changed.
        model: The model's folder, absolute.
    """
    composed.model.path = kept_path(model)
    tools = OmegaConf.select(composed, "environment.tools", throw_on_missing=False)
    listed = enumerate(tools) if isinstance(tools, ListConfig) else ()
    offered = [(f"environment.tools.{k}", tool) for k, tool in listed if OmegaConf.is_dict(tool)]
    for key, node in [*plugs(composed, ""), *offered]:
        for within, path in list(files_within(node, key)):
            OmegaConf.update(composed, f"{within}._target_", _kept(path))
        target = str(node.get("_target_"))
        if FILE.fullmatch(target):
            OmegaConf.update(composed, f"{key}._target_", _kept(target))
        elif target in (BUILD, *MEMBERS.values()) and not OmegaConf.is_interpolation(node, "path"):
            OmegaConf.update(composed, f"{key}.path", _kept(str(node.path)))
    for data in _data(composed):
        if files_of(place := located(data.path)):
            data.path = kept_path(os.path.abspath(place))


def _data(node: DictConfig) -> Iterator[DictConfig]:
    """Data sets with a path of their own, those within mixtures and evaluation sets too."""
    if node.get("_target_") == _DATA:
        if not OmegaConf.is_interpolation(node, "path") and not OmegaConf.is_missing(node, "path"):
            yield node
        return
    for name in node:
        child = node._get_node(name)
        if isinstance(child, DictConfig) and not (child._is_none() or child._is_interpolation()):
            yield from _data(child)


def _kept(path: str) -> str:
    place, _, name = absolute(path).rpartition(":")
    return f"{kept_path(place)}:{name}"
