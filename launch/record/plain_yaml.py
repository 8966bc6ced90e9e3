"""YAML of somebody else, read as data: plain values, each written out."""

from typing import Any

import yaml


def plain_yaml(text: str) -> Any:
    """Return what a YAML document of somebody else holds.

    A tag such as !!python/object is refused and makes nothing. So is an alias: a few lines of them
    stand for more than any memory holds.

    Raises:
        yaml.YAMLError: If it is not YAML of plain values, each written out.
    """
    return yaml.load(text, Loader=_PlainLoader)


class _PlainLoader(yaml.SafeLoader):  # type: ignore[misc]
    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "an alias stands for a value", mark)
        return super().compose_node(parent, index)
