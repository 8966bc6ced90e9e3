"""What tasks say of their prompts, as a table that predictors of the scheduler read.

Prompt.features of all prompts -> feature_table -> [N, F] -> cost.prompts.PromptPool.features
"""

from collections.abc import Sequence

import numpy as np

from cost.prompts import MAX_FEATURES, Features
from rollout.types import Prompt


def feature_table(prompts: Sequence[Prompt]) -> Features | None:
    """Put the prompts' own features into columns of mean 0 and variance 1.

    Columns that are the same for all prompts are left out.

    Args:
        prompts: N prompts of one task.

    Returns:
        [N, F] float16; None if the task offers none that differ.

    Raises:
        ValueError: If prompts have not as many numbers, too many, or one that is not finite.
    """
    sizes = {len(prompt.features) for prompt in prompts}
    if len(sizes) > 1 or max(sizes) > MAX_FEATURES:
        raise ValueError(
            f"task must give every prompt as many features, at most {MAX_FEATURES}; correct "
            f"Prompt.features, got {sorted(sizes)!r}"
        )
    table = np.array([prompt.features for prompt in prompts], dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(table).all(axis=1))
    if len(bad):
        raise ValueError(
            f"task must give finite features, got {prompts[bad[0]].features!r} for prompt {bad[0]}"
        )
    return standardised(table)


def standardised(table: np.ndarray) -> Features | None:
    """Scale the columns [N, F] that differ to mean 0 and variance 1; None if none does."""
    centred = table - table.mean(axis=0)
    deviations = centred.std(axis=0)
    differs = deviations > 1e-9 * np.maximum(np.abs(table).max(axis=0, initial=0.0), 1e-30)
    if not differs.any():
        return None
    scaled: Features = (centred[:, differs] / deviations[differs]).astype(np.float16)
    return scaled
