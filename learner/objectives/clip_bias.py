"""How much of the surrogate a clip cut off: the clipping bias of ST-PPO (arXiv:2511.20718).

    C = mean over responses of (1/|y|) sum_t 1{clipped_t} w_t A_t

ST-PPO divides the gradient of a step by the norm of C. Within one row that divisor would depend on
how responses were packed, so no objective does it; it needs the mean over the rows of all ranks
before the first backward pass. The form is taken from abstract and reviews, not from the paper.
"""

from torch import Tensor

from learner.objectives.ratios import run_means
from learner.objectives.types import ObjectiveOutput


def response_clip_biases(
    output: ObjectiveOutput, advantages: Tensor, segment_ids: Tensor, loss_mask: Tensor
) -> Tensor:
    """Return [T] for each token its response's (1/|y|) sum_t 1{clipped_t} w_t A_t.

    Args:
        output: Of an objective that reports `ratio` and `clip_fraction`, for this row.
        advantages: [T] float32.
        segment_ids: [T] int64, -1 in padding.
        loss_mask: [T] bool.
    """
    cut = output.metrics["clip_fraction"] * output.metrics["ratio"] * advantages
    return run_means(cut, segment_ids + 1, loss_mask)
