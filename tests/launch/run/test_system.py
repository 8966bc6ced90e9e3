"""Weights and their label, whatever engine dies whenever, with hand-written workers and engines."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest
import ray

from conf.schema import ParityConfig
from cost.types import LengthReport, Selection
from launch.cli.refusals import UserError
from launch.record.startup import Startup
from launch.run.layout import Layout
from launch.run.placement import Placement
from launch.run.system import System
from launch.study.simulation.clock import run
from learner.config import LearnerConfig
from learner.engine import StepOutcome
from learner.team import LearnerTeam
from learner.update import StepSums
from rollout.admission import Admission
from rollout.config import RolloutConfig
from rollout.joining import Room
from rollout.replacing import Actors
from rollout.types import GroupRef

PASSES, BATCHES = 2, 3
UPDATE, CONNECT, SEND, PROBE, START, GENERATE = 0.2, 0.1, 0.1, 0.05, 0.15, 0.3
LONGEST = BATCHES * (PASSES * UPDATE + SEND + PROBE + GENERATE) + 0.5


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    monkeypatch.setattr(ray, "kill", lambda engine: setattr(engine, "alive", False))


class Method:
    """An actor's method: `remote(...)` begins it, and gives something to await."""

    def __init__(self, function):
        self.remote = lambda *a, **named: asyncio.ensure_future(function(*a, **named))


class Gpus:
    """Those that learners and engines have in turn, or each for itself."""

    def __init__(self, shared=False):
        self.shared, self.full = shared, False
        self.num_slept = 0


class Engine:
    """Holds weights under a label; a new one holds nothing."""

    def __init__(self, gpus):
        self.alive, self.weights, self.label = True, None, None
        self.gpus, self.resident = gpus, False
        self.sleep = Method(self._sleep)
        self.generate_probe = Method(self._probe)
        self.score = Method(self._score)
        self.start, self.check = Method(self._start), Method(self._check)
        self.node = Method(self._node)

    async def _start(self):
        assert not self.gpus.full, "no room for its weights"
        self.resident = True
        await asyncio.sleep(START)
        assert not self.gpus.full, "no room for keys and values"
        await self._check()
        return {"total": START}

    async def _node(self):
        return "node"

    async def _sleep(self):
        await asyncio.sleep(PROBE)
        await self._check()
        self.weights, self.resident = None, False
        self.gpus.num_slept += 1

    async def _check(self):
        if not self.alive:
            raise ray.exceptions.RayError("the engine is dead")

    async def _probe(self, prompts, num_tokens, seed):
        await asyncio.sleep(PROBE)
        if not self.alive:
            raise ray.exceptions.RayError("the engine died in a probe")
        held = np.float32(-1 if self.weights is None else self.weights)
        return [(prompt, prompt, np.array([held])) for prompt in prompts]

    async def _score(self, pairs):
        found = await self._probe([prompt for prompt, _ in pairs], 1, 0)
        return [(logprobs, self.label) for *_, logprobs in found]


class Worker:
    """A learner that answers one call after the other; its weights count the updates."""

    def __init__(self, sent, gpus):
        self.weights, self.sent, self._group, self._last = 0, sent, [], None
        self.gpus, self.pool = gpus, None
        names = ("address", "connect_engines", "update", "publish", "logprobs", "release")
        for name in names:
            setattr(self, name, Method(self._in_turn(getattr(self, f"_{name}"))))

    def _in_turn(self, method):
        def remote(*arguments, **named):
            async def call(before):
                if before is not None:
                    await asyncio.wait([before])
                return await method(*arguments, **named)

            self._last = asyncio.create_task(call(self._last))
            return self._last

        return remote

    async def _address(self):
        return "here", 1

    async def _connect_engines(self, handles, address, port, **_):
        await asyncio.sleep(CONNECT)
        self._group = list(handles)

    async def _update(self, groups, selections, plans, version, progress):
        self.gpus.full = self.gpus.shared
        await asyncio.sleep(UPDATE)
        if self.gpus.shared:
            assert not any(engine.alive and engine.resident for engine in self.pool.handles)
        self.weights += 1
        outcome = StepOutcome(True, 1.0, 1e-6)
        return [StepSums(0.0, 1, 1, len(p.rows), {}, {}, outcome) for p in plans]

    async def _publish(self, version):
        await asyncio.sleep(SEND)
        if not all(engine.alive for engine in self._group):
            raise ray.exceptions.RayError("an engine died")
        assert not self.gpus.full, "engines have no room for weights"
        for engine in self._group:
            engine.weights, engine.label, engine.resident = self.weights, version, True
            self.sent.append((self.weights, version))
        return SEND, 8

    async def _release(self):
        self.gpus.full = False

    async def _logprobs(self, sequences, temperature=None):
        return [np.array([self.weights], np.float32) for _ in sequences]


class Pool:
    """The real replacement of engines that die, without tickets."""

    def __init__(self, num_engines, gpus, most=0):
        self._admission = Admission(num_engines, full=1, queued=0)
        settings = RolloutConfig(max_retries=100)
        self.actors = Actors(
            lambda index: Engine(gpus), num_engines, settings, self._admission,
            lambda index: None, Room(most=most),
        )  # fmt: skip

    async def start(self):
        await self.actors.start(lambda count: None)

    @property
    def handles(self):
        return self.actors.handles

    @property
    def usable(self):
        return [self._admission.is_open(index) for index in range(len(self.handles))]

    def die(self, index, *, noticed):
        engine = self.handles[index]
        engine.alive = False
        if noticed:
            self.actors.lose(index, engine, ray.exceptions.RayError("died"))


def one_group():
    one = np.ones(1)
    report = LengthReport(
        0, 0, 3, 3, np.array([4]), np.zeros(1, bool), one, np.zeros(1, int), one,
        np.zeros(1, int), 0.1, 0,
    )  # fmt: skip
    return [GroupRef(report, "data")], [Selection(0, one > 0, one, one, one)]


def make_system(num_engines, deadline_seconds=600.0, sleeps=False, most=0):
    sent, gpus = [], Gpus(shared=sleeps)
    team = LearnerTeam([Worker(sent, gpus)], LearnerConfig(num_minibatches=1), seed=0)
    pool = team.workers[0].pool = Pool(num_engines, gpus, most)
    config = SimpleNamespace(
        parity=ParityConfig(num_tokens=1, deadline_seconds=deadline_seconds),
        model=SimpleNamespace(dtype="float32", path="a model without a shape"),
        learner=SimpleNamespace(lora=SimpleNamespace(published_rank=0)),
        resources=SimpleNamespace(
            tensor_parallel_size=1, num_engines=1, num_learners=1, engines_sleep=sleeps
        ),
        loop=SimpleNamespace(publish_deadline_seconds=deadline_seconds),
    )
    prompt = SimpleNamespace(token_ids=np.array([1]))
    placement = Placement(Layout(num_engines, 1, 0, 0), [], None)
    system = System(config, placement, None, pool, team, [prompt], None)
    return system, pool, team, sent


async def connect(system):
    await system.learners.connect_engines(system.rollouts.handles, **system._transfer)


async def train(system, pool, team, deaths, noticed=True, num_engines=1):
    """Three batches of two passes each, while engines die at the given times."""
    loop = asyncio.get_running_loop()
    await pool.start()
    await connect(system)
    await team.publish(0)
    await system.probe()
    for number, at in enumerate(deaths):
        index = number % num_engines
        loop.call_at(loop.time() + at, lambda i=index: pool.die(i, noticed=noticed))
    groups, selections = one_group()
    for batch in range(BATCHES):
        await system.sleep()
        for epoch in range(PASSES):
            await team.update(groups, selections, step=batch, epoch=epoch)
        await system.publish(batch + 1)
        await asyncio.sleep(GENERATE)
    await asyncio.sleep(LONGEST)
    await system.checked()
    assert system.max_logprob_difference == 0.0


def assert_labels_are_of_their_weights(sent):
    assert [pair for pair in sent if pair[0] != PASSES * pair[1]] == []


TIMES = [round(0.025 + 0.05 * i, 3) for i in range(int(LONGEST / 0.05))]


@pytest.mark.parametrize("at", TIMES)
def test_a_replaced_engine_gets_the_learners_weights_under_their_own_label(at):
    system, pool, team, sent = make_system(1)
    run(train(system, pool, team, [at]))
    assert_labels_are_of_their_weights(sent)
    assert pool.usable == [True] and system.version == BATCHES
    assert (pool.handles[0].weights, pool.handles[0].label) == (PASSES * BATCHES, BATCHES)
    assert {label for _, label in sent} == set(range(BATCHES + 1))


@pytest.mark.parametrize("gap", [0.1, 0.45])
@pytest.mark.parametrize("noticed", [True, False])
def test_whatever_dies_when_labels_are_of_their_weights(gap, noticed):
    """Deaths of one engine again, or of both, which tickets notice or the next publish."""
    for num_engines in (1, 2):
        for at in TIMES[::5]:
            system, pool, team, sent = make_system(num_engines)
            run(train(system, pool, team, [at, at + gap], noticed, num_engines))
            assert_labels_are_of_their_weights(sent)
            assert pool.usable == [True] * num_engines
            assert {engine.label for engine in pool.handles} == {BATCHES}


@pytest.mark.parametrize("noticed", [True, False])
def test_who_shares_a_gpu_has_it_in_turn_whatever_dies_when(noticed):
    """Engines that sleep hold nothing while learners work; the dead start when there is room."""
    for num_engines in (1, 2):
        for at in TIMES[::2]:
            system, pool, team, sent = make_system(num_engines, sleeps=True)
            run(train(system, pool, team, [at, at + 0.45], noticed, num_engines))
            assert_labels_are_of_their_weights(sent)
            assert pool.usable == [True] * num_engines
            assert {engine.label for engine in pool.handles} == {BATCHES}
            assert all(engine.resident for engine in pool.handles)
            assert pool.handles[0].gpus.num_slept >= BATCHES * num_engines - 2


@pytest.mark.parametrize("gap", [None, 0.05, 0.2])
def test_an_engine_that_joins_gets_weights_under_their_label_whatever_dies_when(gap):
    """A second one comes at any moment, and the first may die soon after, with a replacement."""
    for at in TIMES[::3]:
        system, pool, team, sent = make_system(1, most=2)

        async def scenario(system=system, pool=pool, team=team, at=at):
            asyncio.get_running_loop().call_later(START + at, pool.actors.join)
            await train(system, pool, team, [] if gap is None else [at + gap])

        run(scenario())
        assert_labels_are_of_their_weights(sent)
        assert pool.usable == [True, True] and pool.actors.num_in_use == 2
        assert {(engine.weights, engine.label) for engine in pool.handles} == {
            (PASSES * BATCHES, BATCHES)
        }


def test_an_engine_that_does_not_fall_asleep_ends_the_run_naming_the_settings():
    async def scenario():
        system, pool, team, _ = make_system(1, deadline_seconds=7, sleeps=True)
        await connect(system)
        await team.publish(0)
        await system.sleep()
        await system.publish(1)
        pool.handles[0].sleep = Method(hang)
        await system.sleep()

    with pytest.raises(TimeoutError, match=r"loop\.publish_deadline_seconds = 7 \(resources\."):
        run(scenario())


def test_an_update_does_not_change_weights_that_are_being_sent():
    async def scenario():
        system, _, team, sent = make_system(1)
        await connect(system)
        await team.publish(0)
        sending = asyncio.create_task(system._republish())
        await asyncio.sleep(CONNECT / 2)
        await team.update(*one_group(), step=0)
        await sending
        return sent

    assert run(scenario()) == [(0, 0), (0, 0)]


def test_a_batch_of_which_nothing_is_kept_leaves_the_weights_their_name():
    async def scenario():
        system, _, team, sent = make_system(1)
        await connect(system)
        await team.publish(0)
        groups, [selection] = one_group()
        none = Selection(0, selection.keep & False, *[np.zeros(1)] * 3)
        await team.update(groups, [none], step=0)
        await system._republish()
        return sent

    assert run(scenario()) == [(0, 0), (0, 0)]


def test_an_engine_that_dies_unnoticed_is_replaced_by_the_publish_that_finds_it():
    system, pool, team, sent = make_system(2)
    run(train(system, pool, team, [0.1], False, 2))
    assert_labels_are_of_their_weights(sent)
    assert {engine.label for engine in pool.handles} == {BATCHES}


async def hang(*_):
    await asyncio.sleep(1000)


@pytest.mark.parametrize("who", ["engines", "learners"])
def test_a_probe_that_nobody_answers_ends_the_run_naming_the_setting(who):
    async def scenario():
        system, pool, team, _ = make_system(1, deadline_seconds=7)
        await connect(system)
        await team.publish(0)
        await system.probe()
        if who == "engines":
            pool.handles[0].score = Method(hang)
        else:
            team.workers[0].logprobs = Method(hang)
        await system.publish(1)
        await system.publish(2)

    found = rf"^version 1: the {who} did not .* parity\.deadline_seconds = 7$"
    with pytest.raises(TimeoutError, match=found):
        run(scenario())


def test_a_state_that_learners_cannot_have_is_for_the_user_to_change(tmp_path):
    """Such as one of adapters, where model.path is another model now."""

    async def unfit(folder):
        raise ValueError(f"the learner's state in {folder} does not fit: one was 1 and is 2")

    async def resume(*_):
        return []

    async def load():
        system, *_ = make_system(1)
        system.scheduler = SimpleNamespace(call=resume)
        system.learners.load_state = unfit
        await system.load(tmp_path, 3, [], {})

    with pytest.raises(UserError, match=r"^the learner's state in .* does not fit: .*is 2$"):
        run(load())


@pytest.mark.parametrize("fails", ["nodes", "pool", "engines", "learners"])
def test_a_start_that_fails_is_looked_into_before_what_was_started_ends(monkeypatch, fails):
    """Engines take their time to fail, so that the learners are there by then."""
    left, order, living = set(), [], []

    class Started:
        def __init__(self, name):
            self.handle, self.name = name, name
            left.add(name)
            order.append(name)

        def close(self):
            left.discard(self.name)

    async def finish(name, seconds, result):
        await asyncio.sleep(seconds)
        if fails == name:
            raise RuntimeError(f"{name} failed")
        return result

    class Pool(Started):
        handles = (0,)

        def start(self, ready):
            return finish("engines", 20, {})

        async def close(self):
            left.discard(self.name)

    async def reserved(*_, **__):
        started = Started("placement")
        layout = Layout(1, 1, 0, 0)
        return SimpleNamespace(layout=layout, release=started.close, nodes=list)

    def pool(**_):
        if fails == "pool":
            raise RuntimeError("pool failed")
        return Pool("engines")

    class Learners(Started):
        def start(self):
            return finish("learners", 10, None)

    class Health(Started):
        def start(self):
            pass

        async def guard(self, work):
            try:
                return await work
            finally:
                living.extend(sorted(left))

    checks = SimpleNamespace(check=lambda _: finish("nodes", 1, None), look_at=None)
    for name, stand_in in {
        "reserve": reserved,
        "NodeChecks": lambda _: checks,
        "start_scheduler": lambda *_: Started("scheduler"),
        "make_pool": pool,
        "create_learners": lambda *_: Learners("learners"),
        "Watch": lambda _: SimpleNamespace(health=Health("health"), rollouts=lambda pool: None),
    }.items():
        monkeypatch.setattr(f"launch.run.system.{name}", stand_in)
    monkeypatch.setattr(ray, "kill", left.discard)
    lora = SimpleNamespace(published_rank=0)
    config = SimpleNamespace(
        resources=None, rollout=None, learner=SimpleNamespace(lora=lora), parity=None
    )
    with pytest.raises(RuntimeError, match=rf"^{fails} failed$"):
        run(System.create(config, [], Startup(quiet=True)))
    assert left == set()
    assert living == sorted(order)
    assert ("learners" in order) == (fails in ("engines", "learners"))
