"""Room at engines: bounded, always full, nobody overtakes."""

import asyncio

import numpy as np
import pytest

from rollout.admission import Admission


def opened(num_engines, **settings):
    admission = Admission(num_engines, **settings)
    for index in range(num_engines):
        admission.open(index)
    return admission


@pytest.mark.parametrize("queued", [0, 3, 20])
@pytest.mark.parametrize("num_engines", [1, 3])
@pytest.mark.parametrize("largest", [1, 8, 40])
def test_engines_are_full_while_anybody_waits_and_never_beyond_the_bound(
    queued, num_engines, largest
):
    full, rng = 16, np.random.default_rng(0)
    sizes = rng.integers(1, largest + 1, size=200).tolist()

    async def scenario():
        admission = opened(num_engines, full=full, queued=queued)
        running, admitted = [], []

        async def work(place, size):
            index = await admission.enter(place, size)
            admitted.append(place)
            running.append([index, size])

        tasks = [asyncio.create_task(work(place, size)) for place, size in enumerate(sizes)]
        loads = np.zeros(num_engines, int)
        while len(admitted) < len(sizes) or running:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            loads[:] = 0
            for index, left in running:
                loads[index] += left
            assert loads.max() <= max(full + queued, full - 1 + largest)
            if len(admitted) < len(sizes):
                assert loads.min() >= full
            chosen = running[rng.integers(len(running))]
            chosen[1] -= 1
            admission.leave(chosen[0], 1)
            if not chosen[1]:
                running.remove(chosen)
        await asyncio.gather(*tasks)
        assert admitted == list(range(len(sizes)))

    asyncio.run(scenario())


def test_a_lower_place_goes_first_whenever_it_comes():
    async def scenario():
        admission, order = opened(1, full=1, queued=0), []

        async def work(place):
            index = await admission.enter(place, 1)
            order.append(place)
            admission.leave(index, 1)

        assert await admission.enter(0, 1) == 0
        tasks = [asyncio.create_task(work(place)) for place in (5, 7, 2, 9)]
        await asyncio.sleep(0)
        admission.leave(0, 1)
        await asyncio.gather(*tasks)
        assert order == [2, 5, 7, 9]

    asyncio.run(scenario())


def test_a_closed_engine_gets_nothing_and_those_who_wait_go_to_the_first_that_opens():
    async def scenario():
        admission = Admission(2, full=4, queued=0)
        waiting = [asyncio.create_task(admission.enter(k, 2)) for k in range(2)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        admission.open(1)
        assert await asyncio.gather(*waiting) == [1, 1]
        admission.close(1)
        admission.open(0)
        assert await admission.enter(2, 2) == 0
        assert admission.is_open(0) and not admission.is_open(1)

    asyncio.run(scenario())


def test_who_gives_up_waiting_leaves_no_trace():
    async def scenario():
        admission = opened(1, full=1, queued=0)
        await admission.enter(0, 1)
        waits, admitted, last = (
            asyncio.create_task(admission.enter(place, 1)) for place in (1, 2, 3)
        )
        await asyncio.sleep(0)
        waits.cancel()
        await asyncio.sleep(0)
        admission.leave(0, 1)
        # Its room is given, but it is given up before it hears of that.
        admitted.cancel()
        assert await last == 0
        assert waits.cancelled() and admitted.cancelled()

    asyncio.run(scenario())


def test_those_behind_one_who_gives_up_waiting_go_at_once():
    async def scenario():
        admission = opened(1, full=4, queued=2)
        await admission.enter(0, 4)
        large, small = (asyncio.create_task(admission.enter(*who)) for who in ((1, 3), (2, 2)))
        await asyncio.sleep(0)
        assert not small.done()
        large.cancel()
        # Nobody leaves meanwhile.
        async with asyncio.timeout(60):
            assert await small == 0

    asyncio.run(scenario())


def test_who_gives_up_ends_so_also_where_a_failure_was_on_its_way():
    async def scenario():
        admission = Admission(1, full=1, queued=0)
        waiting = asyncio.create_task(admission.enter(0, 1))
        await asyncio.sleep(0)
        admission.fail(RuntimeError("no replacement"))
        waiting.cancel()
        await asyncio.wait({waiting})
        assert waiting.cancelled()

    asyncio.run(scenario())


def test_a_failure_is_raised_in_all_who_wait_and_all_who_come():
    async def scenario():
        admission = Admission(1, full=1, queued=0)
        waiting = asyncio.create_task(admission.enter(0, 1))
        await asyncio.sleep(0)
        admission.fail(RuntimeError("no replacement"))
        for each in (waiting, admission.enter(1, 1)):
            with pytest.raises(RuntimeError, match="no replacement"):
                await each

    asyncio.run(scenario())


@pytest.mark.parametrize("num_engines", [1, 4, 9])
def test_whoever_enters_gets_the_open_engine_with_the_fewest_responses(num_engines):
    rng = np.random.default_rng(num_engines)

    async def scenario():
        admission = Admission(num_engines, full=1000, queued=0)
        load, opened = np.zeros(num_engines), np.zeros(num_engines, bool)
        for _ in range(500):
            kind, index, size = (
                rng.random(),
                int(rng.integers(num_engines)),
                int(rng.integers(1, 5)),
            )
            if kind < 0.5 and opened.any():
                found = await admission.enter(0, size)
                assert found == np.where(opened, load, np.inf).argmin()
                load[found] += size
            elif kind < 0.8 and load[index]:
                admission.leave(index, 1)
                load[index] -= 1
            elif kind < 0.95:
                admission.open(index)
                opened[index] = True
            else:
                admission.close(index)
                opened[index] = False

    asyncio.run(scenario())


def test_an_engine_that_is_added_has_nobody_until_it_is_opened_and_then_those_that_wait():
    async def scenario():
        admission = opened(1, full=1, queued=0)
        assert await admission.enter(0, 1) == 0
        waiting = asyncio.create_task(admission.enter(1, 1))
        admission.add()
        await asyncio.sleep(0)
        assert not waiting.done() and not admission.is_open(1) and admission.num_open == 1
        admission.open(1)
        assert await waiting == 1 and admission.num_open == 2
        admission.close(0)
        assert admission.num_open == 1

    asyncio.run(scenario())
