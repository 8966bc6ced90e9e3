"""Asking every prompt of every set, with a hand-written pool in place of engines."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from conf.evaluation import EvaluationConfig
from cost.types import LengthReport, RewardStatus
from launch.cli.refusals import UserError
from launch.record import counter
from launch.run import measuring as module
from launch.run.measuring import evaluate, measure
from rollout.types import Prompt, Sampling


def report(ticket_id, prompt_index, rewards, status=None):
    count = len(rewards)
    return LengthReport(
        ticket_id, prompt_index, 3, 3, np.full(count, 4), np.zeros(count, bool),
        np.asarray(rewards, float), np.asarray(status or [RewardStatus.OK] * count),
        np.ones(count), np.arange(count), 0.1, 0,
    )  # fmt: skip


class FakeRollouts:
    """Answers each prompt with the pass rate that its answer names."""

    def __init__(self):
        self.asked = []

    async def evaluate(self, ticket, prompt, sampling):
        self.asked.append((ticket.ticket_id, prompt.index, ticket.num_samples, sampling))
        passed = round(float(prompt.answer) * ticket.num_samples)
        rewards = [1.0] * passed + [0.0] * (ticket.num_samples - passed)
        # Engines answer out of order.
        await asyncio.sleep(0.001 * (prompt.index % 2))
        return report(ticket.ticket_id, prompt.index, rewards)


def prompts(rates, sources):
    return [
        Prompt(i, np.arange(3, dtype=np.int32), str(rate), source, f"{source} {i}")
        for i, (rate, source) in enumerate(zip(rates, sources, strict=True))
    ]


@pytest.fixture
def sets():
    return {
        "held_out": prompts((0.0, 0.25, 1.0), ["easy", "hard", "easy"]),
        "mine": prompts((0.5, 0.5), ["file", "file"]),
    }


def evaluation(sets, rollouts=None, *, greedy=True, versions=(3, 3), responses=None, **settings):
    told = iter(versions)
    return asyncio.run(
        measure(
            rollouts or FakeRollouts(), sets, EvaluationConfig(num_samples=4, **settings),
            max_tokens=8, greedy=greedy, version=lambda: next(told), responses=responses,
        )
    )  # fmt: skip


def test_what_is_answered_goes_to_the_file_of_the_version_with_its_place(sets):
    class Rollouts(FakeRollouts):
        async def evaluate_group(self, ticket, prompt, sampling):
            found = await self.evaluate(ticket, prompt, sampling)
            return SimpleNamespace(report=found, data=prompt.text)

    class File:
        added, closed = [], 0

        async def add(self, place, data):
            self.added.append((place["set"], place["index"], place["greedy"], data))

        def close(self):
            self.closed += 1

    file, versions = File(), []
    found = evaluation(sets, Rollouts(), responses=lambda version: versions.append(version) or file)
    places = [(name, i, p.text) for name, asked in sets.items() for i, p in enumerate(asked)]
    wanted = [(name, i, greedy, text) for greedy in (False, True) for name, i, text in places]
    assert sorted(file.added) == sorted(wanted)
    assert versions == [3] and file.closed == 1
    assert found.metrics() == evaluation(sets).metrics() | {"evaluation/seconds": found.seconds}


def test_responses_are_drawn_as_is_set_and_greedy_ones_are_greedy(sets):
    rollouts = FakeRollouts()
    evaluation(sets, rollouts, temperature=0.6, top_p=0.95, top_k=20)
    drawn = {(count, sampling) for _, _, count, sampling in rollouts.asked}
    assert drawn == {(4, Sampling(0.6, 0.95, 20)), (1, Sampling(0.0))}


def test_every_set_gets_the_answers_to_its_own_prompts(sets):
    found = evaluation(sets, versions=(3, 5), pass_at=[2])
    assert (found.version, found.last_version, found.num_samples) == (3, 5, 4)
    held_out = found.sampled["held_out"]
    assert {name: figures.avg.mean for name, figures in held_out.sources.items()} == {
        "easy": 0.5,
        "hard": 0.25,
    }
    assert list(held_out.overall.pass_at) == [1, 2, 4]
    assert found.sampled["mine"].overall.avg.mean == 0.5
    assert found.greedy["mine"].overall.num_responses == 2
    assert evaluation(sets, greedy=False).greedy is None


def test_sets_are_asked_together_and_held_out_prompts_keep_their_seeds(sets):
    together, alone = FakeRollouts(), FakeRollouts()
    evaluation(sets, together)
    evaluation({"held_out": sets["held_out"]}, alone)
    assert together.asked[:3] == alone.asked[:3]
    assert [index for _, index, count, _ in together.asked if count == 4] == [0, 1, 2, 3, 4]
    # Requests derive their seeds from ticket ids.
    assert len({ticket_id for ticket_id, *_ in together.asked}) == 10


def test_the_responses_that_are_there_are_counted(sets, capsys, monkeypatch):
    monkeypatch.setattr(counter, "EVERY_SECONDS", 0.0)
    evaluation(sets)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10 and "evaluation: 4 of 25 responses, left " in lines[0]
    assert "evaluation: 25 of 25 responses, left 0.0s" in lines[-1]


class Checked:
    """Finds nothing lacking on any node."""

    def __init__(self, config):
        pass

    async def check(self, nodes):
        pass

    async def look_at(self, node):
        pass


def test_what_is_reserved_is_given_back_where_no_engine_can_be_made(monkeypatch):
    given_back = []
    placement = SimpleNamespace(nodes=dict, release=lambda: given_back.append(True))

    def refuse(**_):
        raise UserError("model.path must hold another model")

    async def reserve(resources, *, learners):
        return placement

    monkeypatch.setattr(module, "reserve", reserve)
    monkeypatch.setattr(module, "NodeChecks", Checked)
    monkeypatch.setattr(module, "make_pool", refuse)
    config = SimpleNamespace(resources=None, rollout=None)
    with pytest.raises(UserError, match="another model"):
        asyncio.run(evaluate(config, {}))
    assert given_back == [True]
