"""A reward that fails is refused before a run, told of during it, and ends it when it must."""

import asyncio
import logging
import os
import signal
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from conf.evaluation import EvaluationConfig, EvaluationSet
from cost.types import LengthReport, PlayEnd, RewardStatus
from launch.cli.refusals import UserError
from launch.cli.signals import SIGNALS, Interrupted, handled, interrupt
from launch.run.rewards import RESPONSE, RewardWatch, try_rewards
from rollout.config import RolloutConfig
from rollout.rewards.by_set import address
from rollout.rewards.chain import ChainReward
from rollout.rewards.function import FunctionReward
from rollout.tasks.chain import ChainTask
from rollout.types import Prompt

FILE = """
import os, signal, sys, time

def good(response_text, answer):
    print("good", flush=True)
    return 1

def fails(response_text, answer):
    return {"I know 5": 1.0}[response_text]

def nothing(response_text):
    print("nothing")

def late(response_text):
    time.sleep(3600)

def kills(response_text):
    os.kill(os.getpid(), signal.SIGKILL)

def kills_its_parent(response_text):
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(3600)

def leaves(response_text):
    os._exit(7)

class Leaves:
    def load(self):
        os._exit(7)

    def score(self, prompt_text, response_text, answer):
        return 1

def exits(response_text):
    sys.exit("enough")

def takes_level(response_text, level):
    return level
"""


@pytest.fixture(scope="module")
def rewards(tmp_path_factory):
    file = tmp_path_factory.mktemp("rewards") / "failing_rewards.py"
    file.write_text(FILE)
    return lambda name: FunctionReward(f"{file}:{name}")


def prompt(answer="5"):
    return Prompt(0, np.arange(2, dtype=np.int32), answer, "mine", "what is 2+3?")


def tried(reward, own=None, seconds=60.0):
    sets = {} if own is None else {"mine": EvaluationSet(task=ChainTask(), reward=own)}
    config = SimpleNamespace(
        reward=reward,
        evaluation=EvaluationConfig(sets=sets),
        rollout=RolloutConfig(reward_timeout_seconds=seconds),
    )
    mine = {name: [address(prompt(), name)] for name in sets}
    try_rewards(config, prompt(), {"held_out": [prompt()]} | mine)


@pytest.mark.parametrize(
    ("lacking", "place"), [("held_out", "held_out"), ("mine", "evaluation.sets.mine")]
)
def test_a_set_without_a_column_that_the_reward_takes_is_refused_before_the_run(
    lacking, place, rewards
):
    """Only the task's first prompt was tried: engines started, and the evaluation failed whole."""
    config = SimpleNamespace(
        reward=rewards("takes_level"),
        evaluation=EvaluationConfig(sets={"mine": EvaluationSet(task=ChainTask())}),
        rollout=RolloutConfig(),
    )
    full = replace(prompt(), columns={"level": 3})
    try_rewards(config, full, {"held_out": [full], "mine": [full]})
    with pytest.raises(UserError, match=rf"prompt 'what is 2\+3\?' of {place} got .*level that no"):
        try_rewards(config, full, {"held_out": [full], "mine": [full]} | {lacking: [prompt()]})


def test_a_reward_that_gives_a_number_passes_and_prints_nothing_on_stdout(rewards, capfd):
    tried(rewards("good"), own=ChainReward())
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("fails", rf"failing_rewards\.py:9: KeyError: '{RESPONSE}'$"),
        ("nothing", r"failing_rewards\.py:11: a reward must return a number.*got None; is there a"),
        (
            "late",
            r"0\.5 \(what takes longer once belongs .* got scoring took longer than 0\.5 seconds$",
        ),
        ("leaves", r"got the reward process ended with exit code 7$"),
        ("kills", r"got the reward process was ended by SIGKILL"),
        ("kills_its_parent", r"got the reward process was ended by SIGKILL"),
        ("exits", r"failing_rewards\.py:\d+: SystemExit: enough$"),
    ],
)
def test_one_that_fails_is_refused_in_one_line_with_file_line_and_exception(rewards, name, told):
    for key, reward, own in (
        ("reward", rewards(name), None),
        ("evaluation.sets.mine.reward", ChainReward(), rewards(name)),
    ):
        with pytest.raises(UserError, match=told) as refusal:
            tried(reward, own, seconds=0.5 if name == "late" else 60.0)
        assert str(refusal.value).startswith(f"{key} must give every response a number, 0.0 where")
        assert "\n" not in str(refusal.value) and "'what is 2+3?'" in str(refusal.value)


def test_one_that_does_not_load_is_refused(rewards):
    with pytest.raises(UserError, match=r"^reward must load .* ended with exit code 7 while"):
        tried(rewards("Leaves"))
    unpicklable = SimpleNamespace(score=lambda *texts: 1.0)
    with pytest.raises(UserError, match=r"^reward must be picklable, to reach its processes"):
        tried(unpicklable)


def test_a_signal_does_not_wait_for_one_that_hangs(rewards):
    before = {number: signal.getsignal(number) for number in SIGNALS}
    main = threading.main_thread().ident
    threading.Timer(2.0, signal.pthread_kill, [main, signal.SIGINT]).start()
    began = time.monotonic()
    try:
        with handled(interrupt), pytest.raises(Interrupted):
            tried(rewards("late"), seconds=300.0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert time.monotonic() - began < 60


def test_it_is_tried_from_within_an_event_loop_too(rewards):
    async def program():
        tried(rewards("good"))
        return os.getpid()

    assert asyncio.run(program()) == os.getpid()


def report(*status, failure="Traceback\nKeyError: 'lost'"):
    n = len(status)
    status = np.array(status, dtype=np.int64)
    rewards = np.where(status == 0, 1.0, np.nan)
    return LengthReport(
        0, 0, 3, 3, np.full(n, 4), np.zeros(n, bool), rewards, status, np.ones(n), np.arange(n),
        0.1, 0, reward_failure=failure if status.any() else "",
    )  # fmt: skip


OK, LATE, CRASHED = RewardStatus.OK, RewardStatus.TIMED_OUT, RewardStatus.CRASHED


def watch(**shares):
    return RewardWatch(RolloutConfig(**shares))


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (
            CRASHED,
            "the reward must not crash for a larger share than rollout.reward_max_crashed_share = "
            "0.5: correct it, or raise the share; it crashed for 3 of 4 responses of step 2; the "
            "first:\nTraceback\nKeyError: 'lost'",
        ),
        (
            LATE,
            "the reward must not be too slow for a larger share than "
            "rollout.reward_max_timed_out_share = 0.5: make it faster, raise "
            "rollout.reward_timeout_seconds = 10, or the share; it ran out of time for 3 of 4 "
            "responses of step 2; the first:\nTraceback\nKeyError: 'lost'",
        ),
    ],
)
def test_a_larger_share_of_failures_than_allowed_ends_the_run_with_the_first(status, told):
    reports = [report(OK, status), report(status, status)]
    with pytest.raises(UserError) as refusal:
        watch().look("step 2", reports)
    assert str(refusal.value) == told
    # The shares are of one kind each, and 1 allows all.
    watch().look("step 2", [report(OK, status)])
    watch(reward_max_crashed_share=1, reward_max_timed_out_share=1).look("step 2", reports)
    none = {
        CRASHED: {"reward_max_crashed_share": 0.0},
        LATE: {"reward_max_timed_out_share": 0.0},
    }[status]
    with pytest.raises(UserError, match="for 1 of 100 responses"):
        watch(**none).look("step 2", [report(status, *[OK] * 99)])


def test_what_does_not_end_a_run_is_told_once_a_kind_and_kept(caplog):
    looking = watch()
    with caplog.at_level(logging.WARNING):
        looking.look("step 1", [report(OK, OK)])
        assert caplog.messages == [] and looking.first == ""
        looking.look("step 2", [report(OK), report(OK, OK, CRASHED, failure="first")])
        looking.look("step 3", [report(OK, OK, CRASHED, failure="second")])
        looking.look("step 4", [report(OK, LATE, failure="late")])
        looking.look("step 5", [report(CRASHED)], stop=False)
    assert caplog.messages == [
        "the reward crashed for 1 of 4 responses of step 2, which are left out; the first:\nfirst",
        "the reward ran out of time for 1 of 2 responses of step 4, which are left out; the first:"
        "\nlate",
    ]
    assert looking.first == "first"


def test_plays_that_failed_are_not_the_rewards_fault(caplog):
    played = replace(report(CRASHED, failure="play"), ends=np.array([PlayEnd.FAILURE]))
    with pytest.raises(UserError, match=r"the environment must not crash .* it crashed for 1 of 1"):
        watch().look("step 1", [played])
    with caplog.at_level(logging.WARNING):
        watch().look("step 1", [played, report(OK)])
        watch().look("step 1", [played, report(CRASHED), report(OK, OK)])
    assert [text.partition(" crashed")[0] for text in caplog.messages] == [
        "the environment", "environment or reward",
    ]  # fmt: skip


def test_a_share_that_is_reached_to_the_last_digit_is_not_a_larger_one():
    """As a product, 0.29 of 100 is a little less than 29."""
    reports = [report(*[CRASHED] * 29, *[OK] * 71)]
    watch(reward_max_crashed_share=0.29).look("step 2", reports)


def test_a_batch_without_responses_says_nothing_about_the_reward():
    looking = watch(reward_max_crashed_share=0.0, reward_max_timed_out_share=0.0)
    looking.look("step 1", [report()])
    looking.look("step 1", [])
    assert looking.first == ""
