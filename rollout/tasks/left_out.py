"""What a task leaves out of its prompts, counted by reason, with the first of each."""

import logging
from collections import Counter

_log = logging.getLogger(__name__)


class LeftOut:
    """Counts rows and prompts that are not used: nothing is dropped in silence."""

    def __init__(self) -> None:
        """Begin with nothing left out."""
        self.counts: Counter[str] = Counter()
        """By reason."""
        self._first: dict[str, str] = {}

    def add(self, reason: str, place: str) -> None:
        """Count one more, and keep the place of the first: "data.jsonl:12", or what is said of it.

        Args:
            reason: What stands after the number, such as "over 512 tokens".
            place: Where it stands.
        """
        self.counts[reason] += 1
        self._first.setdefault(reason, place)

    def add_several(self, reason: str, number: int) -> None:
        """Count several that have no place of interest."""
        if number:
            self.counts[reason] += number

    def text(self) -> str:
        """Say how many of each kind, such as "2 repeated (first: data.jsonl:7)"; "none"."""
        parts = [
            f"{number:,} {reason}" + (f" (first: {first})" if first else "")
            for reason, number in self.counts.items()
            for first in [self._first.get(reason, "")]
        ]
        return ", ".join(parts) or "none"

    def tell(self, name: str, num_prompts: int) -> None:
        """Log what is left and what is not; a warning if anything was left out."""
        if self.counts:
            text = "%s: %d prompts; left out: %s"
            _log.warning(text, name, num_prompts, self.text())
