"""How responses are packed into rows, and rows shared out among ranks.

Rows are cut by length alone: which row a response lands in does not change its gradient. Responses
to one prompt share its copy within a row, so they are kept together where they fit.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from cost.prices.shape import ModelShape

_EVEN_ENOUGH = 0.005
"""Ranks are level when the most work of one is within this share of the mean."""


@dataclass(frozen=True, slots=True)
class Work:
    """Says what a token costs to learn from, in any unit; the default counts tokens.

        prompt of p tokens             token p + pair p (p + 1) / 2
        response of n tokens to it     (token + loss_token) n + pair (p n + n (n + 1) / 2)

    Forward and backward pass alike, so their common factor is left out.
    """

    token: float = 1.0
    """What each token costs, positive."""
    loss_token: float = 0.0
    """What each response token costs besides, for the head."""
    pair: float = 0.0
    """What each pair of a token and one that it sees costs, itself included, for attention."""

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        if not self.token > 0 or not self.loss_token >= 0 or not self.pair >= 0:
            raise ValueError(f"work must be positive for tokens and not negative, got {self!r}")

    @classmethod
    def of_model(cls, model_path: str) -> "Work":
        """Count the operations of a forward pass, as `cost.prices.shape.ModelShape` does.

        A model whose shape its config.json does not say is counted in tokens.
        """
        shape = ModelShape.found(model_path)
        return cls() if shape is None else cls.of_shape(shape)

    @classmethod
    def of_shape(cls, shape: ModelShape) -> "Work":
        """Count the operations of a forward pass of a model of this shape."""
        return cls(token=shape.token, loss_token=shape.head, pair=shape.pair)

    def of_prompt(self, tokens: int) -> float:
        """Return the work of a prompt."""
        return self.token * tokens + self.pair * tokens * (tokens + 1) / 2

    def of_response(self, prompt_tokens: int, tokens: int) -> float:
        """Return the work of a response whose prompt is there."""
        pairs = prompt_tokens * tokens + tokens * (tokens + 1) / 2
        return (self.token + self.loss_token) * tokens + self.pair * pairs


TOKENS = Work()


@dataclass(slots=True)
class _Bundle:
    """Holds responses with one copy of their prompt."""

    prompt: int
    """The prompt's number."""
    items: list[int]
    tokens: int
    """How many there are in prompt and responses."""


class _Planner:
    """Knows the items of one plan, and what they take."""

    def __init__(
        self,
        lengths: Sequence[int],
        prompts: Sequence[tuple[int, int]],
        row_tokens: int,
        work: Work,
    ) -> None:
        self._prompts = prompts
        self._row_tokens = row_tokens
        self._tokens = [
            length - prompt for length, (_, prompt) in zip(lengths, prompts, strict=True)
        ]
        self._prompt_work = [work.of_prompt(prompt) for _, prompt in prompts]
        self._response_work = [
            work.of_response(prompt, tokens)
            for tokens, (_, prompt) in zip(self._tokens, prompts, strict=True)
        ]

    def work_of(self, bundle: _Bundle) -> float:
        """Return the work of the prompt and the responses."""
        prompt = self._prompt_work[bundle.items[0]]
        return prompt + sum(self._response_work[item] for item in bundle.items)

    def bundles(self) -> list[_Bundle]:
        """Put items with the same prompt together, into as few rows' worth as first fit finds."""
        bundles: list[_Bundle] = []
        of_prompt: dict[int, list[_Bundle]] = {}
        for item in sorted(range(len(self._tokens)), key=lambda i: (-self._tokens[i], i)):
            mine = of_prompt.setdefault(self._prompts[item][0], [])
            if not self._add(mine, item):
                bundles.append(mine[-1])
        return bundles

    def _add(self, bundles: list[_Bundle], item: int) -> bool:
        """Add an item to the first of its prompt's bundles with room; False if to a new one."""
        number, prompt_tokens = self._prompts[item]
        tokens = self._tokens[item]
        bundle = self._with_room(bundles, item)
        if bundle is not None:
            bundle.items.append(item)
            bundle.tokens += tokens
            return True
        bundles.append(_Bundle(number, [item], prompt_tokens + tokens))
        return False

    def _with_room(self, bundles: Sequence[_Bundle], item: int) -> _Bundle | None:
        number, tokens = self._prompts[item][0], self._tokens[item]
        fitting = (
            b for b in bundles if b.prompt == number and b.tokens + tokens <= self._row_tokens
        )
        return next(fitting, None)

    def level(self, ranks: list[list[_Bundle]]) -> None:
        """Move responses from the rank with the most work to that with the least.

        Each move lowers the most work; among them the one after which the two ranks' works have
        the smallest sum of squares. A response takes a copy of its prompt along where the other
        rank has none with room.
        """
        loads = [sum(map(self.work_of, bundles)) for bundles in ranks]
        enough = (1 + _EVEN_ENOUGH) * sum(loads) / len(loads)
        while max(loads) > enough:
            source = loads.index(max(loads))
            target = loads.index(min(loads))
            best: tuple[float, float, float, int, int] | None = None
            room: dict[int, int] = {}
            for bundle in ranks[target]:
                free = self._row_tokens - bundle.tokens
                room[bundle.prompt] = max(free, room.get(bundle.prompt, 0))
            for place, bundle in enumerate(ranks[source]):
                last = len(bundle.items) == 1
                for item in bundle.items:
                    response, prompt = self._response_work[item], self._prompt_work[item]
                    known = self._tokens[item] <= room.get(bundle.prompt, -1)
                    left = loads[source] - response - (prompt if last else 0.0)
                    grown = loads[target] + response + (0.0 if known else prompt)
                    if max(left, grown) >= loads[source] * (1 - 1e-9):
                        continue
                    # Squares tell even from uneven, and count the copies of prompts.
                    move = (left * left + grown * grown, left, grown, place, item)
                    best = move if best is None or move < best else best
            if best is None:
                return
            _, loads[source], loads[target], place, item = best
            bundle = ranks[source][place]
            bundle.items.remove(item)
            bundle.tokens -= self._tokens[item]
            if not bundle.items:
                del ranks[source][place]
            self._add(ranks[target], item)

    def rows(self, bundles: Sequence[_Bundle]) -> list[list[int]]:
        """Put a rank's bundles into rows, longest first, each into the first row with room."""
        rows: list[list[_Bundle]] = []
        room: list[int] = []
        for bundle in sorted(bundles, key=lambda b: (-b.tokens, b.items[0])):
            with_room = (row for row, free in enumerate(room) if bundle.tokens <= free)
            row = next(with_room, len(rows))
            if row == len(rows):
                rows.append([])
                room.append(self._row_tokens)
            rows[row].append(bundle)
            room[row] -= bundle.tokens
        # What shares a prompt lies side by side.
        return [
            [item for bundle in sorted(row, key=lambda b: b.prompt) for item in bundle.items]
            for row in rows
        ]


def plan_rows(
    lengths: Sequence[int],
    num_ranks: int,
    row_tokens: int,
    *,
    prompts: Sequence[tuple[int, int]] | None = None,
    work: Work = TOKENS,
) -> list[list[list[int]]]:
    """Pack items into rows, with the same number of rows and about the same work on every rank.

    Items with one prompt are bundled, as many as fit a row. The bundles with the most work go
    first, each to the rank with the least; then single items leave the rank with the most work as
    long as that lowers the most, taking a copy of their prompt along: where there are fewer than
    about three groups a rank, even ranks cost repeated prompts. Within a rank the longest
    bundles go first, each into the first row with room. Without shared prompts the ranks' works
    differ by at most the largest item's.

    Args:
        lengths: Tokens of each item with its prompt, each between 1 and `row_tokens`.
        num_ranks: Ranks to share the items.
        row_tokens: Largest number of tokens in a row, a shared prompt counted once.
        prompts: For each item the number of its prompt and the prompt's tokens; items of the same
            number share it. None for items without prompts.
        work: What is to be even.

    Returns:
        Per rank its rows, each a list of item indices, those of one prompt side by side. Ranks with
        less to do end in empty rows. Without items no rank has a row.

    Raises:
        ValueError: If an item does not fit into a row.
    """
    if lengths and max(lengths) > row_tokens:
        raise ValueError(
            f"learner.row_tokens must hold the longest prompt and response, {max(lengths)} tokens, "
            f"got {row_tokens!r}"
        )
    if prompts is None:
        prompts = [(index, 0) for index in range(len(lengths))]
    planner = _Planner(lengths, prompts, row_tokens, work)
    ranks: list[list[_Bundle]] = [[] for _ in range(num_ranks)]
    loads = [(0.0, rank) for rank in range(num_ranks)]
    bundles = planner.bundles()
    for bundle in sorted(bundles, key=lambda b: (-planner.work_of(b), b.items[0])):
        load, rank = heapq.heappop(loads)
        heapq.heappush(loads, (load + planner.work_of(bundle), rank))
        ranks[rank].append(bundle)
    planner.level(ranks)
    rows = [planner.rows(bundles) for bundles in ranks]
    num_rows = max(len(rank_rows) for rank_rows in rows)
    return [rank_rows + [[] for _ in range(num_rows - len(rank_rows))] for rank_rows in rows]


def work_of_rows(
    rows: Sequence[Sequence[int]],
    lengths: Sequence[int],
    *,
    prompts: Sequence[tuple[int, int]],
    work: Work,
) -> float:
    """Return the work of some rows of a plan; arguments as for `plan_rows`."""
    total = 0.0
    for row in rows:
        # A prompt is there once in a row.
        sizes = {prompts[item][0]: prompts[item][1] for item in row}
        total += sum(work.of_prompt(size) for size in sizes.values())
        for item in row:
            size = prompts[item][1]
            total += work.of_response(size, lengths[item] - size)
    return total
