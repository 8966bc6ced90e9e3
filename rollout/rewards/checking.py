"""A reward's check of an answer, against the clock."""

import signal
import threading
from collections.abc import Callable
from types import FrameType

GENEROUS = 10
"""How many times the limit of one scoring a check may take: it may run a reference's tests."""
_AGAIN_SECONDS = 1.0
"""After which code that went on is interrupted once more."""


class _Late(BaseException):
    """Not an Exception, which code of the user might take for one of its own."""


def limited(check: Callable[[str], None] | None, seconds: float) -> Callable[[str], None] | None:
    """Return a check that is given up after some time.

    It runs in this process, once per answer, before anything starts. What computes in C for long
    is interrupted when it returns; outside the main thread there is no limit.

    Args:
        check: See `rollout.rewards.types.check_of`; None stays None.
        seconds: Of one answer, positive.
    """
    if check is None or threading.current_thread() is not threading.main_thread():
        return check

    def end(number: int, frame: FrameType | None) -> None:
        raise _Late

    def checked(answer: str) -> None:
        before = signal.signal(signal.SIGALRM, end)
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_SECONDS)
            try:
                check(answer)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except _Late:
            raise ValueError(
                f"the reward's check took longer than {seconds:g} seconds, {GENEROUS} times "
                f"rollout.reward_timeout_seconds, got {answer[:80]!r}"
            ) from None
        finally:
            signal.signal(signal.SIGALRM, before)

    return checked
