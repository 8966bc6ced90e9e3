import asyncio
import importlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cost.types import RewardStatus
from rollout.rewards.pool import HopelessRewardError, RewardPool
from tests.places import PROJECT


@pytest.fixture(scope="module")
def rewards():
    # Under a name of its own, so that the pool's processes can import it too.
    sys.path.insert(0, str(Path(__file__).parent))
    yield importlib.import_module("rewards_that_fail")
    sys.path.remove(str(Path(__file__).parent))


def run(reward, use, **settings):
    async def main():
        pool = RewardPool(reward, **settings)
        try:
            return await asyncio.wait_for(use(pool), 60)
        finally:
            pool.close()

    return asyncio.run(main())


def items(*responses):
    return [("question", response, "answer") for response in responses]


def test_scores_come_back_in_order_from_warm_processes(rewards):
    async def use(pool):
        await pool.start()
        return await pool.score(items(*(f"response {i}" for i in range(20))))

    scored = run(rewards.Obedient(), use, num_processes=2)
    assert [s.score.extracted for s in scored] == [f"response {i}" for i in range(20)]
    assert {s.status for s in scored} == {RewardStatus.OK}
    assert {s.error for s in scored} == {""}
    assert len({s.score.components["pid"] for s in scored}) == 2


def test_rewards_run_in_the_main_thread_of_a_light_process(rewards):
    scored = run(rewards.Obedient(), lambda pool: pool.score(items("any")))[0]
    assert scored.score.components["main_thread"] == 1.0
    assert scored.score.components["torch"] == 0.0
    assert scored.score.components["pid"] != os.getpid()


@pytest.mark.parametrize("response", ["sleep", "spin in C", "ignore signals"])
def test_a_hanging_reward_is_killed_and_the_others_go_on(rewards, response):
    async def use(pool):
        await pool.start()
        before = time.monotonic()
        scored = await pool.score(items("one", response, "two", "three"))
        return scored, time.monotonic() - before, await pool.score(items("four", "five"))

    scored, seconds, later = run(rewards.Obedient(), use, num_processes=2, timeout_seconds=0.5)
    assert [s.status for s in scored] == [
        RewardStatus.OK,
        RewardStatus.TIMED_OUT,
        RewardStatus.OK,
        RewardStatus.OK,
    ]
    assert scored[1].score is None
    assert scored[1].error == "scoring took longer than 0.5 seconds"
    assert 0.5 <= seconds < 5
    assert {s.status for s in later} == {RewardStatus.OK}


def test_an_answer_that_came_while_the_event_loop_stood_is_in_time(rewards):
    async def use(pool):
        await pool.start()
        scoring = asyncio.create_task(pool.score(items("any")))
        # Enough turns of the loop for the question to be sent; then it stands past the deadline.
        for _ in range(10):
            await asyncio.sleep(0)
        time.sleep(1.0)
        return await scoring

    assert run(rewards.Obedient(), use, timeout_seconds=0.3)[0].status == RewardStatus.OK


def test_after_too_many_time_outs_in_a_row_it_gives_up(rewards):
    async def use(pool):
        # An outcome of any other kind in between begins the row anew.
        texts = ["sleep", "sleep", "one", "sleep", "sleep", "exit", "sleep", "sleep"]
        scored = await pool.score(items(*texts))
        assert [s.status for s in scored].count(RewardStatus.TIMED_OUT) == 6
        await pool.score(items("sleep"))

    told = (
        r"longer than rollout\.reward_timeout_seconds = 0\.2 for 3 responses in a row; .*'sleep'$"
    )
    with pytest.raises(HopelessRewardError, match=told):
        run(rewards.Obedient(), use, timeout_seconds=0.2, max_late_in_a_row=2)


def test_after_too_many_processes_that_ended_in_a_row_it_gives_up(rewards):
    async def use(pool):
        texts = ["exit", "exit", "one", "exit", "exit", "sleep", "exit", "exit"]
        scored = await pool.score(items(*texts))
        assert [s.status for s in scored].count(RewardStatus.CRASHED) == 6
        await pool.score(items("exit"))

    told = r"^the reward must not end .* with exit code 3 for 3 responses in a row; .*'exit'$"
    with pytest.raises(HopelessRewardError, match=told):
        run(rewards.Obedient(), use, timeout_seconds=2, max_dead_in_a_row=2)


def test_killed_processes_are_gone(rewards):
    async def use(pool):
        first = (await pool.score(items("any")))[0].score.components["pid"]
        await pool.score(items("sleep"))
        second = (await pool.score(items("any")))[0].score.components["pid"]
        return int(first), int(second)

    first, second = run(rewards.Obedient(), use, timeout_seconds=0.3)
    assert first != second
    for pid in (first, second):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_an_exception_is_a_crash_with_its_traceback(rewards):
    scored = run(rewards.Obedient(), lambda pool: pool.score(items("raise", "fine")))
    assert scored[0].status == RewardStatus.CRASHED
    assert scored[0].score is None
    assert "rewards_that_fail.py" in scored[0].error
    assert scored[0].error.endswith("KeyError: 'lost'\n")
    assert scored[1].status == RewardStatus.OK


@pytest.mark.parametrize(
    ("response", "told"),
    [
        ("exit", "ended with exit code 3"),
        ("fork and exit", "ended with exit code 0"),
        ("segfault", "was ended by SIGSEGV"),
        ("kill me", "was ended by SIGKILL (by itself, or for want of memory)"),
        ("kill my parent", "was ended by SIGKILL (by itself, or for want of memory)"),
        ("kill my group", "was ended by SIGKILL (by itself, or for want of memory)"),
        ("ask my parent to end", "was ended by SIGTERM"),
    ],
)
def test_a_process_that_dies_is_a_crash_and_is_replaced(rewards, response, told):
    scored = run(rewards.Obedient(), lambda pool: pool.score(items("one", response, "two")))
    assert [s.status for s in scored] == [RewardStatus.OK, RewardStatus.CRASHED, RewardStatus.OK]
    assert scored[1].error == scored[1].summary == f"the reward process {told}"


def test_a_process_that_dies_idle_is_replaced_and_no_response_is_charged(rewards):
    async def use(pool):
        first = await pool.score(items("kill me later"))
        await asyncio.sleep(1)
        return first + await pool.score(items("where"))

    assert {s.status for s in run(rewards.Obedient(), use)} == {RewardStatus.OK}


def test_a_reward_that_stops_its_parent_is_killed_all_the_same(rewards):
    scored = run(
        rewards.Obedient(),
        lambda pool: pool.score(items("stop my parent", "two")),
        timeout_seconds=0.5,
    )
    assert [s.status for s in scored] == [RewardStatus.TIMED_OUT, RewardStatus.OK]


def test_what_a_reward_does_to_its_process_does_not_reach_the_next_response(rewards):
    async def use(pool):
        scored = await pool.score(items("change the folder", "where", "alarm", "nap"))
        return scored + await pool.score(items("fork and go on", "one", "two"))

    scored = run(rewards.Obedient(), use)
    assert {s.status for s in scored} == {RewardStatus.OK}
    assert scored[1].score.extracted == os.getcwd()
    assert [s.score.extracted for s in scored[4:]] == ["fork and go on", "one", "two"]


def test_it_works_where_the_end_of_children_is_ignored(rewards):
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        scored = run(
            rewards.Obedient(),
            lambda pool: pool.score(items("one", "kill me", "sleep", "two")),
            timeout_seconds=0.5,
        )
    finally:
        signal.signal(signal.SIGCHLD, before)
    expected = [RewardStatus.OK, RewardStatus.CRASHED, RewardStatus.TIMED_OUT, RewardStatus.OK]
    assert [s.status for s in scored] == expected


@pytest.mark.parametrize("end", ["sleep", "exit", None])
def test_what_a_reward_started_ends_with_its_process(rewards, end):
    async def use(pool):
        scored = await pool.score(items("leave daemons"))
        if end:
            await pool.score(items(end))
        return scored[0].score.extracted.split()

    pids = run(rewards.Obedient(), use, timeout_seconds=0.5)
    assert len(pids) == 2
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []


@pytest.mark.parametrize(
    ("response", "told"),
    [
        ("sys.exit", "SystemExit: 4"),
        ("raise", "KeyError: 'lost'"),
        ("raise no Exception", "KeyboardInterrupt: mine"),
        ("print to a closed stdout", "ValueError: I/O operation on closed file."),
        ("return None", "a reward must return a number, .* got None; is there a way"),
    ],
)
def test_a_crash_says_in_one_line_where_and_what(rewards, response, told):
    scored = run(rewards.Obedient(), lambda pool: pool.score(items(response)))[0]
    assert scored.status == RewardStatus.CRASHED
    place, line, what = re.fullmatch(r"(.*):(\d+): (.*)", scored.summary).groups()
    assert place == rewards.__file__
    assert re.match(told, what)
    source = Path(place).read_text().splitlines()[int(line) - 1]
    expected = {
        "sys.exit": "sys.exit(4)",
        "raise": 'raise KeyError("lost")',
        "raise no Exception": 'raise KeyboardInterrupt("mine")',
        "print to a closed stdout": 'print("to nobody")',
        "return None": "def score(self, prompt_text, response_text, answer):",
    }
    assert source.strip() == expected[response]
    assert "rollout/rewards/child.py" not in scored.error


def test_a_long_traceback_is_cut_to_whole_lines_below_where_and_what(rewards):
    scored = run(rewards.Obedient(), lambda pool: pool.score(items("raise far below")))[0]
    first, dots, second, *_ = scored.error.splitlines()
    assert first == scored.summary and first.endswith("KeyError: 'lost'")
    assert dots == "  ..." and second.startswith(("  File", "    "))
    assert 3000 < len(scored.error) < 5000


def test_a_score_that_is_not_finite_is_a_crash(rewards):
    scored = run(rewards.Obedient(), lambda pool: pool.score(items("not a number")))[0]
    assert scored.status == RewardStatus.CRASHED
    assert "a score's reward must be finite, got nan" in scored.error


def test_printing_disturbs_neither_answers_nor_what_the_program_prints(rewards, capfd):
    scored = run(rewards.Obedient(), lambda pool: pool.score(items("print", "fine")))
    assert {s.status for s in scored} == {RewardStatus.OK}
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("concurrency", [1, 16])
def test_waiting_for_a_process_does_not_count(rewards, concurrency):
    settings = {"timeout_seconds": 0.8, "concurrency": concurrency}
    scored = run(rewards.Obedient(), lambda p: p.score(items(*["nap"] * 4)), **settings)
    assert {s.status for s in scored} == {RewardStatus.OK}


def test_the_event_loop_stays_free(rewards):
    async def use(pool):
        await pool.start()
        scoring = asyncio.create_task(pool.score(items("sleep", "nap", "nap")))
        ticks, longest, last = 0, 0.0, time.monotonic()
        while not scoring.done():
            await asyncio.sleep(0.005)
            now = time.monotonic()
            longest, last, ticks = max(longest, now - last), now, ticks + 1
        return ticks, longest

    ticks, longest = run(rewards.Obedient(), use, num_processes=2, timeout_seconds=1.0)
    assert ticks > 50
    assert longest < 0.3


def test_long_responses_pass(rewards):
    text = "\N{SNOWMAN}" * 300_000
    scored = run(rewards.Obedient(), lambda pool: pool.score(items(text)))[0]
    assert scored.score.extracted == text


def test_a_cancelled_call_leaves_the_pool_usable(rewards):
    async def use(pool):
        await pool.start()
        scoring = asyncio.create_task(pool.score(items("sleep")))
        await asyncio.sleep(0.2)
        scoring.cancel()
        await asyncio.gather(scoring, return_exceptions=True)
        return await pool.score(items("fine"))

    assert run(rewards.Obedient(), use)[0].score.extracted == "fine"


def test_a_reward_loads_once_in_its_own_time_and_is_asked_for_nothing_else(rewards):
    scored = run(rewards.Loading(), lambda pool: pool.score(items("a", "b")), timeout_seconds=0.5)
    assert [each.score.extracted for each in scored] == ["load a", "load a b"]


def test_a_reward_that_cannot_be_loaded_is_an_error_with_its_traceback(rewards):
    for use in (lambda pool: pool.start(), lambda pool: pool.score(items("any"))):
        with pytest.raises(RuntimeError, match=r"(?s)cannot load the reward.*invalid literal"):
            run(rewards.Unloadable(), use)


def test_a_closed_pool_says_so(rewards):
    async def use(pool):
        await pool.start()
        pool.close()
        return await pool.score(items("any"))

    with pytest.raises(RuntimeError, match=r"the reward pool is closed"):
        run(rewards.Obedient(), use)


def test_processes_die_with_their_parent():
    program = (
        "import asyncio, os, signal, sys\n"
        "from rollout.rewards.pool import RewardPool\n"
        "from rewards_that_fail import Obedient\n"
        "async def main():\n"
        "    pool = RewardPool(Obedient())\n"
        "    pid = (await pool.score([('', 'any', '')]))[0].score.components['pid']\n"
        "    print(int(pid), flush=True)\n"
        "    asyncio.create_task(pool.score([('', 'spin in C', '')]))\n"
        "    await asyncio.sleep(0.3)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    path = os.pathsep.join([str(PROJECT), str(Path(__file__).parent)])
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    pid = int(result.stdout)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        # An orphan that nobody reaps stays in the table as a zombie.
        if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_processes": 0}, "num_processes must be at least 1, got 0"),
        ({"concurrency": 0}, "concurrency must be at least 1, got 0"),
        ({"timeout_seconds": 0.0}, "timeout_seconds must be positive, got 0.0"),
    ],
)
def test_settings_out_of_range_are_refused(rewards, settings, message):
    with pytest.raises(ValueError, match=message):
        RewardPool(rewards.Obedient(), **settings)
