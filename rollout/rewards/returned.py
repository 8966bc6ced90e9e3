"""What rewards of users return, as a `Score`.

    1.0, 1, True, numpy.float32(1), torch.tensor(1.0)    -> Score(1.0)
    {"score": 1.0, "format": 0.5, "pred": "5"}           -> Score(1.0, {"format": 0.5}, "5")
    Score(...)                                           -> the same, of plain numbers

Everything else is refused: a guess at what was meant would train a policy on it.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from rollout.rewards.types import Score

KEYS = ("reward", "score")
"""Where a mapping may hold the reward; the first that is there counts."""
_EXTRACTED = ("extracted", "pred")
_WANTED = "a reward must return a number, a Score, or a dict with `reward` or `score`"


class NoScoreError(ValueError):
    """A reward returned what is no score.

    Args:
        message: What was returned, and what should have been.
        place: File and first line of the reward as "FILE:LINE"; "" if not known.
    """

    def __init__(self, message: str, place: str) -> None:
        super().__init__(message)
        self.place = place


def as_score(returned: object, scorer: Callable[..., object] | None = None) -> Score:
    """Turn what a reward returned into a score of plain numbers.

    Of a mapping, further numbers are components, and so are those of a mapping `components`; a
    text under `extracted` or `pred` is the answer found. Other entries are for the caller's eyes
    and left out.

    Args:
        returned: What the reward returned for one response.
        scorer: What returned it, to be named where it cannot be used.

    Raises:
        NoScoreError: If it is none of these, or a number is not finite; it says what was returned.
    """
    try:
        return _as_score(returned)
    except ValueError as error:
        # Whatever called this says nothing about the reward.
        raise NoScoreError(str(error), first_line(scorer)) from None


def first_line(scorer: Callable[..., object] | None) -> str:
    """Return where a function or method begins, as "FILE:LINE"; "" if that is not known."""
    function: Any = getattr(scorer, "__func__", scorer)
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else ""


def _as_score(returned: object) -> Score:
    if isinstance(returned, Score):
        return _score(returned.reward, returned.components, returned.extracted)
    if not isinstance(returned, Mapping):
        return Score(_number(returned, _WANTED))
    key = next((key for key in KEYS if key in returned), None)
    if key is None:
        raise ValueError(f"{_WANTED}, got a dict with the keys {sorted(map(str, returned))}")
    own = returned.get("components")
    parts = dict(own) if isinstance(own, Mapping) else {}
    parts |= {k: v for k, v in returned.items() if k != key and _is_number(v)}
    extracted = next((returned[k] for k in _EXTRACTED if isinstance(returned.get(k), str)), "")
    return _score(returned[key], parts, extracted)


def _score(reward: object, components: Mapping[Any, object], extracted: object) -> Score:
    parts = {
        str(name): _number(part, f"a score's component {name} must be a number")
        for name, part in components.items()
    }
    return Score(_number(reward, _WANTED), parts, "" if extracted is None else str(extracted))


def _is_number(value: object) -> bool:
    if isinstance(value, str | bytes) or not hasattr(value, "__float__"):
        return False
    # Arrays and tensors of one element turn into numbers too, and are slips for all that.
    if getattr(value, "shape", ()) != ():
        return False
    kind = getattr(getattr(value, "dtype", None), "kind", "f")
    return kind in "biuf"


def _number(value: Any, wanted: str) -> float:
    if not _is_number(value):
        raise ValueError(f"{wanted}, got {_named(value)}")
    try:
        # Of a tensor that carries a gradient, `float` would warn.
        number = float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{wanted}, got {_named(value)} ({error})") from error
    if not math.isfinite(number):
        raise ValueError(f"{wanted} that is finite, got {number!r}")
    return number


def _named(value: object) -> str:
    if value is None:
        return "None; is there a way through it without a return?"
    shape = getattr(value, "shape", ())
    if shape != ():
        return f"{type(value).__name__} of shape {tuple(shape)}; take one element of it"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 80 else text[:77] + '...'}"
