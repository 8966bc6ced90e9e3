"""The whole study: every case measured, and what wrong proxies and left-out components do."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from launch.study.theory.experiments import Comparison, Costs, compare
from launch.study.theory.problems import RADIUS, SHARE_OF_GAP, Case
from launch.study.theory.proxies import ProxyError, wrong_proxies
from launch.study.theory.subset import Dropping, dropping


@dataclass(frozen=True, slots=True)
class Findings:
    """What the study found."""

    cases: Sequence[Case]
    """At least one; wrong proxies and dropping are tried on the first."""
    seeds: int
    comparisons: Sequence[Comparison]
    costs: Sequence[Costs]
    proxies: Sequence[ProxyError]
    dropped: Sequence[Dropping]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return what `theory.json` holds."""
        return {
            "seeds": self.seeds,
            "radius": RADIUS,
            "epsilon_share_of_gap": SHARE_OF_GAP,
            "seconds": round(self.seconds, 1),
            "comparisons": [asdict(each) for each in self.comparisons],
            "costs": [asdict(each) for each in self.costs],
            "wrong_proxies": [asdict(each) for each in self.proxies],
            "dropping": [asdict(each) for each in self.dropped],
        }


def investigate(cases: Sequence[Case], seeds: int, say: Callable[[int, str], None]) -> Findings:
    """Measure all cases.

    Args:
        cases: At least one.
        seeds: Runs of every contestant, at least 2.
        say: Called with how many cases are measured, and what the next one is, before each.
    """
    started = time.perf_counter()
    comparisons: list[Comparison] = []
    costs: list[Costs] = []
    for number, case in enumerate(cases, start=1):
        say(number - 1, f"case {number} of {len(cases)}, {case.data}, costs {case.cost_case}")
        found, cost = compare(case, seeds)
        comparisons += found
        costs.append(cost)
    proxies, dropped = wrong_proxies(cases[0]), dropping(cases[0])
    seconds = time.perf_counter() - started
    return Findings(cases, seeds, comparisons, costs, proxies, dropped, seconds)
