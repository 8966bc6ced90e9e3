"""The ordered hand-over between the two coroutines of the loop.

    draw:  await admit(batch) ... put(ticket_id, group)   waits while the batch would be too stale
    learn: await take(num) ... advance()                  waits for the next `num` in draw order

Groups leave in draw order whatever order they finish in: taking the first to finish would favour
short responses, and a scheduler that learns from lengths would chase that bias.

Staleness is bounded at admission. Batch b is admitted once version >= b - max_staleness, and
learning it makes version b + 1, so a token of batch b is at most max_staleness versions old when
learned.
"""

import asyncio
from typing import Generic, TypeVar

Item = TypeVar("Item")


class OrderedBuffer(Generic[Item]):
    """Holds items by ticket id and hands them out in order, in one event loop and to one taker.

    Args:
        max_staleness: Versions a batch may be behind when it is learned, at least 0.
        version: Version the run starts from; also the index of its first batch.
        next_ticket: First ticket id that `take` hands out.
    """

    def __init__(self, max_staleness: int, *, version: int = 0, next_ticket: int = 0) -> None:
        if max_staleness < 0:
            raise ValueError(f"loop.max_staleness must not be negative, got {max_staleness!r}")
        self._max_staleness = max_staleness
        self._version = version
        self._next_ticket = self._first_missing = self._wanted = next_ticket
        self._items: dict[int, Item] = {}
        self._advanced = asyncio.Condition()
        self._whole = asyncio.Event()
        """All tickets before `_wanted` are there: who takes them is woken once."""

    async def admit(self, batch: int) -> None:
        """Wait until batch number `batch` may be drawn."""
        async with self._advanced:
            await self._advanced.wait_for(lambda: self._version >= batch - self._max_staleness)

    def put(self, ticket_id: int, item: Item) -> None:
        """Add the finished item of one ticket; each ticket comes once."""
        assert ticket_id >= self._next_ticket and ticket_id not in self._items, ticket_id
        self._items[ticket_id] = item
        while self._first_missing in self._items:
            self._first_missing += 1
        if self._first_missing >= self._wanted:
            self._whole.set()

    @property
    def items(self) -> dict[int, Item]:
        """What is finished and was not handed out, by ticket id."""
        return dict(self._items)

    @property
    def next_ticket(self) -> int:
        """First ticket id that the next `take` hands out."""
        return self._next_ticket

    async def take(self, num: int) -> list[Item]:
        """Wait for the next `num` tickets in draw order and remove them."""
        self._wanted = self._next_ticket + num
        if self._first_missing < self._wanted:
            self._whole.clear()
            await self._whole.wait()
        ids = range(self._next_ticket, self._wanted)
        self._next_ticket = self._wanted
        return [self._items.pop(i) for i in ids]

    async def advance(self) -> None:
        """Count one published version."""
        async with self._advanced:
            self._version += 1
            self._advanced.notify_all()
