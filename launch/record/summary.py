"""What a run comes to: held-out results before and after, totals over the steps, `summary.json`.

evaluations ------------> RunSummary.evaluation --+
metrics of each step ---> RunSummary.step --------+-> finish -> write_json
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from launch.cli.refusals import reason_of
from launch.record.earlier_starts import EarlierStarts, packed, plus, unpacked
from launch.record.outcomes import EvaluationResult, change_keys, evaluation_keys
from launch.record.statistics import Estimate

TOKEN_KINDS = tuple(
    f"{kind}_{unit}"
    for unit in ("tokens", "response_tokens")
    for kind in ("generated", "trained", "selectable")
)
UNIFORM_TOKENS = tuple(f"uniform_{kind}_tokens_estimated" for kind in ("generated", "trained"))
PHASES = ("generate", "update", "publish", "wait")
TURNS = ("wait", "update", "publish")
"""Phases that take turns and fill a step."""
BESIDE = tuple(phase for phase in PHASES if phase not in TURNS)
"""Phases that go on beside them."""
OVERLAP = (
    f"{', '.join(TURNS[:-1])} and {TURNS[-1]} follow each other and, with the work between steps, "
    f"make up the loop; {BESIDE[0]} runs in parallel"
)
"""How the seconds of a run overlap."""


SUMMED = (
    *(f"loop/{phase}_seconds" for phase in PHASES),
    "learner/skipped_steps",
    "rollout/failed_tickets",
    "rollout/reward_timed_out",
    "rollout/reward_crashed",
)
AVERAGED = (
    "cost/draw_saving_estimated",
    "cost/thinning_saving_estimated",
    "cost/total_variation",
    "cost/expected_length_ratio",
)
FLOPS = tuple(f"{kind}_flops" for kind in ("compute", "generate", "learn", "score", "probe"))
BUSY_SECONDS = ("engine_seconds", "learner_seconds")
SIZING = ("group_size", "tickets", "saving_estimated")
"""Of `cost/sizing_...`, there where scheduler.sizing is."""
COUNTERS = (
    *(f"cost/{key}" for key in FLOPS),
    *(f"cost/{key}" for key in (*TOKEN_KINDS, *UNIFORM_TOKENS)),
    *(f"cost/{key}" for key in BUSY_SECONDS),
    "cost/spent_currency",
    *(f"cost/sizing_{key}" for key in SIZING),
)
"""Metrics of which the last value is that of the run; most run since its start."""

UNSCORED = {
    "reward_crashed": "plays, rewards crashed",
    "reward_timed_out": "rewards timed out",
}
"""Labels of responses without a reward; a play that fails is not scored, and counts as crashed."""


class RunSummary:
    """Everything that `summary.json` tells of a run, gathered while it goes on.

    A run that goes on after a stop takes over what was gathered up to its checkpoint. Its seconds
    are those up to the checkpoint and those since the restart: neither what lay between stop and
    restart nor what was spent on lost steps is in any total.
    """

    def __init__(self, k: int) -> None:
        """Start with nothing measured.

        Args:
            k: Of pass@k in the evaluations to come.
        """
        self._k = k
        self._num_steps = 0
        self._sums = dict.fromkeys((*SUMMED, *AVERAGED), 0.0)
        self._counts = dict.fromkeys(AVERAGED, 0)
        self._last: dict[str, float] = {}
        self._evaluations = {
            **evaluation_keys("before", k),
            **evaluation_keys("after", k),
            **change_keys(k, {}),
        }
        self._startup_seconds = math.nan
        self._startup_parts: dict[str, float] = {}
        self._evaluate_seconds = 0.0
        self._earlier = EarlierStarts()
        self._first_failure: str | None = None

    def startup(self, seconds: float, parts: Mapping[str, float]) -> None:
        """Take in how long it took from the program's start to the first work, and by part.

        The start-ups of a run that went on after a stop add up.
        """
        self._startup_seconds = plus(self._startup_seconds, seconds)
        for key, value in parts.items():
            self._startup_parts[key] = self._startup_parts.get(key, 0.0) + value

    def evaluation(
        self,
        when: str,
        sampled: EvaluationResult,
        greedy: EvaluationResult | None = None,
        *,
        seconds: float,
        changes: Mapping[str, Estimate] | None = None,
    ) -> None:
        """Take in an evaluation; `when` is "before" or "after".

        Args:
            when: Of the two, which.
            sampled: The figures of the sampled responses.
            greedy: Those of the greedy ones, if there are any.
            seconds: How long it took.
            changes: Of an evaluation after the run, by figure what changed since that before it.
        """
        self._evaluations |= evaluation_keys(when, self._k, sampled, greedy)
        self._evaluations |= change_keys(self._k, changes or {})
        self._evaluate_seconds += seconds

    def evaluated_on_the_way(self, seconds: float) -> None:
        """Take in the seconds of an evaluation between steps; its results are metrics."""
        self._evaluate_seconds += seconds

    def step(self, metrics: Mapping[str, float]) -> None:
        """Take in one step; values that are not finite are left out of sums and means."""
        self._num_steps += 1
        finite = {key: value for key, value in metrics.items() if math.isfinite(value)}
        for key in self._sums.keys() & finite.keys():
            self._sums[key] += finite[key]
        for key in self._counts.keys() & finite.keys():
            self._counts[key] += 1
        self._last |= {key: finite[key] for key in COUNTERS if key in finite}

    def state_dict(
        self,
        *,
        total_seconds: float,
        loop_seconds: float = math.nan,
        parity_max_logprob_difference: float = math.nan,
        first_reward_failure: str | None = None,
    ) -> dict[str, Any]:
        """Return what was gathered, in the types of strict JSON; as large after any step.

        Args:
            total_seconds: As `finish` would get them now.
            loop_seconds: The same.
            parity_max_logprob_difference: The same.
            first_reward_failure: The same.
        """
        now = EarlierStarts(total_seconds, loop_seconds, parity_max_logprob_difference)
        return {
            "sums": packed(self._sums),
            "counts": packed(self._counts),
            "last": packed(self._last),
            "evaluations": packed(self._evaluations),
            "startup_parts": packed(self._startup_parts),
            "earlier": packed(asdict(self._earlier.and_then(now))),
            "others": packed(
                {
                    "num_steps": self._num_steps,
                    "startup_seconds": self._startup_seconds,
                    "evaluate_seconds": self._evaluate_seconds,
                }
            ),
            "first_reward_failure": self._first_failure or first_reward_failure,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned, before the first step of this start.

        Of an evaluation what has other keys than those to come, as of another k, is left out.

        Raises:
            ValueError: If it is anything else.
        """
        try:
            found = {key: unpacked(state[key]) for key in state if key != "first_reward_failure"}
            sums = {key: float(found["sums"][key]) for key in self._sums}
            counts = {key: int(found["counts"][key]) for key in self._counts}
            last = {key: float(value) for key, value in found["last"].items()}
            parts = {key: float(value) for key, value in found["startup_parts"].items()}
            earlier = EarlierStarts(
                **{key: float(value) for key, value in found["earlier"].items()}
            )
            num_steps, startup, evaluate = (
                found["others"][key] + 0
                for key in ("num_steps", "startup_seconds", "evaluate_seconds")
            )
            evaluations, failure = found["evaluations"], state["first_reward_failure"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"the state of a summary does not fit ({reason_of(error)})") from error
        self._num_steps, self._sums, self._counts, self._last = num_steps, sums, counts, last
        self._evaluations |= {key: evaluations.get(key) for key in self._evaluations}
        self.startup(startup, parts)
        self._evaluate_seconds += evaluate
        self._earlier, self._first_failure = earlier, failure

    def finish(
        self,
        *,
        total_seconds: float,
        parity_max_logprob_difference: float,
        versions_published: int,
        completed: bool = True,
        loop_seconds: float = math.nan,
        objective: str | None = None,
        first_reward_failure: str | None = None,
        restarts: int = 0,
        lost_steps: int = 0,
    ) -> dict[str, object]:
        """Return the content of `summary.json`; what was not measured is None or NaN.

        Token counts are the ledger's, every pass over a batch counted; FLOPs are counted from the
        model's shape, None where it is not known. `generate_tokens_per_second` is response tokens
        over the seconds in which anything was generated. How far the draws were from uniform, and
        what draws and thinning are believed to save, are means over the steps. Lengths are those of
        the sampled evaluations; a half width is of a 95% interval, Student's t over prompts, of a
        change over the differences of single prompts. `objective` is what the run optimised, in
        words; `first_reward_failure` says why the first scoring that failed did. Seconds, the
        parity and the failure are those since this start, to which what was before it is added;
        `restarts` counts these, and `lost_steps` the steps taken anew in all.
        """
        seconds = {phase: self._sums[f"loop/{phase}_seconds"] for phase in PHASES}
        tokens = {kind: int(self._last.get(f"cost/{kind}", 0)) for kind in TOKEN_KINDS}
        now = EarlierStarts(total_seconds, loop_seconds, parity_max_logprob_difference)
        whole = self._earlier.and_then(now)
        return {
            "completed": completed,
            "objective": objective,
            **self._evaluations,
            "num_steps": self._num_steps,
            "restarts": restarts,
            "lost_steps": lost_steps,
            "versions_published": versions_published,
            "skipped_steps": int(self._sums["learner/skipped_steps"]),
            "failed_tickets": int(self._sums["rollout/failed_tickets"]),
            "reward_timed_out": int(self._sums["rollout/reward_timed_out"]),
            "reward_crashed": int(self._sums["rollout/reward_crashed"]),
            "first_reward_failure": self._first_failure or first_reward_failure,
            **tokens,
            **{key: int(self._last.get(f"cost/{key}", 0)) for key in UNIFORM_TOKENS},
            **{key: self._last.get(f"cost/{key}") for key in FLOPS},
            "draw_saving_estimated": self._mean("cost/draw_saving_estimated"),
            "thinning_saving_estimated": self._mean("cost/thinning_saving_estimated"),
            **{key: self._last.get(f"cost/{key}", 0.0) for key in BUSY_SECONDS},
            "spent_currency": self._last.get("cost/spent_currency"),
            "sizing": self._sizing(),
            "saved_share": 1 - _ratio(tokens["trained_tokens"], tokens["selectable_tokens"]),
            "generate_tokens_per_second": _ratio(
                tokens["generated_response_tokens"], seconds["generate"]
            ),
            "parity_max_logprob_difference": whole.parity_max_logprob_difference,
            "total_variation_from_uniform": self._mean("cost/total_variation"),
            "expected_length_ratio": self._mean("cost/expected_length_ratio"),
            "seconds": seconds | self._other_seconds(whole),
            "startup_seconds": dict(self._startup_parts),
        }

    def _sizing(self) -> dict[str, float] | None:
        """Return the sizes chosen last and what they are believed to save; None without sizing."""
        keys = {key: f"cost/sizing_{key}" for key in SIZING}
        return {key: self._last[name] for key, name in keys.items() if name in self._last} or None

    def _other_seconds(self, whole: EarlierStarts) -> dict[str, float]:
        return {
            "loop": whole.loop_seconds,
            "startup": self._startup_seconds,
            "evaluate": self._evaluate_seconds,
            "total": whole.total_seconds,
        }

    def _mean(self, key: str) -> float:
        return _ratio(self._sums[key], self._counts[key])


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
