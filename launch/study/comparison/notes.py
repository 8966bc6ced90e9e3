"""What a reader of a comparison must know to judge its numbers."""

from conf.programs import BudgetConfig
from launch.record.statistics import LEVEL, MIN_TEST_SEEDS, no_test_sentence, smallest_p
from launch.study.comparison.curves import amount_text
from launch.study.comparison.runs import Runs, incomparable, reweighted

OFF_BUDGET = 0.1
"""Share of the budget that spending may be off before it is mentioned."""


def notes(
    runs: Runs,
    budget: BudgetConfig,
    *,
    held_out: bool,
    background: bool,
    in_flight: bool,
    target: float | None,
    raced: float | None,
) -> list[str]:
    """Return what must be known, a sentence or two each.

    Args:
        runs: The finished runs.
        budget: What a run may spend.
        held_out: Whether the curves are of evaluations on the way, else of training rewards.
        background: Whether those went on beside training.
        in_flight: Whether batches were generated while learning waited for those.
        target: Held-out pass@1 with whose first evaluation runs were to end, if there is one.
        raced: The same where it ended any.
    """
    ended = _budget_notes(runs, budget) if raced is None else _target_notes(budget, raced)
    if target is not None and raced is None:
        ended.append(
            f"No run reached {target:g} (evaluation.target): arms are compared by what they are at "
            "the end of their budget."
        )
    said = [*_test_notes(runs), *_missing_notes(runs), *ended]
    if background:
        said.append(
            "Evaluations shared the engines with training (evaluation.background): seconds hold "
            "what they took, of each arm differently, and do not compare arms."
        )
    if in_flight:
        said.append(
            "Engines went on with batches in flight while learning waited for evaluations "
            "(loop.max_staleness): seconds leave that out, seconds of engines at work hold it."
        )
    reached = held_out and raced is None
    return [*said, *_objective_notes(runs, held_out), *_curve_notes(runs, held_out, reached)]


def _num_shared(runs: Runs) -> int:
    """Seeds that every arm has."""
    return len(set.intersection(*(set(own) for own in runs.values())))


def _test_notes(runs: Runs) -> list[str]:
    """Which tests were made, and what they can show at best."""
    first, *others = runs
    if not others:
        return []
    num_shared, num_arms = _num_shared(runs), len(others)
    arms = f"{num_arms} arm{'s' if num_arms > 1 else ''}"
    said = [
        f"{arms} held against {first}. Each interval is a 95% one of Student's t over paired "
        "seeds, for its arm alone; p-values are of the sign-flip permutation test, corrected "
        f"for all {arms} together (Holm). All hold for seeds that were chosen before any result "
        "was seen: to add some until a difference shows finds one too often."
    ]
    best = num_arms * smallest_p(num_shared)
    if num_shared < MIN_TEST_SEEDS:
        said.append(no_test_sentence(num_shared, num_arms))
    elif best > LEVEL:
        said.append(
            f"Over {num_arms} arms, {num_shared} seeds reach p = {best:.3g} at best for the first "
            "arm found: add seeds to be able to show a difference at 5%."
        )
    return said


def _missing_notes(runs: Runs) -> list[str]:
    """Which runs of the baseline's seeds have not finished."""
    baseline = set(next(iter(runs.values())))
    missing = {arm: sorted(baseline - set(own)) for arm, own in runs.items()}
    return [
        f"{arm} has no finished run of seed {', '.join(map(str, seeds))}."
        for arm, seeds in missing.items()
        if seeds
    ]


def _budget_notes(runs: Runs, budget: BudgetConfig) -> list[str]:
    """Who was given a share of the budget, and who spent something else than it was given."""
    axis = budget.axis
    spent = {
        arm: sum(run.spent(axis) for run in own.values()) / len(own) for arm, own in runs.items()
    }
    used = {arm: each / budget.of(arm) for arm, each in spent.items()}
    shares = ", ".join(f"{arm} {share:.3g}" for arm, share in budget.shares.items() if arm in runs)
    said = [f"Not at equal budget, as asked for: shares of it are {shares}."] if shares else []
    off = [arm for arm, each in used.items() if abs(each - 1) > OFF_BUDGET]
    if not off:
        return said
    listed = ", ".join(f"{arm} {amount_text(axis, spent[arm])}" for arm in off)
    whole = f"{amount_text(axis, budget.amount)} {axis}"
    if all(each < 1 - OFF_BUDGET for each in used.values()):
        return [
            *said,
            f"No arm reached the budget of {whole} (on average {listed}): the runs "
            "ended with max_steps, so raise it or lower budget.amount.",
        ]
    of = "its own share of " if shares else ""
    return [
        *said,
        f"Not at equal budget: of {of}{whole} these arms spent on average {listed}. A run "
        "ends with a whole batch, or with max_steps.",
    ]


def _target_notes(budget: BudgetConfig, target: float) -> list[str]:
    """What ended the runs, and what that makes of their ends."""
    whole = f"{amount_text(budget.axis, budget.amount)} {budget.axis}"
    return [
        f"A run ended with the first evaluation that reached {target:g} (evaluation.target), at "
        f"the latest with {whole}: arms that got there are as good as each other by that, and what "
        "they spent to get there compares them."
    ]


def _objective_notes(runs: Runs, held_out: bool) -> list[str]:
    """Which arms optimise something else than the uniform objective."""
    others = reweighted(runs)
    if not others:
        return []
    left_out = "; left out of the curves, since its training reward is not comparable"
    return [
        f"{', '.join(others)}: optimises a reweighted objective, not the uniform one"
        f"{left_out if not held_out and incomparable(runs) else ''}."
    ]


def _curve_notes(runs: Runs, held_out: bool, reached: bool) -> list[str]:
    """What the curves show, what their bands are, and how costs of a quality are compared."""
    num_shared = _num_shared(runs)
    if not num_shared:
        return []
    source = (
        "held-out pass@1, evaluated on the way, straight lines in between"
        if held_out
        else "training reward, design-weighted to uniform draws and smoothed, since the runs "
        "were not evaluated on the way (evaluation.every); where an arm's draws are not undone "
        "by weights it is not comparable, and its end need not order the arms as held-out "
        "pass@1 does"
    )
    said = [f"Curves show {source}."]
    if num_shared > 1:
        said.append(
            f"A band is at each point by itself a 95% interval of Student's t over the "
            f"{num_shared} shared seeds."
        )
    if not reached:
        return said
    return [
        *said,
        "What it takes to get as far as the baseline compares costs at the best quality that both "
        "arms reach, an arm that ends below the baseline included. Its 95% interval, of each arm "
        "and axis alone, holds every ratio of costs that a paired test over seeds (Student's t) "
        "does not refuse; without an end above it is not shown that the arm gets there.",
    ]
