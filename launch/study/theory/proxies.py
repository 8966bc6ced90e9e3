"""What drawing by wrong proxies costs: Kantorovich's bound, and the worst that is found."""

import math
from dataclasses import dataclass

import numpy as np

from cost.draws.streams import generator_for
from launch.study.theory.bounds import cost_aware, cost_moment
from launch.study.theory.problems import Case


def wrong_proxy_factor(least: float, most: float) -> float:
    """Bound C V of wrong proxies by this multiple of the optimum: (m + M)^2 / (4 m M).

    Drawing by proxies is p ~ r G / sqrt(c), r_i the proxy's error: guessed over true G, times
    sqrt(true over guessed c). Then C V = (sum x r) (sum x / r) with x = G sqrt(c), and
    Kantorovich's inequality bounds it for all r in [m, M]. Only M / m counts. (Ours; the paper has
    a statement on proxies that we could not read.)

    Example: guesses between half and double the truth, wrong_proxy_factor(0.5, 2), cost 1.5625 x.
    """
    if not 0 < least <= most < math.inf:
        raise ValueError(f"least and most must satisfy 0 < least <= most, got {least!r}, {most!r}")
    return (least + most) ** 2 / (4 * least * most)


@dataclass(frozen=True, slots=True)
class ProxyError:
    """C V under wrong proxies, over the optimum."""

    spread: float
    """Largest over smallest error of the proxies."""
    mean: float
    worst: float
    promised: float
    """Kantorovich's bound."""


def wrong_proxies(case: Case, num_trials: int = 500) -> list[ProxyError]:
    """Draw with proxies that are wrong by one of two factors, at random: the hardest kind."""
    rng = generator_for(0, "theory/proxies")
    best = cost_moment(cost_aware(case.norms, case.costs), case.norms, case.costs)
    found: list[ProxyError] = []
    for spread in (2.0, 4.0, 16.0):
        ratios = []
        for share in rng.uniform(0.05, 0.95, num_trials):
            errors = np.where(rng.random(len(case.norms)) < share, spread, 1.0)
            p = cost_aware(case.norms * errors, case.costs)
            ratios.append(cost_moment(p, case.norms, case.costs) / best)
        factor = wrong_proxy_factor(1.0, spread)
        found.append(ProxyError(spread, float(np.mean(ratios)), max(ratios), factor))
    return found
