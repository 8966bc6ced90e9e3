"""Every pair has its turn, whichever trials were run before; titles say which part a process is."""

import pytest

from launch.study.chaos.strikes import PARTS, SIGNALS, part_of, strike_of


def test_each_pair_comes_once_in_a_turn():
    turn = len(PARTS) * len(SIGNALS)
    for first in (1, 1 + turn):
        strikes = [strike_of(3, trial, 6) for trial in range(first, first + turn)]
        assert {(each.part, each.signal) for each in strikes} == {
            (part, signal) for part in PARTS for signal in SIGNALS
        }


def test_moments_reach_every_step_and_all_of_its_time():
    strikes = [strike_of(0, trial, 6) for trial in range(1, 500)]
    assert {each.step for each in strikes} == set(range(1, 7))
    assert all(0 <= each.share < 1 for each in strikes)
    assert min(each.share for each in strikes) < 0.02
    assert max(each.share for each in strikes) > 0.98


def test_a_strike_depends_on_seed_and_trial_alone():
    assert strike_of(5, 17, 6) == strike_of(5, 17, 6)
    assert [strike_of(5, k, 6) for k in range(1, 9)] != [strike_of(6, k, 6) for k in range(1, 9)]


@pytest.mark.parametrize(
    ("command", "part"),
    [
        ("ray::SchedulerActor", "scheduler"),
        ("ray::RolloutActor.generate", "rollout actor"),
        ("VLLM::EngineCore", "engine core"),
        ("python -c from multiprocessing.forkserver import main; main(9, 11)", "fork server"),
        ("ray::LearnerWorker.update", "learner"),
        (
            "/lib/ray/core/src/ray/raylet/raylet --raylet_socket_name=/tmp/x --y gcs_server",
            "raylet",
        ),
        ("/lib/ray/core/src/ray/gcs/gcs_server --log_dir=/tmp/raylet", "gcs"),
        ("/bin/python -m rollout.rewards.child 50 6971", "reward"),
        ("ray::IDLE", ""),
        ("/bin/python -m launch.train name=raylet", ""),
        ("", ""),
    ],
)
def test_titles_name_parts(command, part):
    assert part_of(command) == part
