"""Checks that run beside the loop: as sharp as those that are waited for, one version later."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest
import ray

from conf.schema import ParityConfig
from launch.run.parity import ParityError, pairs_of
from launch.run.parity_checks import ParityChecks
from launch.study.simulation.clock import run

PROMPT, RESPONSE = np.array([1, 2], np.int32), np.array([3, 4, 5], np.int32)


class Method:
    """An actor's method, which begins when it is called."""

    def __init__(self, function):
        self.remote = lambda *arguments: asyncio.ensure_future(function(*arguments))


class Engine:
    """Holds a number for weights, under a label, and takes a while to answer."""

    def __init__(self, seconds=1.0):
        self.weights, self.label, self.seconds, self.error, self.dead = 0.0, 0, seconds, None, False
        self.generate_probe, self.score = Method(self._probe), Method(self._score)
        self.check = Method(self._check)

    async def _probe(self, prompts, num_tokens, seed):
        await asyncio.sleep(self.seconds)
        logprobs = np.full(len(RESPONSE), self.weights, np.float32)
        return [(prompt, RESPONSE, logprobs) for prompt in prompts]

    async def _score(self, pairs):
        await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        scores = [np.full(len(response), self.weights, np.float32) for _, response in pairs]
        return [(found, self.label) for found in scores]

    async def _check(self):
        if self.dead:
            raise ray.exceptions.RayError("it is dead")


class Learners:
    """Answers by the weights that it has when it is asked, as workers that take turns do."""

    def __init__(self, engines):
        self.weights, self.engines, self.asked, self.lost = 0.0, engines, [], set()

    def logprobs(self, pairs, temperature=None):
        self.asked.append((temperature, [response.tolist() for _, response in pairs]))
        found = [np.full(len(response), self.weights, np.float32) for _, response in pairs]

        async def answer():
            await asyncio.sleep(0.1)
            return found

        return answer()

    async def publish(self, version):
        for number, engine in enumerate(self.engines):
            engine.label = version
            if number not in self.lost:
                engine.weights = self.weights

    async def disturb_weights(self):
        self.weights += 1.0

    async def restore_weights(self):
        self.weights -= 1.0


def flops_of(pairs):
    return 10.0 * len(pairs)


def make(num_engines=2, dtype="float32", scoring=True, **settings):
    engines = [Engine() for _ in range(num_engines)]
    pool = SimpleNamespace(actors=SimpleNamespace(holders=engines))
    checks = ParityChecks(
        ParityConfig(**settings), dtype, [PROMPT] * 4, pool, flops_of, scoring=scoring
    )
    return checks, Learners(engines), engines


def group_of(*lengths, prompt=PROMPT):
    tokens = [np.arange(length, dtype=np.int32) for length in lengths]
    return SimpleNamespace(
        prompt=SimpleNamespace(token_ids=prompt),
        trajectories=[SimpleNamespace(token_ids=ids) for ids in tokens],
    )


def refs(*groups):
    async def data(group):
        return group

    return [SimpleNamespace(data=None if g is None else data(g)) for g in groups]


async def started(checks, learners):
    await checks.self_test(learners, lambda: learners.publish(0))


async def version(number, checks, learners):
    learners.weights += 0.1
    await learners.publish(number)
    await checks.begin(number, learners)


def test_where_engines_cannot_score_a_fresh_probe_is_waited_for_at_once():
    async def scenario():
        checks, learners, engines = make(scoring=False)
        for engine in engines:
            engine.score = None
        await started(checks, learners)
        await version(1, checks, learners)
        assert checks.metrics()["parity/max_logprob_difference"] == pytest.approx(0, abs=1e-6)
        await checks.finish()
        assert checks.metrics() == {}
        # An engine that does not follow is seen before anything goes on.
        engines[1].weights -= 1.0
        with pytest.raises(ParityError):
            await checks.begin(2, learners)

    run(scenario())


def test_nobody_waits_for_a_check_and_it_is_of_the_weights_at_the_publish():
    async def scenario():
        checks, learners, _ = make()
        await started(checks, learners)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await version(1, checks, learners)
        assert loop.time() == began
        # The next update, which changes what learners would answer now.
        learners.weights += 5.0
        await checks.finish()
        assert loop.time() == pytest.approx(began + 1.0)
        assert checks.largest == pytest.approx(0, abs=1e-6)
        assert checks.metrics() == {
            "parity/max_logprob_difference": checks.largest,
            "parity/mean_logprob_difference": 0.0,
            "parity/flops": 40.0,
        }
        assert checks.metrics() == {}
        assert learners.asked[-1] == (1.0, [RESPONSE.tolist()] * 4)

    run(scenario())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("lost", [{0}, {1}, {0, 1}])
def test_an_engine_that_keeps_what_it_had_ends_the_run_before_the_next_version(dtype, lost):
    async def scenario():
        checks, learners, _ = make(dtype=dtype)
        await started(checks, learners)
        learners.lost = lost
        await version(1, checks, learners)
        with pytest.raises(ParityError, match=r"^version 1: .* the engine does not hold the publi"):
            await checks.finish()
        assert checks.largest == pytest.approx(0.1)
        # It is said once: what can still be saved is.
        await checks.finish()

    run(scenario())


def test_an_engine_that_does_not_follow_at_start_is_seen_there():
    async def scenario():
        checks, learners, _ = make()
        learners.lost = {1}
        with pytest.raises(ParityError, match=r"^start-up self-test with disturbed weights: "):
            await started(checks, learners)

    run(scenario())


def test_an_engine_that_died_or_was_replaced_is_left_to_the_next_check():
    async def scenario():
        checks, learners, engines = make()
        await started(checks, learners)
        engines[0].error, engines[0].dead = ray.exceptions.RayError("died"), True
        await version(1, checks, learners)
        await checks.finish()
        engines[0].error, engines[0].dead = None, False
        await version(2, checks, learners)
        # In its place comes one with the weights to come.
        engines[0].weights, engines[0].label = 9.0, 3
        await checks.finish()
        assert checks.largest == pytest.approx(0, abs=1e-6)
        # Dead ones alone show nothing, and the one that lives is still compared.
        engines[1].weights = 7.0
        await checks.begin(2, learners)
        with pytest.raises(ParityError, match=r"^version 2"):
            await checks.finish()

    run(scenario())


def test_an_engine_that_lives_and_cannot_score_ends_the_run():
    async def scenario():
        checks, learners, engines = make()
        await started(checks, learners)
        engines[1].error = ray.exceptions.RayError("no such thing")
        await version(1, checks, learners)
        with pytest.raises(ray.exceptions.RayError, match="no such thing"):
            await checks.finish()

    run(scenario())


def test_an_engine_that_does_not_answer_is_named_with_the_setting():
    async def scenario():
        checks, learners, engines = make(deadline_seconds=7)
        await started(checks, learners)
        engines[1].seconds = 1000.0
        await version(3, checks, learners)
        await checks.finish()

    found = r"^version 3: the engines did not .* parity\.deadline_seconds = 7$"
    with pytest.raises(TimeoutError, match=found):
        run(scenario())


def test_a_check_whose_waiter_is_cancelled_is_left_to_whoever_waits_next():
    async def scenario():
        checks, learners, _ = make()
        await started(checks, learners)
        learners.lost = {1}
        await version(1, checks, learners)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await checks.finish()
        with pytest.raises(ParityError, match=r"^version 1: "):
            await checks.finish()

    run(scenario())


def test_only_versions_whose_turn_it_is_are_checked():
    async def scenario():
        checks, learners, _ = make(every=2)
        await started(checks, learners)
        checks.metrics()
        told = []
        for number in range(1, 5):
            await version(number, checks, learners)
            await checks.finish()
            told.append(bool(checks.metrics()))
        return told

    assert run(scenario()) == [False, True, False, True]


def test_what_is_scored_comes_from_the_batch_that_was_learned():
    async def scenario():
        checks, learners, _ = make(num_sequences=3, num_tokens=2)
        await started(checks, learners)
        await checks.choose(1, refs(None, group_of(5, 1), group_of(4)))
        await version(1, checks, learners)
        await checks.finish()
        assert learners.asked[-1] == (1.0, [[0, 1], [0, 1], [0]])
        # Of a batch without responses there is nothing to take.
        await checks.choose(2, refs(None, None))
        await version(2, checks, learners)
        await checks.finish()
        assert learners.asked[-1] == (1.0, [[0, 1], [0, 1], [0]])

    run(scenario())


def test_of_a_batch_whose_version_is_not_checked_nothing_is_fetched():
    async def scenario():
        checks, learners, _ = make(every=2)
        await started(checks, learners)
        await checks.choose(1, [SimpleNamespace(data=None), SimpleNamespace(data="not awaitable")])
        with pytest.raises(TypeError):
            await checks.choose(2, [SimpleNamespace(data="not awaitable")])

    run(scenario())


def test_responses_are_taken_from_as_many_groups_as_there_are():
    groups = [group_of(3, 2), group_of(0, 4), group_of(5)]
    lengths = [len(response) for _, response in pairs_of(groups, 10, 4)]
    assert lengths == [3, 4, 2, 4]
    assert [len(response) for _, response in pairs_of(groups, 2, 4)] == [3, 4]
    assert pairs_of([], 4, 4) == []


def test_a_check_that_is_told_of_after_a_checkpoint_is_told_by_the_run_that_goes_on():
    async def scenario():
        checks, learners, _ = make(dtype="bfloat16")
        await started(checks, learners)
        await version(1, checks, learners)
        await checks.finish()
        state = checks.state_dict()
        other, learners, _ = make(dtype="bfloat16")
        await started(other, learners)
        other.load_state_dict(state)
        assert other.state_dict() == state == checks.state_dict()
        assert other.metrics() == checks.metrics() != {}

    run(scenario())
