"""Time limits that signs put off, in simulated time."""

import asyncio

import pytest

from launch.study.simulation import clock
from rollout.silence import SilenceLimit


def spent(waits, seconds=10.0):
    """Wait so long before every sign, then for ever; returns when it was over."""

    async def scenario():
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(TimeoutError):
            async with SilenceLimit(seconds) as patience:
                for wait in waits:
                    await asyncio.sleep(wait)
                    patience.heard()
                await asyncio.Event().wait()
        return loop.time() - began

    return clock.run(scenario())


@pytest.mark.parametrize("waits", [[], [3.0], [9.0] * 5, [0.1] * 1000, [9.0, 0.0, 0.0]])
def test_it_is_over_so_long_after_the_last_sign(waits):
    assert spent(waits) == pytest.approx(sum(waits) + 10.0)


def test_a_sign_that_comes_too_late_changes_nothing():
    assert spent([11.0]) == pytest.approx(10.0)


def test_what_ends_in_time_leaves_no_timer_and_its_own_errors_pass():
    async def scenario():
        loop = asyncio.get_running_loop()
        async with SilenceLimit(10.0):
            await asyncio.sleep(9.0)
        with pytest.raises(KeyError):
            async with SilenceLimit(10.0):
                raise KeyError
        await asyncio.sleep(100.0)
        return loop.time()

    clock.run(scenario())


def test_a_thousand_signs_touch_no_timer():
    async def scenario():
        loop = asyncio.get_running_loop()
        async with SilenceLimit(10.0) as patience:
            timer = patience._timer
            for _ in range(1000):
                patience.heard()
            assert patience._timer is timer
            await asyncio.sleep(9.0)
            patience.heard()
            await asyncio.sleep(9.0)
            assert loop.time() >= 18.0

    clock.run(scenario())
