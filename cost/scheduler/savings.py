"""What uniform sampling would have cost for the same variance, as far as the estimates are right.

Estimated from what the rules believe (worth of prompts, scores of responses), not measured: a
wrong belief makes the saving wrong, though never the gradient. Both are derived by us from the
variance formulas of importance sampling and of independent inclusion.
"""

from cost.types import FloatArray


def draw_saving(probabilities: FloatArray, costs: FloatArray, utilities: FloatArray) -> float:
    """Share of the cost of uniform draws that drawing by `probabilities` saves.

    A draw of prompt i has weight 1 / (N p_i), so m draws cost m C(p) with C(p) = sum p_i c_i and
    have the second moment V(p) / m with V(p) = sum V_i / (N^2 p_i). Uniform draws reach the same
    second moment with m V(uniform) / V(p) draws of mean cost mean(c), so that

        spent / uniform = C(p) V(p) / (mean(c) mean(V))         saving = 1 - spent / uniform

    Args:
        probabilities: [N] per-draw probabilities, positive, with sum 1.
        costs: [N] expected cost of a response, positive.
        utilities: [N] second moment V of a ticket's gradient, not negative, any scale.

    Returns:
        Less than 1, negative if uniform draws are the better ones; 0 where nothing has any worth.
    """
    largest = float(utilities.max())
    if not largest > 0:
        return 0.0
    worth = utilities / largest
    spent = float(probabilities @ costs) * float((worth / probabilities).mean()) / len(worth)
    return 1.0 - spent / float(costs.mean() * worth.mean())


def thinning_saving(scores: FloatArray, costs: FloatArray, probabilities: FloatArray) -> float:
    """Share of the cost of uniform thinning that keeping by `probabilities` saves.

    Independent inclusion with q adds the variance sum s_i^2 (1 / q_i - 1). One probability u for
    all adds as much where s^2 / u sums to s^2 / q, so

        u = sum s_i^2 / sum (s_i^2 / q_i)      saving = 1 - sum q_i c_i / (u sum c_i)

    Sums are over the responses that can be kept at all (q > 0): what a rule saves by leaving out
    responses without a gradient is not counted.

    Args:
        scores: [M] guesses s of gradient norms, not negative, any scale.
        costs: [M] cost of training on each, positive.
        probabilities: [M] keep probabilities q in [0, 1].

    Returns:
        Less than 1, negative if uniform thinning is the better one; 0 where no score is positive.
    """
    can = probabilities > 0
    largest = float(scores[can].max(initial=0.0))
    if not largest > 0:
        return 0.0
    squares, q, cost = (scores[can] / largest) ** 2, probabilities[can], costs[can]
    uniform = float(squares.sum() / (squares / q).sum())
    return 1.0 - float(q @ cost) / (uniform * float(cost.sum()))


def floored_share(probabilities: FloatArray) -> float:
    """Share of prompts within 1% of the least draw probability; 1 for uniform draws.

    A rule that mixes in uniform draws gives the least probability to prompts without any worth.
    """
    return float((probabilities <= 1.01 * probabilities.min()).mean())
