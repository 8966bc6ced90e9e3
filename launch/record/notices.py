"""What a run says while it goes on whatever happens: single sentences on stderr."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from launch.cli.refusals import RunError, UserError, reason_of


def tell(sentence: str) -> None:
    """Print a sentence to stderr; one that cannot be printed is lost."""
    with suppress(OSError, ValueError):
        print(" ".join(sentence.split()), file=sys.stderr, flush=True)


def why(error: BaseException) -> str:
    """Return what an error says in one line, with the file that it is about.

    Of one that a remote call raised, as Ray hands it on, it is what was raised there: Ray's own
    text is a traceback in colours.
    """
    cause = getattr(error, "cause", None)
    error = cause if isinstance(cause, BaseException) else error
    if isinstance(error, UserError | RunError):
        return str(error)
    about = error.filename if isinstance(error, OSError) else None
    return f"{reason_of(error)}: {about}" if isinstance(about, str) else reason_of(error)


class Unwritten:
    """What could not be written at a run's end, where one failure must not hide the rest.

    Example:
        with unwritten.noted("run.png"): ...
        unwritten.check(f"the policy is in {path}")
    """

    def __init__(self) -> None:
        self.sentences: list[str] = []

    @contextmanager
    def noted(self, name: str) -> Iterator[None]:
        """Note it, and go on, if what is done inside fails; `name` says what is written."""
        try:
            yield
        except Exception as error:
            self.sentences.append(f"{name} could not be written ({why(error)})")

    def check(self, remark: str) -> None:
        """Say what was noted, if anything.

        Args:
            remark: What is worth knowing beside it.

        Raises:
            RunError: With every sentence and the remark.
        """
        if self.sentences:
            raise RunError("; ".join([*self.sentences, remark]))
