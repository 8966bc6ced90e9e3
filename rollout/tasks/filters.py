"""Which rows of a data set are used: the setting `task.where`, by column.

{level: 3}    {level: [3, 4]}    {solve_rate: {min: 0.1, max: 0.9}}
"""

import math
from collections.abc import Mapping
from typing import Any

_BOUNDS = {"min", "max"}


def require_where(where: Mapping[str, Any]) -> None:
    """Refuse objects that are no bounds: with other keys than min and max, or without numbers.

    Args:
        where: By column a value, a list of values, or {min: A, max: B}.

    Raises:
        ValueError: Naming the column.
    """
    for name, wish in where.items():
        if isinstance(wish, Mapping) and not (
            wish and set(wish) <= _BOUNDS and all(map(_is_number, wish.values()))
        ):
            raise ValueError(
                f"task.where.{name} must be a value, a list of values, or bounds such as "
                f"{{min: 0.1, max: 0.9}} with one or both of min and max as numbers, got {wish!r}"
            )


def meets(value: Any, wish: Any) -> bool:
    """Whether a row's value is what `task.where` has for its column.

    Args:
        value: A plain value.
        wish: A value, a list of values, or {min: A, max: B}, both included. A number is also met
            by a text that is this number, for CSV has nothing but texts; so are true and false.
    """
    if isinstance(wish, Mapping):
        try:
            number = float(value)
        except (TypeError, ValueError):
            return False
        return bool(wish.get("min", -math.inf) <= number <= wish.get("max", math.inf))
    return any(_same(value, one) for one in (wish if isinstance(wish, list | tuple) else [wish]))


def _same(value: Any, wish: Any) -> bool:
    if isinstance(value, str) and isinstance(wish, bool):
        return value.strip().lower() == str(wish).lower()
    if isinstance(value, str) and _is_number(wish):
        try:
            return bool(float(value) == wish)
        except ValueError:
            return False
    return bool(value == wish)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
