"""Which process of a trial is struck, with what, and when."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SIGNALS = ("SIGKILL", "SIGSTOP", "SIGTERM")
DRIVER = "driver"
TITLES = {
    "scheduler": "ray::SchedulerActor",
    "rollout actor": "ray::RolloutActor",
    "engine core": "VLLM::EngineCore",
    "learner": "ray::LearnerWorker",
}
"""How the titles of processes begin that name themselves."""
FORK_SERVER = "fork server"
"""Off which an engine's process is forked."""
PROGRAMS = {"raylet": "raylet", "gcs_server": "gcs"}
"""Programs of their own, by name, and what they are called here."""
REWARD = "reward"
PARTS = (
    *(DRIVER, "scheduler", "rollout actor", "engine core", FORK_SERVER, "learner"),
    *(*PROGRAMS.values(), REWARD),
)


@dataclass(frozen=True, slots=True)
class Strike:
    """A signal to one process of a run.

    Example: it comes to the learner when half of the third step's time is over.

        Strike(part="learner", signal="SIGKILL", step=3, share=0.5)
    """

    part: str
    """One of `PARTS`."""
    signal: str
    """One of `SIGNALS`."""
    step: int
    """In which it comes, from 1."""
    share: float
    """Of the time of a step after its begin, in [0, 1)."""


def strike_of(seed: int, trial: int, num_steps: int) -> Strike:
    """Return the strike of a trial, whatever the others are.

    Args:
        seed: Of the study.
        trial: From 1; so many trials as there are parts and signals have every pair once.
        num_steps: Of the run.
    """
    pairs = [(part, signal) for part in PARTS for signal in SIGNALS]
    turn, place = divmod(trial - 1, len(pairs))
    part, signal = pairs[np.random.default_rng([seed, turn]).permutation(len(pairs))[place]]
    moment = np.random.default_rng([seed, turn, place])
    return Strike(part, signal, int(moment.integers(1, num_steps + 1)), float(moment.random()))


def part_of(command: str) -> str:
    """Return the part that a process is by its command line or title; "" for none of `PARTS`."""
    for part, title in TITLES.items():
        if command.startswith(title):
            return part
    if "-m rollout.rewards.child " in command:
        return REWARD
    if "from multiprocessing.forkserver import main" in command:
        return FORK_SERVER
    program = command.partition(" ")[0].rpartition("/")[2]
    return PROGRAMS.get(program, "")
