"""Whether a number is a rounding of a formula."""

import re
from fractions import Fraction

from rollout.rewards.math_numbers import number
from rollout.rewards.math_values import has_value, same_value


def rounds_to(exact: str, rounded: str) -> bool:
    """Whether a cleaned number is another formula's value to the digits that it has.

    The last digit may be rounded up or down. Also true of what is no plain number.
    """
    written = number(rounded) if re.fullmatch(r"[-+]?[\d., ]+", rounded) else None
    if written is None or not has_value(exact):
        return True
    unit = Fraction(1, 10 ** len(rounded.partition(".")[2].strip()))
    while unit >= 1 and written.value and written.value % (unit * 10) == 0:
        unit *= 10
    scaled = rf"\frac{{({exact})\cdot {unit.denominator}}}{{{unit.numerator}}}"
    thousandths = int(written.value / unit * 1000)
    return any(same_value(scaled, _in_thousandths(thousandths + n), 0) for n in (-499, 499))


def _in_thousandths(count: int) -> str:
    return f"{'-' if count < 0 else ''}{abs(count) // 1000}.{abs(count) % 1000:03}"
