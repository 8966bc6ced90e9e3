"""Whose death an error tells of, with the errors that Ray raises."""

import pytest
from ray import exceptions

from launch.run.deaths import PartDied, actor_death, data_lost


def died(actor_id="ab12", text="died"):
    """An ActorDiedError as it arrives: Ray fills it from a message."""
    error = exceptions.ActorDiedError()
    error.actor_id, error.error_msg = actor_id, text
    return error


def raised_in_a_task(cause):
    wrapped = exceptions.RayTaskError("run", "Traceback ...", cause, actor_id="the one that lives")
    return wrapped.as_instanceof_cause()


def test_a_part_that_died_says_which_and_how_and_where_to_look():
    death = PartDied("learner 1", "died", "/logs/worker-17.err")
    assert str(death) == "learner 1 died; its log is /logs/worker-17.err"
    assert (death.part, death.how, death.log) == ("learner 1", "died", "/logs/worker-17.err")
    hung = PartDied("scheduler", "does not answer for 30 s", "/logs", "/run/stacks")
    assert str(hung).endswith("; logs are in /logs, and what each part was doing in /run/stacks")
    assert "\n" not in str(hung)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_the_one_that_died_is_found_however_many_waited_for_one_another(depth):
    error = died()
    for _ in range(depth):
        error = raised_in_a_task(error)
    assert actor_death(error).actor_id == "ab12"
    outer = RuntimeError("publish")
    outer.__cause__ = error
    assert actor_death(outer).actor_id == "ab12"


@pytest.mark.parametrize(
    ("text", "how"),
    [
        ("The actor is dead because its worker process has died. SYSTEM_ERROR", "died"),
        ("Task was killed due to the node running low on memory: the memory monitor", "memory"),
        ("The actor is dead because it was killed by `ray.kill`.", "was killed by this run"),
        ("an error raised in its creation task, ValueError", "could not start"),
        ("The actor died because its node has died.", "with its node"),
    ],
)
def test_how_it_died_is_taken_from_what_ray_says(text, how):
    assert how in actor_death(died(text=text)).how


def test_lost_data_are_told_from_deaths():
    lost = exceptions.ObjectReconstructionFailedError("ab12")
    assert data_lost(lost) and data_lost(raised_in_a_task(lost))
    assert actor_death(lost) is None and not data_lost(died())


def test_an_actor_out_of_reach_is_a_death_too():
    error = exceptions.ActorUnavailableError("connection reset", b"\xab" * 16)
    assert actor_death(error).how == "cannot be reached"
    assert actor_death(error).actor_id == "ab" * 16


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        TimeoutError(),
        exceptions.GetTimeoutError("late"),
        raised_in_a_task(ValueError("no")),
    ],
)
def test_other_errors_are_nobodys_death(error):
    assert actor_death(error) is None
