"""Event loops that stand for processes: who works, and what an hour takes."""

import asyncio

import pytest

from launch.study.bench.cpu_clock import CpuClock
from launch.study.bench.processes import Processes
from launch.study.simulation.clock import StuckError


class Worked:
    """CPU seconds that work takes by saying so."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds

    def work(self, seconds):
        self.seconds += seconds


def run(main):
    """Run a coroutine function in the first; return its answer, and seconds by process."""
    worked = Worked()
    cpu = CpuClock(worked)
    processes = Processes("first", ("second", "third"), cpu)
    cpu.turn("first")
    answer = processes.run(main(processes, worked.work))
    return answer, cpu.take()


def test_work_counts_for_the_process_that_does_it_whoever_asks():
    async def third(work):
        work(5.0)

    async def second(processes, work):
        work(2.0)
        await processes["third"].call(third, work)
        work(0.5)
        return "answer"

    async def main(processes, work):
        asked = [processes["second"].call(second, processes, work) for _ in range(3)]
        work(1.0)
        answers = await asyncio.gather(*asked)
        work(10.0)
        return answers

    answer, seconds = run(main)
    assert answer == ["answer"] * 3
    assert {name: s for name, s in seconds.items() if s} == {
        "first": 11.0,
        "second": 7.5,
        "third": 15.0,
    }


def test_time_is_the_same_in_all_of_them_and_an_hour_takes_none():
    async def wait(seconds):
        await asyncio.sleep(seconds)
        return asyncio.get_running_loop().time()

    async def main(processes, _):
        waits = [processes["second"].call(wait, 3600.0), processes["third"].call(wait, 10.0)]
        seen = []
        for wanted in (waits[1], asyncio.sleep(20.0), waits[0]):
            await wanted
            seen.append(asyncio.get_running_loop().time())
        return seen, [answer.result() for answer in waits]

    (seen, theirs), _ = run(main)
    assert seen == pytest.approx([10.0, 30.0, 3600.0])
    assert theirs == pytest.approx([3600.0, 10.0])


def test_an_error_comes_to_whoever_asked_and_what_is_given_up_goes_on_unheard():
    done = []

    async def fail():
        raise KeyError("mine")

    async def slow():
        await asyncio.sleep(5.0)
        done.append(True)

    async def main(processes, _):
        with pytest.raises(KeyError, match="mine"):
            await processes["second"].call(fail)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await processes["second"].call(slow)
        await asyncio.sleep(10.0)

    run(main)
    assert done == [True]


def test_what_will_never_happen_is_told():
    async def never():
        await asyncio.Event().wait()

    async def main(processes, _):
        await processes["second"].call(never)

    with pytest.raises(StuckError):
        run(main)
