"""How far sampling and training are apart, measured on ratios that nothing has cut.

Of w = trainer / rollout probability of the trained tokens:

    kl_..._k1              mean of -log w
    kl_...                 mean of w - 1 - log w (k3)
    ..._ratio              mean of w, 1 if the sampled tokens were the rollout policy's own
    ..._chi_square         mean of w^2, minus 1
    ..._effective_share    (sum w)^2 / (n sum w^2), the share of effective tokens

`rollout` names learner / rollout, everything together: staleness, other arithmetic, and the steps
of this pass. `old` names old / rollout, what a correction of the decoupled form sees. `stale`
and `fresh` part the first KL by whether a token was made by an older version than the learner's.
A logarithm enters an exponential clamped to [-20, 20], to stay finite.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from learner.objectives.ratios import MAX_LOG_RATIO

OVER_ALL = ("exploring_share", "curvature_rejected_share")
"""Shares of all trained tokens, exploring ones included."""


def ratio_values(
    name: str, trainer_logprobs: Tensor, rollout_logprobs: Tensor
) -> dict[str, Tensor]:
    """Give each token's part of the means above.

    Args:
        name: "rollout" or "old".
        trainer_logprobs: [T] float32.
        rollout_logprobs: [T] float32.

    Returns:
        Name -> [T] float64 without gradient.
    """
    log_ratios = trainer_logprobs.detach().double() - rollout_logprobs.double()
    ratios = log_ratios.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    return {
        f"kl_{name}_k1": -log_ratios,
        f"kl_{name}": ratios - 1 - log_ratios,
        f"{name}_ratio": ratios,
        f"{name}_chi_square": ratios.square() - 1,
    }


def staleness_values(staleness: Tensor, kl: Tensor) -> dict[str, Tensor]:
    """Give each token's part of the metrics by staleness.

    Args:
        staleness: [T] the learner's version minus the token's.
        kl: [T] a token's part of `kl_rollout`.
    """
    stale = staleness > 0
    return {
        "token_staleness": staleness,
        "stale_share": stale,
        "kl_rollout_stale": torch.where(stale, kl, 0.0),
    }


def turn_values(turn_numbers: Tensor, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give each token's part of the metrics by turn; nothing where no response has a second one.

    Args:
        turn_numbers: [K] number of each token's turn within its response, from 0.
        values: [K] by name: `entropy`, nats, and `rollout_ratio`.

    Returns:
        Name -> [K], for the second turn and all later ones; what they leave is the first's.
    """
    found: dict[str, Tensor] = {}
    if not (turn_numbers > 0).any():
        return {}
    for name, within in (("second", turn_numbers == 1), ("later", turn_numbers > 1)):
        found[f"turn_{name}_share"] = within
        found[f"turn_{name}_entropy"] = torch.where(within, values["entropy"], 0.0)
        found[f"turn_{name}_ratio"] = torch.where(within, values["rollout_ratio"], 0.0)
    return found


def derived(means: Mapping[str, float]) -> dict[str, float]:
    """Compute what is no mean over tokens from what is; 0 / 0 is NaN.

    Values of exploring tokens are 0 (`learner.loss`): with some, all means but those of `OVER_ALL`
    become means over the other tokens.
    """
    found = {}
    if "exploring_share" in means:
        plain = 1 - means["exploring_share"]
        found = {k: _ratio(mean, plain) for k, mean in means.items() if k not in OVER_ALL}
        means = {**means, **found}
    for name in ("rollout", "old"):
        if f"{name}_ratio" in means:
            second_moment = 1 + means[f"{name}_chi_square"]
            found[f"{name}_effective_share"] = means[f"{name}_ratio"] ** 2 / second_moment
    if "turn_second_share" in means:
        found |= _by_turn(means)
    if "stale_share" in means:
        share, stale = means["stale_share"], means["kl_rollout_stale"]
        found["kl_rollout_stale"] = _ratio(stale, share)
        found["kl_rollout_fresh"] = _ratio(means["kl_rollout"] - stale, 1 - share)
    return found


def _by_turn(means: Mapping[str, float]) -> dict[str, float]:
    shares = {name: means[f"turn_{name}_share"] for name in ("second", "later")}
    shares["first"] = 1 - sum(shares.values())
    found = {"turn_first_share": shares["first"]}
    for quantity, total in (("entropy", means["entropy"]), ("ratio", means["rollout_ratio"])):
        sums = {name: means[f"turn_{name}_{quantity}"] for name in ("second", "later")}
        sums["first"] = total - sum(sums.values())
        found |= {f"turn_{name}_{quantity}": _ratio(sums[name], shares[name]) for name in shares}
    return found


def _ratio(numerator: float, denominator: float) -> float:
    # A share is a count over a count: below this it is rounding.
    return numerator / denominator if denominator > 1e-12 else math.nan
