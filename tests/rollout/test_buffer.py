import asyncio

import pytest

from rollout.buffer import OrderedBuffer


def test_take_waits_for_the_next_in_order():
    async def scenario():
        buffer = OrderedBuffer(0)
        taken = asyncio.create_task(buffer.take(2))
        buffer.put(1, "b")
        buffer.put(2, "c")
        await asyncio.sleep(0)
        assert not taken.done()
        buffer.put(0, "a")
        assert await taken == ["a", "b"]
        buffer.put(3, "d")
        assert await buffer.take(2) == ["c", "d"]

    asyncio.run(scenario())


def test_admission_follows_the_version():
    async def scenario():
        buffer = OrderedBuffer(1)
        await asyncio.wait_for(buffer.admit(1), 0.1)
        late = asyncio.create_task(buffer.admit(2))
        await asyncio.sleep(0.01)
        assert not late.done()
        await buffer.advance()
        await asyncio.wait_for(late, 0.1)

    asyncio.run(scenario())


def test_a_ticket_is_put_once():
    async def scenario():
        buffer = OrderedBuffer(0)
        buffer.put(0, "a")
        with pytest.raises(AssertionError):
            buffer.put(0, "b")

    asyncio.run(scenario())


def test_negative_staleness_is_refused():
    with pytest.raises(ValueError, match=r"loop\.max_staleness"):
        OrderedBuffer(-1)
