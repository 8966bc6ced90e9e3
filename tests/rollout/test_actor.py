"""The actor: the permuted control, temperatures, branches and seeds."""

import asyncio
import os
import subprocess
import sys
import uuid
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import rollout.actor as actor_module
from cost.types import RewardStatus, Ticket
from rollout.actor import RolloutActor, permute_rewards, request_seed
from rollout.config import OverlongConfig, RolloutConfig
from rollout.cores import OwnCores
from rollout.environments import SingleTurn
from rollout.environments.branching import EntropyBranching
from rollout.environments.bridge import Bridge
from rollout.environments.turns import End, Reply, TurnEnvironment, TurnPlayer
from rollout.rewards.pool import ScoredResponse
from rollout.rewards.types import Score
from rollout.stopping import Stopping
from rollout.types import Completion, Sampling, VersionSpan
from tests.places import CHAIN_MODEL
from tests.rollout.groups import PROMPT, TICKET, make_group, make_trajectory


def test_permuting_moves_rewards_with_their_status_and_nothing_else():
    rewards, status = [0.0, 1.0, np.nan], [0, 0, 2]
    group = make_group([make_trajectory([0.5] * k) for k in (1, 2, 3)], rewards, status)
    seen = set()
    for seed in range(30):
        shuffled = permute_rewards(group, seed)
        assert shuffled.trajectories == group.trajectories
        pairs = list(zip(shuffled.rewards.tolist(), shuffled.reward_status.tolist(), strict=True))
        assert sorted(s for _, s in pairs) == [0, 0, 2]
        assert all(np.isnan(r) == (s == 2) for r, s in pairs)
        seen.add(tuple(np.nan_to_num(shuffled.rewards, nan=-1.0)))
    assert len(seen) == 6


class FakeEngine:
    """Says yes, and remembers how it was asked."""

    def __init__(self):
        self.requests = []

    async def generate(self, token_ids, *, max_tokens, sampling, seed):
        self.requests.append((max_tokens, sampling, seed))
        one = np.ones(1, np.int32)
        return Completion(one, np.zeros(1, np.float32), "stop", (VersionSpan(0, 1, 0),), 0)


@pytest.fixture
def sampled_at():
    """How the engine is asked for the responses of a ticket in a run at temperature 0.7."""

    async def observe(report):
        return None

    async def score(items):
        crashed = ScoredResponse(None, RewardStatus.CRASHED, "Traceback")
        return [crashed for _ in items]

    def requests(ticket):
        scheduler = SimpleNamespace(observe=SimpleNamespace(remote=observe))
        config = RolloutConfig(temperature=0.7)
        actor = RolloutActor(config, {}, SingleTurn(), None, scheduler, 3)
        actor._engine = FakeEngine()
        actor._rewards = SimpleNamespace(score=score)
        actor._tokenizer = SimpleNamespace(decode=lambda ids, **_: "yes")
        actor._stopping = Stopping(())
        report, group = asyncio.run(actor.run(ticket, PROMPT))
        # Whoever reads the report learns why there are no rewards.
        expected = "Traceback\nprompt: 'question'\nanswer: '1'\nresponse: 'yes'"
        assert report.reward_failure == group.reward_failure == expected
        return actor._engine.requests

    return requests


def test_an_exploring_ticket_is_sampled_at_its_temperature_and_others_at_the_run_s(sampled_at):
    plain = sampled_at(TICKET)
    assert [(tokens, sampling) for tokens, sampling, _ in plain] == [(16, Sampling(0.7))] * 3
    exploring = sampled_at(replace(TICKET, temperature_factor=1.2))
    assert exploring == [(tokens, Sampling(0.7 * 1.2), seed) for tokens, _, seed in plain]


def test_a_group_begun_for_one_run_is_never_reported_to_the_next():
    """A cancelled ticket may come to its end all the same."""
    told = {"first": [], "second": []}

    def scheduler(name):
        async def observe(report):
            told[name].append(report.ticket_id)

        return SimpleNamespace(observe=SimpleNamespace(remote=observe))

    class Slow(FakeEngine):
        async def generate(self, token_ids, **settings):
            actor.attach(RolloutConfig(), scheduler("second"), 4)
            return await super().generate(token_ids, **settings)

    async def score(items):
        return [ScoredResponse(None, RewardStatus.CRASHED, "") for _ in items]

    actor = RolloutActor(RolloutConfig(), {}, SingleTurn(), None, scheduler("first"), 3)
    actor._engine, actor._rewards = Slow(), SimpleNamespace(score=score)
    actor._tokenizer = SimpleNamespace(decode=lambda ids, **_: "yes")
    actor._stopping = Stopping(())
    asyncio.run(actor.run(TICKET, PROMPT))
    assert told == {"first": [TICKET.ticket_id], "second": []}
    asyncio.run(actor.run(TICKET, PROMPT))
    assert told == {"first": [TICKET.ticket_id], "second": [TICKET.ticket_id]}


def test_the_next_run_shapes_rewards_in_its_own_way():
    """The responses have 1 of 16 tokens, all of which are the buffer."""

    async def observe(report):
        pass

    async def score(items):
        return [ScoredResponse(Score(1.0), RewardStatus.OK, "") for _ in items]

    scheduler = SimpleNamespace(observe=SimpleNamespace(remote=observe))
    actor = RolloutActor(RolloutConfig(), {}, SingleTurn(), None, scheduler, 3)
    actor._engine, actor._rewards = FakeEngine(), SimpleNamespace(score=score)
    actor._tokenizer = SimpleNamespace(decode=lambda ids, **_: "yes")
    actor._stopping = Stopping(())
    assert asyncio.run(actor.run(TICKET, PROMPT))[1].rewards == pytest.approx([1.0] * 3)
    dapo = RolloutConfig(overlong=OverlongConfig(buffer_share=1.0))
    actor.attach(dapo, scheduler, 3)
    assert asyncio.run(actor.run(TICKET, PROMPT))[1].rewards == pytest.approx([15 / 16] * 3)


def test_groups_branch_in_training_and_never_in_an_evaluation():
    """The actor plays on from nodes, with seeds and reports of each response's own."""

    async def observe(report):
        pass

    class Once:
        async def reset(self, prompt):
            self.asked = 0

        async def step(self, response):
            self.asked += 1
            return End(reward=1.0) if self.asked == 2 else Reply(token_ids=[9, 9])

    class Unsure(FakeEngine):
        async def generate(self, token_ids, **settings):
            completion = await super().generate(token_ids, **settings)
            surprise = 5.0 if len(token_ids) > len(PROMPT.token_ids) else 0.0
            return replace(completion, rollout_logprobs=np.full(1, -surprise, np.float32))

    scheduler = SimpleNamespace(observe=SimpleNamespace(remote=observe))
    config = RolloutConfig(branching=EntropyBranching(beta=0.0))
    tokenizer = SimpleNamespace(decode=lambda ids, **_: "yes")
    player = TurnPlayer(TurnEnvironment(Once()), Bridge(tokenizer), Stopping(()))
    actor = RolloutActor(config, {}, player, None, scheduler, 3)
    actor._engine, actor._tokenizer, actor._stopping = Unsure(), tokenizer, Stopping(())
    ticket = replace(TICKET, num_samples=4)
    report, _ = asyncio.run(actor.run(ticket, PROMPT))
    assert report.inherited_tokens.tolist() == [0, 0, 1, 1]
    assert report.entropy_changes.tolist() == [5.0] * 4 and report.lengths.tolist() == [4] * 4
    assert report.generated_tokens == report.prefill_tokens + 2 * 2 + 2 * 1
    assert report.prefill_tokens == 2 * 5 + 4 * 8 and (report.rewards == 1).all()
    assert len({seed for *_, seed in actor._engine.requests}) == 6
    assert report.num_turns.tolist() == [2] * 4
    apart = asyncio.run(actor.evaluate(ticket, PROMPT, Sampling(1.0)))
    assert apart.inherited_tokens.tolist() == [0] * 4


class Coin:
    """A fair coin a call, tossed from the request's seed as an engine samples."""

    async def generate(self, token_ids, *, max_tokens, sampling, seed):
        side = np.random.default_rng(seed).integers(2, size=1).astype(np.int32)
        logprob = np.log(np.full(1, 0.5, np.float32))
        return Completion(side, logprob, "stop", (VersionSpan(0, 1, 0),), 0)


class ManyTurns:
    """Tosses again and again, each time after what came before; the tosses are the play."""

    def __init__(self, num_turns):
        self.num_turns = num_turns

    async def play(self, generate, prompt, max_tokens):
        ids, sides = prompt.token_ids, []
        for _ in range(self.num_turns):
            tossed = (await generate(ids, 1)).token_ids
            sides.append(int(tossed[0]))
            ids = np.concatenate([ids, tossed, [7]]).astype(np.int32)
        return tuple(sides)


def plays(num_turns, *, num_tickets, num_samples, first=0, seed=0, attempt=0):
    """The tosses [ticket, response, turn] of a run."""
    actor = RolloutActor(RolloutConfig(), {}, ManyTurns(num_turns), None, None, seed)
    actor._engine = Coin()

    async def scenario():
        return [
            [
                await actor._play(
                    Ticket(first + k, 0, num_samples, 1.0, 1.0, 9, attempt=attempt), PROMPT, 1.0, j
                )
                for j in range(num_samples)
            ]
            for k in range(num_tickets)
        ]

    return np.asarray(asyncio.run(scenario()))


# Ids of training tickets fit one word of a seed sequence, those of evaluations do not.
@pytest.mark.parametrize("first", [0, 2**62])
def test_turns_responses_and_tickets_have_chances_of_their_own(first):
    tossed = plays(3, num_tickets=300, num_samples=3, first=first)
    variables = tossed.reshape(300, 9).T
    found = np.corrcoef(variables)
    # Independent coins correlate by 1 / sqrt(300) = 0.058 on average; copies by 1.
    assert np.abs(found - np.eye(9)).max() < 0.25
    assert np.abs(variables.mean(axis=1) - 0.5).max() < 0.12
    assert abs(np.corrcoef(tossed[:-1].ravel(), tossed[1:].ravel())[0, 1]) < 0.1


def test_a_play_is_a_function_of_run_ticket_response_and_turn():
    tossed = plays(4, num_tickets=40, num_samples=2)
    assert np.array_equal(tossed, plays(4, num_tickets=40, num_samples=2, attempt=2))
    # A later turn changes nothing about those before it, nor a later response.
    assert np.array_equal(tossed[:, :1, :2], plays(2, num_tickets=40, num_samples=1))
    assert not np.array_equal(tossed, plays(4, num_tickets=40, num_samples=2, seed=1))
    assert not np.array_equal(tossed, plays(4, num_tickets=40, num_samples=2, first=1))


def test_seeds_of_all_turns_differ():
    ids = [*range(5), *range(2**62, 2**62 + 5)]
    every = [
        request_seed(run, ticket_id, position, turn)
        for run in (0, 1)
        for ticket_id in ids
        for position in range(5)
        for turn in range(5)
    ]
    assert len(set(every)) == len(every)
    assert request_seed(3, 7, 2, 0) == np.random.SeedSequence([3, 7, 2]).generate_state(1)[0]


def test_requests_without_seeds_take_the_engine_s_stream():
    engine = FakeEngine()
    actor = RolloutActor(RolloutConfig(seeded=False), {}, SingleTurn(), None, None, 0)
    actor._engine = engine
    asyncio.run(actor._play(TICKET, PROMPT, 1.0, 0))
    assert [seed for *_, seed in engine.requests] == [None]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_an_engine_on_cpus_keeps_to_a_core_of_its_own_and_one_on_gpus_does_not(monkeypatch):
    async def nothing():
        pass

    monkeypatch.setattr(actor_module, "RewardPool", lambda *_, **__: SimpleNamespace(start=nothing))
    anywhere = os.sched_getaffinity(0)
    for arguments, on_cpu in (({"distributed_executor_backend": "uni"}, True), ({}, False)):
        actor = RolloutActor(RolloutConfig(), arguments, SingleTurn(), None, None, 0)
        actor._build = lambda: None
        actor._engine = SimpleNamespace(warm_up=nothing)
        actor._cores = OwnCores(1, f"test {uuid.uuid4()}")
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as engine:
            actor._processes = SimpleNamespace(complete=lambda: None, pids=[engine.pid])
            asyncio.run(actor.start())
            kept = os.sched_getaffinity(engine.pid)
            assert (len(kept) == 1) if on_cpu else (kept == anywhere)
            engine.kill()
        actor._cores.free()


@pytest.mark.parametrize("stuck", [True, False])
def test_an_engine_that_does_not_leave_its_transfer_group_is_of_no_use(monkeypatch, stuck):
    monkeypatch.setattr(actor_module, "LEAVE_SECONDS", 0.05)

    async def leave():
        if stuck:
            await asyncio.sleep(60)
        raise ValueError("no weights")

    actor = RolloutActor(RolloutConfig(), {}, SingleTurn(), None, None, 3)
    actor._engine = SimpleNamespace(leave_weight_transfer=leave)
    assert actor.fault(1.0) == ""
    reason = "after 0.05 s it still waits for some" if stuck else "no weights"
    with pytest.raises(RuntimeError, match=f"cannot take other weights: {reason}"):
        asyncio.run(actor.leave_weight_transfer())
    assert actor.fault(1.0).endswith(reason)


def test_engines_take_the_chat_template_and_the_stops_that_are_set(monkeypatch):
    bound = []
    environment = SimpleNamespace(for_policy=lambda tokenizer, _: bound.append(tokenizer))
    engine = SimpleNamespace(VLLMEngine=lambda *_, **__: None)
    monkeypatch.setitem(sys.modules, "rollout.engines.vllm_engine", engine)
    monkeypatch.setattr("rollout.engines.importing.begin_importing", lambda *_: None)
    arguments, kwargs = {"model": str(CHAIN_MODEL)}, {"add_generation_prompt": True}
    actor = RolloutActor(RolloutConfig(), arguments, environment, None, None, 3, kwargs, ["####"])
    actor._build()
    assert actor._stopping.strings == ("####",)
    question = [{"role": "user", "content": "2+3"}]
    text = bound[0].apply_chat_template(question, tokenize=False)
    assert text == "<|user|>2+3<|end|><|assistant|>"
