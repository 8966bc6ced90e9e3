"""What groups of a batch cost beside their responses: plugs, reports, selections -> overhead."""

from collections.abc import Sequence

import numpy as np

from cost.prices.types import GeneratingPrice
from cost.scheduler.plugs import Plugs
from cost.state import keywords
from cost.types import LengthReport, Selection

MANY = 2**40
"""Responses of a group in which one pays nothing of the prompt."""


def group_overhead(
    plugs: Plugs, reports: Sequence[LengthReport], selections: Sequence[Selection]
) -> float | None:
    """Return what a group costs whatever its size, over what a response of it costs.

    Generating and learning both, by means over the batch; None without a response.

    Args:
        plugs: With a price that knows what generating costs.
        reports: Of the plain members.
        selections: Of one pass over them, aligned.
    """
    filled = [pair for pair in zip(reports, selections, strict=True) if pair[0].num_responses]
    if not filled:
        return None
    price = plugs.price
    assert isinstance(price, GeneratingPrice), "SchedulerConfig refuses others"
    state = keywords(plugs.states["price"])
    sizes = np.array([report.num_responses for report, _ in filled])
    lengths = np.concatenate([report.lengths for report, _ in filled])
    prompts = np.repeat([report.prompt_tokens for report, _ in filled], sizes)
    keep = np.concatenate([chosen.keep for _, chosen in filled])
    whole = price.of_generating(prompts, lengths, np.repeat(sizes, sizes), **state).sum()
    own = price.of_generating(prompts, lengths, np.full(len(lengths), MANY), **state).sum()
    written = np.concatenate([report.environment_tokens for report, _ in filled])
    training = plugs.training_costs(prompts, lengths, written)
    fixed = float(whole - own)
    of_prompt = plugs.prompt_costs(prompts)
    if of_prompt is not None:
        training = training - of_prompt
        trained = np.unique(np.repeat(np.arange(len(sizes)), sizes)[keep])
        fixed += float(of_prompt[(np.cumsum(sizes) - sizes)[trained]].sum())
    response = float(own + training[keep].sum()) / len(lengths)
    return max(fixed, 0.0) / len(sizes) / response
