"""How a batch is cut up: groups into optimiser steps, responses into rows, rows onto ranks.

    P groups --split_groups--> one part per optimiser step --plan_rows--> rows per rank

The cut into optimiser steps is random and looks at nothing but the number of groups, so it is
independent of the thinning; each part divides its loss by its own number of groups, empty groups
included. Rows are cut by length alone: which row a response lands in does not change its gradient.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Row = tuple[tuple[int, int], ...]
"""The responses of one packed row, each as (position of its group in the batch, response index)."""


@dataclass(frozen=True, slots=True)
class MinibatchPlan:
    """What one rank does in one optimiser step."""

    num_groups: int
    """Groups of this optimiser step over all ranks, empty groups included: the estimator's P."""
    rows: tuple[Row, ...]
    """Rows of this rank; every rank has the same number, an empty row is padding."""


def split_groups(
    num_groups: int, num_minibatches: int, rng: np.random.Generator
) -> list[npt.NDArray[np.int64]]:
    """Partition a batch's groups at random into one part per optimiser step.

    Args:
        num_groups: Groups in the batch, empty ones included.
        num_minibatches: Parts; their sizes differ by at most one.
        rng: Must not depend on anything the groups contain.

    Returns:
        One sorted [P_m] int64 array of group positions per part; together every position once.

    Raises:
        ValueError: If there are fewer groups than parts.
    """
    if not 1 <= num_minibatches <= num_groups:
        raise ValueError(
            f"learner.num_minibatches must be between 1 and the {num_groups} groups of a batch, "
            f"got {num_minibatches!r}"
        )
    order = rng.permutation(num_groups)
    return [np.sort(part).astype(np.int64) for part in np.array_split(order, num_minibatches)]


def plan_rows(lengths: Sequence[int], num_ranks: int, row_tokens: int) -> list[list[list[int]]]:
    """Pack items into rows and give every rank the same number of rows.

    Longest items first, each to the rank with the fewest tokens, then into that rank's first row
    with room (first fit decreasing). The ranks' totals differ by at most the longest item.

    Args:
        lengths: Tokens of each item, each between 1 and `row_tokens`.
        num_ranks: Ranks to share the items.
        row_tokens: Largest number of tokens in a row.

    Returns:
        Per rank its rows, each a list of item indices. Ranks with less to do end in empty rows.
        Without items no rank has a row.

    Raises:
        ValueError: If an item does not fit into a row.
    """
    if lengths and max(lengths) > row_tokens:
        raise ValueError(
            f"learner.row_tokens must hold the longest prompt and response, {max(lengths)} tokens, "
            f"got {row_tokens!r}"
        )
    rows: list[list[list[int]]] = [[] for _ in range(num_ranks)]
    room: list[list[int]] = [[] for _ in range(num_ranks)]
    loads = [(0, rank) for rank in range(num_ranks)]
    for item in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        load, rank = heapq.heappop(loads)
        heapq.heappush(loads, (load + lengths[item], rank))
        with_room = (row for row, free in enumerate(room[rank]) if lengths[item] <= free)
        row = next(with_room, len(rows[rank]))
        if row == len(rows[rank]):
            rows[rank].append([])
            room[rank].append(row_tokens)
        rows[rank][row].append(item)
        room[rank][row] -= lengths[item]
    num_rows = max(len(rank_rows) for rank_rows in rows)
    for rank_rows in rows:
        rank_rows.extend([] for _ in range(num_rows - len(rank_rows)))
    return rows
