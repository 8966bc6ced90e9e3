"""Text of others as it may be shown: what would steer a terminal or turn a line round is spelt out.

Models, data sets, rewards and run folders of others can hold escape sequences, which a terminal
obeys, and marks of writing direction, which let a line read otherwise than it is.
"""

from __future__ import annotations

import logging
import re

_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)
"""Control characters but tab and line feed, marks of direction and of lines, halves of letters."""

_COLOUR = re.compile("\x1b\\[[0-9;]*m")


def from_ray(text: str) -> str:
    """Return an error as Ray words it, without the colours that it means for a terminal.

    Ray leaves frames of its own out of a traceback, but not the marks below them: these go too.
    """
    kept: list[str] = []
    for line in _COLOUR.sub("", text).split("\n"):
        is_mark = line.strip() and not line.strip(" ~^")
        if not is_mark or (len(kept) > 1 and kept[-2].lstrip().startswith("File ")):
            kept.append(line)
    return "\n".join(kept)


def visible(text: str) -> str:
    """Return a text with every such character spelt as in Python: escape is x1b after a backslash.

    Letters of all scripts, tabs and line feeds stay.
    """
    return _STEERING.sub(lambda found: ascii(found[0])[1:-1], text)


class VisibleFilter(logging.Filter):
    """Does so for what is logged."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Replace the message by its visible form, and let it pass."""
        record.msg, record.args = visible(record.getMessage()), ()
        return True
