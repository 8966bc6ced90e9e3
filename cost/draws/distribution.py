"""The draw distribution at one moment, with the estimates it was made from."""

from dataclasses import dataclass

import numpy as np

from cost.draws.allocators.types import Snapshot
from cost.types import FloatArray, IntArray

LENGTH_CELLS_PER_DOUBLING = 2
"""Cell k of the lengths begins at 2^(k / 2) tokens."""
NUM_PASS_RATE_CELLS = 10
"""Cell k of the pass rates begins at k / 10; a rate of 1 lies in the last one."""


@dataclass(frozen=True, slots=True)
class DrawCells:
    """A draw distribution summed up over prompts of about one length and pass rate.

    Only cells with a prompt are listed, by length and then pass rate. The grid is the same for
    every run, so that cells of several steps and runs can be laid over each other.
    """

    length_cells: IntArray
    """[C] int, number of the cell of the expected response length."""
    pass_rate_cells: IntArray
    """[C] int, number of the cell of the expected pass rate, in [0, NUM_PASS_RATE_CELLS)."""
    num_prompts: IntArray
    """[C] int, prompts in the cell, at least 1."""
    probabilities: FloatArray
    """[C] chance that one draw lands in the cell, sums to 1."""


@dataclass(frozen=True, slots=True)
class DrawDistribution:
    """How likely each prompt is, and why."""

    probabilities: FloatArray
    """[N] per-draw probabilities, which sum to 1."""
    lengths: FloatArray
    """[N] expected response length, tokens."""
    pass_rates: FloatArray
    """[N] expected pass rate, in [0, 1]."""
    utilities: FloatArray
    """[N] expected second moment of a ticket's gradient, up to one factor."""
    costs: FloatArray
    """[N] expected cost of a response."""

    @classmethod
    def of(cls, snapshot: Snapshot) -> "DrawDistribution":
        """Return what a snapshot draws by; the arrays are shared with it."""
        estimates = snapshot.estimates
        return cls(
            probabilities=snapshot.allocation.probabilities,
            lengths=estimates.lengths,
            pass_rates=estimates.pass_rates,
            utilities=estimates.utilities,
            costs=estimates.costs,
        )

    def cells(self) -> DrawCells:
        """Sum up over cells of length and pass rate; O(N)."""
        lengths = np.maximum(self.lengths, 1.0)
        length_cells = np.floor(LENGTH_CELLS_PER_DOUBLING * np.log2(lengths)).astype(np.int64)
        rate_cells = np.floor(NUM_PASS_RATE_CELLS * self.pass_rates).astype(np.int64)
        rate_cells = np.clip(rate_cells, 0, NUM_PASS_RATE_CELLS - 1)
        keys = length_cells * NUM_PASS_RATE_CELLS + rate_cells
        num_prompts = np.bincount(keys)
        mass: FloatArray = np.bincount(keys, weights=self.probabilities).astype(np.float64)
        found = np.flatnonzero(num_prompts)
        return DrawCells(
            length_cells=found // NUM_PASS_RATE_CELLS,
            pass_rate_cells=found % NUM_PASS_RATE_CELLS,
            num_prompts=num_prompts[found],
            probabilities=mass[found],
        )

    @property
    def total_variation_from_uniform(self) -> float:
        """Half the sum of |p_i - 1/N|, in [0, 1)."""
        return float(np.abs(self.probabilities - 1.0 / len(self.probabilities)).sum() / 2)

    @property
    def expected_length_ratio(self) -> float:
        """Expected response length of a draw over that of a uniform draw."""
        return float(self.probabilities @ self.lengths / self.lengths.mean())
