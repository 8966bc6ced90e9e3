"""Asynchronous rewards score as others do, in a reward process of their own."""

import asyncio

import pytest

from cost.types import RewardStatus
from rollout.rewards.awaited import finished
from rollout.rewards.by_set import RewardBySet
from rollout.rewards.function import FunctionReward
from rollout.rewards.pool import HopelessRewardError, RewardPool
from rollout.rewards.types import Score
from rollout.rewards.weighted_sum import WeightedSum

FILE = """
import asyncio
import os
import time

LOOPS = set()
HERE = []

async def scores(response_text, answer):
    LOOPS.add(asyncio.get_running_loop())
    await asyncio.sleep(1000 if response_text == "late" else 0)
    if response_text == "wrong":
        await fails()
    if response_text == "exit":
        raise SystemExit(3)
    if response_text == "nothing":
        return None
    return {"score": float(response_text.endswith(answer)), "loops": len(LOOPS)}

async def fails():
    await asyncio.sleep(0)
    raise KeyError("no such thing")

async def of_lists(completions, answer, **others):
    found = await asyncio.gather(*map(scores, completions, answer))
    return [one["score"] for one in found]

class Judge:
    async def score(self, prompt_text, response_text, answer):
        return await scores(response_text, answer)

async def in_company(response_text):
    # All that may be scored beside it have begun by the time it ends.
    HERE.append(response_text)
    at_once = len(HERE)
    await asyncio.sleep(0.5)
    if response_text == "late":
        await asyncio.sleep(1000)
    if response_text == "deaf":
        time.sleep(1000)
    if response_text == "dies":
        os._exit(3)
    if response_text == "exits within":
        await asyncio.gather(exits())
    HERE.remove(response_text)
    return {"score": 1.0, "at_once": at_once, "pid": os.getpid()}

async def exits():
    raise SystemExit(3)

async def blocks(response_text):
    time.sleep(0.4)
    return 1.0

async def leaves_late(response_text):
    try:
        await asyncio.sleep(1000)
    finally:
        await asyncio.sleep(1000)
"""


@pytest.fixture
def reward(tmp_path):
    """A reward of the file above, by name."""
    file = tmp_path / "asynchronous.py"
    file.write_text(FILE)
    return lambda name: FunctionReward(f"{file}:{name}")


def scored(reward, *responses, seconds=20.0, **settings):
    async def main():
        pool = RewardPool(reward, timeout_seconds=seconds, **settings)
        try:
            return await pool.score([("2+3", response, "5") for response in responses])
        finally:
            pool.close()

    return asyncio.run(main())


@pytest.mark.parametrize("name", ["scores", "Judge"])
@pytest.mark.parametrize("wrapped", [lambda one: one, lambda one: RewardBySet(one, {})])
def test_what_a_coroutine_returns_is_the_score(reward, name, wrapped):
    found = scored(wrapped(reward(name)), "it is 5", "it is 6", "it is 5")
    # One event loop for all of them, so that what is kept open in it stays.
    assert [one.score for one in found] == [
        Score(reward, {"loops": 1.0}) for reward in (1.0, 0.0, 1.0)
    ]


def test_parts_of_a_sum_fail_and_come_late_as_the_sum(reward):
    both = WeightedSum(parts={"one": reward("scores"), "two": reward("Judge")}, weights={"two": 2})
    found = scored(both, "it is 5", "wrong", "late", "it is 5", seconds=3.0)
    assert [one.status for one in found] == [
        RewardStatus.OK, RewardStatus.CRASHED, RewardStatus.TIMED_OUT, RewardStatus.OK,
    ]  # fmt: skip
    assert found[0].score.reward == 3.0 and found[1].summary.endswith("KeyError: 'no such thing'")
    assert found[0].score.components.keys() == {"one", "one/loops", "two", "two/loops"}


def test_a_function_of_lists_may_be_asynchronous(reward):
    assert [one.score.reward for one in scored(reward("of_lists"), "is 5", "is 6")] == [1.0, 0.0]


def test_one_that_waits_for_ever_is_killed_and_the_next_is_scored(reward):
    late, good = scored(reward("scores"), "late", "it is 5", seconds=3.0)
    assert (late.status, good.status) == (RewardStatus.TIMED_OUT, RewardStatus.OK)


def test_one_that_raises_has_crashed_and_is_told_with_its_line(reward, capfd):
    found = scored(reward("scores"), "wrong", "exit", "nothing", "it is 5")
    line = FILE.splitlines().index('    raise KeyError("no such thing")') + 1
    assert [one.status for one in found] == [RewardStatus.CRASHED] * 3 + [RewardStatus.OK]
    assert found[0].summary.endswith(f"asynchronous.py:{line}: KeyError: 'no such thing'")
    assert "SystemExit: 3" in found[1].summary
    assert "a reward must return a number" in found[2].summary
    assert "never" not in capfd.readouterr().err


def test_what_is_not_awaitable_stays_and_what_is_raises_here():
    async def broken():
        raise ValueError("broken")

    assert finished(3.0) == 3.0
    with pytest.raises(ValueError, match=r"^broken$"):
        finished(broken())


def test_a_process_scores_several_that_wait_but_no_more_than_it_may(reward):
    found = scored(reward("in_company"), *"abcdefgh", concurrency=4)
    assert max(one.score.components["at_once"] for one in found) == 4
    assert len({one.score.components["pid"] for one in found}) == 1
    found = scored(reward("in_company"), *"abcdefgh", concurrency=4, num_processes=2)
    assert len({one.score.components["pid"] for one in found}) == 2
    found = scored(reward("in_company"), *"ab", concurrency=1)
    assert [one.score.components["at_once"] for one in found] == [1.0, 1.0]


def test_of_several_a_late_one_is_given_up_and_its_process_goes_on(reward):
    found = scored(reward("in_company"), "a", "late", "b", "c", concurrency=3, seconds=2.0)
    assert [one.status for one in found] == [
        RewardStatus.OK,
        RewardStatus.TIMED_OUT,
        RewardStatus.OK,
        RewardStatus.OK,
    ]
    assert len({one.score.components["pid"] for one in found if one.score}) == 1


@pytest.mark.parametrize(
    ("response", "status", "told"),
    [
        ("dies", RewardStatus.CRASHED, "the reward process ended with exit code 3"),
        ("deaf", RewardStatus.TIMED_OUT, "scoring took longer than 2.0 seconds"),
        ("exits within", RewardStatus.CRASHED, "SystemExit: 3"),
    ],
)
def test_of_several_only_the_one_that_ends_or_blocks_their_process_is_charged(
    reward, response, status, told
):
    found = scored(reward("in_company"), "a", response, "b", "c", concurrency=4, seconds=2.0)
    ok = RewardStatus.OK
    assert [one.status for one in found] == [ok, status, ok, ok]
    assert told in found[1].summary


def test_what_blocks_before_it_waits_is_scored_alone_and_in_its_own_time(reward):
    found = scored(reward("blocks"), *"abcde", concurrency=16, seconds=1.5)
    assert [one.score for one in found] == [Score(1.0)] * 5


def test_one_that_will_not_be_cancelled_is_given_up_all_the_same(reward):
    found = scored(reward("leaves_late"), "a", "b", concurrency=2, seconds=0.4)
    assert [one.status for one in found] == [RewardStatus.TIMED_OUT] * 2


def test_those_that_are_late_side_by_side_count_as_one_in_a_row(reward):
    late = reward("leaves_late")
    found = scored(late, *"abcdefgh", concurrency=4, seconds=0.4, max_late_in_a_row=2)
    assert [one.status for one in found] == [RewardStatus.TIMED_OUT] * 8
    with pytest.raises(HopelessRewardError, match="for 9 responses in a row"):
        scored(late, *"abcdefghi", concurrency=4, seconds=0.4, max_late_in_a_row=2)
