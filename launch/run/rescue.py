"""The policy after a failure: saved as far as it was learned, and the way to it in the message."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from launch.cli.refusals import RunError, UserError
from launch.cli.visible import visible
from launch.record.notices import tell, why
from learner.team import DivergedError

SAVE_SECONDS = 300.0
"""Longest wait for it: learners that hang must not keep the failure from being told."""


async def save_somewhere(save: Callable[[Path], Awaitable[object]], path: Path) -> Path:
    """Save the policy, in a new folder for temporary files if its own place cannot take it.

    Learners may be on another node: it is there that their first rank finds or makes the folder.

    Args:
        save: Saves into the folder that it is given.
        path: Where the policy belongs, in a run folder.

    Returns:
        Where it lies; that it is elsewhere is told on stderr.

    Raises:
        OSError: The first failure, if there is no room elsewhere either.
    """
    try:
        await save(path)
        return path
    except TimeoutError:
        # Learners that hang are not helped by another folder.
        raise
    except OSError as error:
        try:
            # Nobody else can have put anything under a name that is new.
            elsewhere = Path(tempfile.mkdtemp(prefix=f"{path.parent.name}-")) / path.name
        except OSError:
            raise error from None
        try:
            await save(elsewhere)
        except Exception:
            raise error from None
        finally:
            # Where it stayed empty, here.
            with suppress(OSError):
                elsewhere.parent.rmdir()
        tell(
            f"the policy could not be saved in {path} ({why(error)}); it is in {elsewhere} on the "
            "node of learner 0"
        )
        return elsewhere


async def save_by_the_way(save: Callable[[str], Awaitable[Path]], name: str) -> None:
    """Save the policy under a name while a run goes on; where there is no room, that is told."""
    try:
        await save(name)
    except OSError as error:
        # The learners still hold it, and the next one may find room.
        tell(f"{name} could not be saved ({why(error)}); the run goes on")


async def rescue(save: Callable[[str], Awaitable[Path]], path: Path) -> str:
    """Save the policy after a failure, and return a clause that says where it is.

    A save that fails, too, is told in the clause and hides nothing.

    Args:
        save: Saves under the name that it is given, and returns where the policy then lies.
        path: Where it belongs.
    """
    try:
        async with asyncio.timeout(SAVE_SECONDS):
            path = await save(path.name)
    except Exception as error:
        late = isinstance(error, TimeoutError) and not str(error)
        reason = f"it took longer than {SAVE_SECONDS:g} s" if late else why(error)
        return f"the policy could not be saved in {path}: {reason}"
    return f"the policy as learned until then is in {path}"


def say_where(error: BaseException, where: str) -> BaseException:
    """Return what to raise in the place of an error, so that its message has a clause more.

    A loss that stays non-finite is for the user to change. Other errors stay what they are: those
    with a sentence for the user get a longer one, others a note, which tracebacks and
    `launch.run.cluster.cluster` show.

    Args:
        error: What ended the run.
        where: From `rescue`.
    """
    if isinstance(error, DivergedError):
        last_good = where.replace(
            "the policy as learned until then is", "the last good weights are"
        )
        return UserError(f"{error}; {last_good}")
    if isinstance(error, UserError | RunError):
        error.args = (f"{error}; {where}",)
    elif isinstance(error, asyncio.CancelledError):
        # What asyncio makes of it, an interrupt by keyboard mostly, has no notes.
        print(visible(where), file=sys.stderr)
    else:
        error.add_note(where)
    return error
