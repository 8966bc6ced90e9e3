"""A system without a cluster: the real scheduler in this process, engines and learners by hand.

Responses are a function of seed, ticket and the weights that made them; weights are a function of
all that was learned, in order, with the weights of every response. Two runs that end with the same
weights have learned the same from the same.
"""

import asyncio
import hashlib
import json
import os
from pathlib import Path

import numpy as np

from cost.draws.streams import generator_for
from cost.scheduler.actor import SchedulerActor
from cost.types import LengthReport
from launch.run.system import RemoteScheduler
from rollout.types import Group, GroupRef, Prompt, Trajectory, VersionSpan


class Data:
    """Stands in for a Ray reference."""

    def __init__(self, group: Group) -> None:
        self.group = group

    def __await__(self):
        yield from asyncio.sleep(0).__await__()
        return self.group


def make_scheduler(config, prompts):
    return LocalScheduler(
        SchedulerActor(
            config.scheduler,
            np.array([len(p.token_ids) for p in prompts]),
            [p.source for p in prompts],
            config.rollout.max_tokens,
            config.seed,
            max_staleness=config.loop.max_staleness,
        )
    )


class LocalScheduler(RemoteScheduler):
    """The actor's methods without Ray, which answer after a while."""

    dies_at = None
    """A method, and which call of it kills the scheduler."""

    def on_event(self):
        """Hear of every call."""

    def __init__(self, actor):
        self.actor, self.calls = actor, {}

    async def call(self, method, *arguments):
        self.calls[method] = self.calls.get(method, 0) + 1
        self.on_event()
        if self.dies_at == (method, self.calls[method]):
            from launch.run.deaths import PartDied

            raise PartDied("scheduler", "was killed", "/logs")
        await asyncio.sleep(0)
        return await getattr(self.actor, method)(*arguments)


class Rollouts:
    """Makes groups that depend on the weights, the later tickets of a few first."""

    num_retries, num_replaced, num_in_flight, num_in_use = 0, 0, 0, 1

    def __init__(self, system, seed):
        self.system, self.seed = system, seed
        self.made = []

    def signs(self):
        return 0

    async def run(self, ticket, prompt):
        weights, version = self.system.published
        self.system.scheduler.on_event()
        for _ in range(1 + 3 * (3 - ticket.ticket_id % 4)):
            await asyncio.sleep(0)
        rng = generator_for(self.seed, "test", ticket.ticket_id, int(weights[:8], 16))
        n = ticket.num_samples
        lengths = rng.integers(1, ticket.max_tokens + 1, n)
        rewards = (rng.random(n) < 0.5).astype(float)
        trajectories = tuple(
            Trajectory(
                rng.integers(3, 60, length).astype(np.int32),
                np.ones(length, bool),
                -rng.random(length).astype(np.float32),
                (VersionSpan(0, int(length), version),),
                bool(length == ticket.max_tokens),
                3,
            )
            for length in lengths
        )
        status = np.zeros(n, np.int64)
        group = Group(
            ticket, prompt, trajectories, rewards, {"correct": rewards}, status, ("7",) * n, 0.5
        )
        report = LengthReport(
            ticket.ticket_id, ticket.prompt_index, len(prompt.token_ids), 3 * n, lengths,
            lengths == ticket.max_tokens, rewards, status, lengths * 0.2, np.arange(n), 0.5,
            version, attempt=ticket.attempt,
        )  # fmt: skip
        self.made.append((ticket.ticket_id, ticket.attempt))
        self.system.scheduler.on_event()
        await self.system.scheduler.actor.observe(report)
        return GroupRef(report, Data(group))

    async def evaluate(self, ticket, prompt, sampling):
        n = ticket.num_samples
        return LengthReport(
            ticket.ticket_id, ticket.prompt_index, 3, 3, np.full(n, 4), np.zeros(n, bool),
            np.arange(n) % 2.0, np.zeros(n, np.int64), np.ones(n), np.arange(n), 0.1, 0,
        )  # fmt: skip


class Learners:
    """Weights that are a digest of all that was learned."""

    dies_at = None
    """The step whose update kills a learner."""

    def __init__(self):
        self.weights, self.saved, self._written = "0" * 64, [], None

    async def update(self, groups, selections, *, step, epoch, progress):
        if step == self.dies_at:
            from launch.run.deaths import PartDied

            type(self).dies_at = None
            raise PartDied("learner 0", "was killed", "/logs")
        digest = hashlib.sha256(f"{self.weights} {step} {epoch}".encode())
        for group, selection in zip(groups, selections, strict=True):
            data = await group.data
            digest.update(repr((group.report.ticket_id, data.ticket.probability)).encode())
            digest.update(selection.weight.tobytes() + selection.keep.tobytes())
            for trajectory in data.trajectories:
                digest.update(trajectory.token_ids.tobytes())
                digest.update(trajectory.rollout_logprobs.tobytes())
        await asyncio.sleep(0)
        self.weights = digest.hexdigest()
        return {"learner/loss": int(self.weights[:6], 16) / 2**24}

    async def gradient_norms(self, groups, *, layer):
        return [np.sqrt(group.report.surprise) for group in groups]

    async def snapshot(self, folder):
        (Path(folder) / "learner.json").write_text(json.dumps(self.weights))
        return 0.0

    async def written(self):
        await asyncio.sleep(0)

    async def load_state(self, folder):
        self.weights = json.loads((Path(folder) / "learner.json").read_text())

    async def save(self, path, tokenizer_path):
        self.saved.append(os.path.basename(path))
        Path(path).mkdir(parents=True, exist_ok=True)
        (Path(path) / "weights").write_text(self.weights)


class LocalSystem:
    """What `launch.run.system.System` is for a training run."""

    max_logprob_difference = 0.0

    def __init__(self, config, prompts: list[Prompt]):
        self.startup_seconds: dict[str, float] = {}
        self.shared_gpus = 0
        self.scheduler = make_scheduler(config, prompts)
        self.learners, self.rollouts = Learners(), Rollouts(self, config.seed)
        self.version, self.published = 0, (self.learners.weights, 0)
        self.resets = []

    async def guard(self, work):
        return await work

    async def checked(self):
        pass

    async def sleep(self):
        pass

    async def publish(self, version, groups=()):
        self.scheduler.on_event()
        await asyncio.sleep(0)
        self.scheduler.on_event()
        self.version, self.published = version, (self.learners.weights, version)
        return {"publish/seconds": 0.0}

    def give_up(self, death):
        self.learners_lost = death.part.startswith("learner")

    async def reset(self, config, prompts):
        self.resets.append(self.learners_lost)
        self.scheduler, self.learners = make_scheduler(config, prompts), Learners()
        self.rollouts.num_retries = 0
        await self.publish(0)

    async def load(self, folder, version, held, state):
        path = str(folder / "scheduler.npz")
        undone = await self.scheduler.call("resume", path, version, held)
        await self.learners.load_state(folder / "learner")
        await self.publish(version)
        return undone

    def state_dict(self):
        return {}

    async def close(self):
        pass
