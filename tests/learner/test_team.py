"""The driver's side: first with hand-written workers, then with real ones."""

import asyncio
import os
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from conf.resources import ResourcesConfig
from cost.types import LengthReport
from learner import team as team_module
from learner.batch import collate, segment_of
from learner.config import LearnerConfig
from learner.corrections import Truncated
from learner.engine import StepOutcome
from learner.gradient_norms import LAYERS, gradient_norms
from learner.layout import lay_out
from learner.logprobs import PackedPolicy
from learner.lora import LoraConfig
from learner.loss import Loss, RowOrigin
from learner.numerics import Numerics
from learner.objectives.clipped_surrogate import ClippedSurrogate
from learner.optimizers import AdamW
from learner.reference_config import ReferenceConfig
from learner.team import DivergedError, LearnerTeam
from learner.update import StepSums, Updater, old_logprobs
from rollout.types import GroupRef


def reference_to(group, data):
    n = len(group.trajectories)
    report = LengthReport(
        ticket_id=group.ticket.ticket_id,
        prompt_index=group.ticket.prompt_index,
        prompt_tokens=len(group.prompt.token_ids),
        prefill_tokens=0,
        lengths=np.array([len(trajectory.token_ids) for trajectory in group.trajectories], int),
        truncated=np.zeros(n, bool),
        rewards=np.zeros(n),
        status=np.zeros(n, int),
        surprise=np.zeros(n),
        answer_codes=np.zeros(n, int),
        engine_seconds=0.0,
        version=0,
    )
    return GroupRef(report=report, data=data if n else None)


def nothing_kept(selection):
    none = np.zeros(len(selection.keep))
    return replace(selection, keep=none.astype(bool), weight=none)


class FakeCall:
    """An actor's method: `remote(...)` gives something to await."""

    def __init__(self, function):
        self._function = function

    def remote(self, *args):
        return self._function(*args)


class FakeWorker:
    """Records what it is asked to train on; every step ends with `outcome`."""

    def __init__(self, outcome=StepOutcome(True, 1.0, 1e-6), seconds=0.0):  # noqa: B008
        self.calls = []
        self.versions = []
        self.reference_kl = FakeCall(self._reference_kl)
        self.update = FakeCall(self._update)
        self.gradient_norms = FakeCall(self._gradient_norms)
        self._outcome, self._seconds = outcome, seconds

    async def _update(self, groups, selections, plans, version, progress):
        self.calls.append((groups, plans))
        self.versions.append(version)
        await asyncio.sleep(self._seconds)
        return [StepSums(0.0, 1, 1, len(p.rows), {}, {}, self._outcome) for p in plans]

    async def _gradient_norms(self, groups, rows, layer):
        self.calls.append((groups, rows))
        await asyncio.sleep(self._seconds)
        return [np.array([10.0 * k + j for k, j in row]) for row in rows]

    async def _reference_kl(self, groups, rows):
        return await self._gradient_norms(groups, rows, "")


def test_each_kept_response_is_trained_on_once_and_refs_go_where_they_are_needed(batch):
    groups, selections = batch
    keep = np.array([True, False, True, True])
    selections = [replace(selections[0], keep=keep, weight=keep * 1.5), *selections[1:]]
    refs = [reference_to(group, f"data {k}") for k, group in enumerate(groups)]
    workers = [FakeWorker(), FakeWorker()]
    config = LearnerConfig(row_tokens=48, num_minibatches=2)
    team = LearnerTeam(workers, config, seed=1)
    metrics = asyncio.run(team.update(refs, selections, step=4))
    trained, parts = [], []
    for worker in workers:
        [(given, plans)] = worker.calls
        mine = {k for plan in plans for row in plan.rows for k, _ in row}
        assert given == [f"data {k}" if k in mine else None for k in range(5)]
        trained += [response for plan in plans for row in plan.rows for response in row]
        parts.append([(plan.num_groups, len(plan.rows)) for plan in plans])
    kept = [(k, int(j)) for k in range(5) for j in np.flatnonzero(selections[k].keep)]
    assert sorted(trained) == kept
    assert parts[0] == parts[1]
    assert sorted(num_groups for num_groups, _ in parts[0]) == [2, 3]
    assert metrics["learner/optimizer_steps"] == 2
    assert [worker.versions for worker in workers] == [[4], [4]]


@pytest.mark.parametrize(("shares", "told"), [([0.45, 1.0], [0.45, 1.0]), (None, [1.0, 1.0])])
def test_each_worker_is_told_its_own_share_of_its_gpu(monkeypatch, tmp_path, shares, told):
    found = {}

    async def address():
        return "host", 1

    async def connect(*_):
        return None

    class Actor:
        def options(self, **_):
            return self

        def remote(self, rank, *_, memory_share, **__):
            found[rank] = memory_share
            return SimpleNamespace(address=FakeCall(address), connect=FakeCall(connect))

    monkeypatch.setattr(team_module, "ray", SimpleNamespace(remote=lambda **_: lambda _: Actor()))
    team = LearnerTeam.create(
        LearnerConfig(),
        str(tmp_path),
        ClippedSurrogate(),
        Numerics(dtype="float32", temperature=1.0),
        seed=0,
        actor_options=[{}, {}],
        memory_shares=shares,
    )
    asyncio.run(team.start())
    assert len(team.workers) == 2
    assert [found[rank] for rank in range(2)] == told


def test_the_cut_into_steps_ignores_the_thinning_and_changes_every_step(batch):
    groups, selections = batch
    refs = [reference_to(group, k) for k, group in enumerate(groups)]
    one_left = [*map(nothing_kept, selections[:-1]), selections[-1]]

    def step_of_group_4(selections, step, epoch=0):
        worker = FakeWorker()
        team = LearnerTeam([worker], LearnerConfig(num_minibatches=2), seed=1)
        metrics = asyncio.run(team.update(refs, selections, step=step, epoch=epoch))
        plans = worker.calls[0][1]
        return metrics, [p.num_groups for p in plans if any(k == 4 for r in p.rows for k, _ in r)]

    for step in range(8):
        metrics, alone = step_of_group_4(one_left, step)
        assert alone == step_of_group_4(selections, step)[1]
        assert metrics["learner/empty_steps"] == 1 and metrics["learner/optimizer_steps"] == 1
    sizes = [step_of_group_4(selections, s, e)[1] for s in range(6) for e in range(2)]
    assert [2] in sizes and [3] in sizes


def exploring_batch(batch):
    """Of five groups the last two exploring, as the scheduler hands them over."""
    groups, selections = batch[0], [*batch[1]]
    for k in (3, 4):
        keep = np.arange(len(selections[k].keep)) % 3 == 0
        selections[k] = replace(
            selections[k],
            keep=keep,
            # coefficient * P / E
            weight=0.25 * 3 / 2 * keep,
            advantages=keep * 1.0,
            exploring=True,
        )
    return groups, selections


def flat_gradient(engine):
    return torch.cat([gradient.flatten() for gradient in engine.gradients.values()])


def test_the_gradient_is_the_plain_batch_s_and_a_term_of_the_exploring_groups(batch, plain_engine):
    """Through plan, packing and loss, with an objective that clips nearly everything."""
    groups, selections = exploring_batch(batch)
    # The plain engine knows no shared prompts.
    config = LearnerConfig(row_tokens=64, shared_prefix=False)
    objective, engine = ClippedSurrogate(clip_low=0.01, clip_high=0.01), plain_engine(lr=1e-12)

    def train(count):
        worker = FakeWorker()
        refs = [reference_to(group, k) for k, group in enumerate(groups[:count])]
        mine = selections[:count]
        asyncio.run(LearnerTeam([worker], config, seed=1).update(refs, mine, step=0))
        [(_, [plan])] = worker.calls
        rows, origins = lay_out(dict(enumerate(groups)), mine, plan, 0, shared_prefix=False)
        sums = Updater(engine, Loss(objective)).step(rows, origins=origins)
        return flat_gradient(engine), sums

    together, sums = train(5)
    plain, _ = train(3)
    # coefficient * mean over the two exploring groups of (1 / n) sum_j (1 / length) sum_t.
    term = torch.zeros(())
    for k, j in ((3, 0), (4, 0), (4, 3)):
        row = collate([segment_of(groups[k], selections[k], j, num_groups=1)])
        term = term - 0.25 / 2 / 4 * engine.logprobs(row)[0][row.loss_mask].mean()
    term.backward()
    engine.step()
    assert flat_gradient(engine).norm() > 0.05 * plain.norm()
    assert (together - plain - flat_gradient(engine)).abs().max() < 1e-6
    assert sums.token_sums["exploring_share"] == 30 + 6 + 7


@pytest.mark.parametrize("num_minibatches", [1, 2, 3])
def test_exploring_groups_neither_count_in_an_optimiser_step_nor_move_its_plain_groups(
    batch, num_minibatches
):
    groups, selections = exploring_batch(batch)
    refs = [reference_to(group, k) for k, group in enumerate(groups)]
    config = LearnerConfig(num_minibatches=num_minibatches)

    def plain_parts(count, step):
        worker = FakeWorker()
        team = LearnerTeam([worker], config, seed=1)
        asyncio.run(team.update(refs[:count], selections[:count], step=step))
        [(_, plans)] = worker.calls
        parts = [(p.num_groups, {k for row in p.rows for k, _ in row}) for p in plans]
        assert set().union(*(part for _, part in parts)) == {0, 1, 3, 4} & {*range(count)}
        return [(size, part - {3, 4}) for size, part in parts if part - {3, 4}]

    for step in range(6):
        assert plain_parts(5, step) == plain_parts(3, step)


def test_a_batch_of_which_nothing_was_kept_reaches_no_worker(batch):
    groups, selections = batch
    refs = [reference_to(group, k) for k, group in enumerate(groups)]
    worker = FakeWorker()
    team = LearnerTeam([worker], LearnerConfig(), seed=1)
    metrics = asyncio.run(team.update(refs, [nothing_kept(s) for s in selections], step=0))
    assert not worker.calls
    assert metrics["learner/empty_steps"] == 1
    assert metrics["learner/optimizer_steps"] == metrics["learner/skipped_steps"] == 0


def test_too_many_steps_that_are_not_finite_end_the_run(batch):
    groups, selections = batch
    refs = [reference_to(group, k) for k, group in enumerate(groups)]
    worker = FakeWorker(StepOutcome(False, float("nan"), 1e-6))
    team = LearnerTeam([worker], LearnerConfig(max_skipped_steps=2), seed=1)
    metrics = asyncio.run(team.update(refs, selections, step=0))
    assert metrics["learner/skipped_steps"] == 1
    with pytest.raises(DivergedError, match=r"2 optimiser steps in a row .*max_skipped_steps"):
        asyncio.run(team.update(refs, selections, step=1))


def test_waiting_has_a_deadline(batch):
    groups, selections = batch
    refs = [reference_to(group, k) for k, group in enumerate(groups)]
    team = LearnerTeam([FakeWorker(seconds=5)], LearnerConfig(update_deadline_seconds=0.05), seed=1)
    with pytest.raises(TimeoutError, match=r"learner\.update_deadline_seconds = 0\.05"):
        asyncio.run(team.update(refs, selections, step=0))


def test_selections_of_other_groups_are_refused(batch):
    groups, selections = batch
    refs = [reference_to(group, k) for k, group in enumerate(groups)]
    team = LearnerTeam([FakeWorker()], LearnerConfig(), seed=1)
    with pytest.raises(ValueError, match=r"^selections must be .* got \[4, 3, 2, 1, 0\]$"):
        asyncio.run(team.update(refs, selections[::-1], step=0))


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_gradient_norms_come_back_to_their_groups(batch, num_workers):
    groups, _ = batch
    refs = [reference_to(group, f"data {k}") for k, group in enumerate(groups)]
    workers = [FakeWorker() for _ in range(num_workers)]
    team = LearnerTeam(workers, LearnerConfig(row_tokens=48), seed=1)
    norms = asyncio.run(team.gradient_norms(refs))
    assert [n.tolist() for n in norms] == [
        [10.0 * k + j for j in range(len(group.trajectories))] for k, group in enumerate(groups)
    ]
    assert all(n.dtype == np.float64 for n in norms)
    rows = []
    for worker in workers:
        [(given, mine)] = worker.calls
        needed = {k for row in mine for k, _ in row}
        assert given == [f"data {k}" if k in needed else None for k in range(5)]
        rows.append(len(mine))
    assert len(set(rows)) == 1, "the ranks' collectives must meet"


def test_divergences_come_back_to_their_groups_and_have_a_deadline(batch):
    groups, _ = batch
    refs = [reference_to(group, f"data {k}") for k, group in enumerate(groups)]
    team = LearnerTeam([FakeWorker(), FakeWorker()], LearnerConfig(row_tokens=48), seed=1)
    found = asyncio.run(team.reference_kl(refs))
    assert [kl.tolist() for kl in found] == [
        [10.0 * k + j for j in range(len(group.trajectories))] for k, group in enumerate(groups)
    ]
    slow = LearnerTeam([FakeWorker(seconds=5)], LearnerConfig(update_deadline_seconds=0.05), seed=1)
    with pytest.raises(TimeoutError, match=r"reference_kl .*update_deadline_seconds = 0\.05"):
        asyncio.run(slow.reference_kl(refs))


def test_gradient_norms_of_nothing_reach_no_worker(batch):
    groups, _ = batch
    worker = FakeWorker()
    team = LearnerTeam([worker], LearnerConfig(), seed=1)
    assert asyncio.run(team.gradient_norms([])) == []
    [empty] = asyncio.run(team.gradient_norms([reference_to(groups[2], None)]))
    assert empty.shape == (0,) and empty.dtype == np.float64
    assert not worker.calls


def test_gradient_norms_have_a_deadline_and_a_known_layer(batch):
    refs = [reference_to(batch[0][0], 0)]
    team = LearnerTeam([FakeWorker(seconds=5)], LearnerConfig(update_deadline_seconds=0.05), seed=1)
    with pytest.raises(TimeoutError, match=r"gradient_norms .*update_deadline_seconds = 0\.05"):
        asyncio.run(team.gradient_norms(refs))
    with pytest.raises(ValueError, match=r"^layer must be one of embedding, lm_head, got 'head'$"):
        asyncio.run(team.gradient_norms(refs, layer="head"))


class SavingWorker:
    """Needs so many questions to be done with writing, and ends as it is told."""

    def __init__(self, log, num_questions, error=None, obstacle=None):
        self.log, self.num_questions, self.error, self.left = log, num_questions, error, 0
        self._obstacle = obstacle
        self.snapshot = FakeCall(self._snapshot)
        self.written = FakeCall(self._written)
        self.obstacle = FakeCall(self._find_obstacle)
        self.load_state = FakeCall(self._load_state)
        self.update = FakeCall(self._update)

    async def _snapshot(self, folder, skipped):
        assert not self.left, "one at a time"
        self.log.append(("snapshot", folder, skipped))
        self.left = self.num_questions

    async def _written(self):
        self.left = max(self.left - 1, 0)
        return self.left == 0, None if self.left else self.error

    async def _find_obstacle(self, folder):
        return self._obstacle

    async def _load_state(self, folder):
        self.log.append(("load_state", folder))
        return 2

    async def _update(self, *_):
        self.log.append(("update",))
        return []


def saving_team(*workers, **settings):
    return LearnerTeam(workers, LearnerConfig(**settings), seed=1)


@pytest.fixture()
def quick_polls(monkeypatch):
    monkeypatch.setattr("learner.team._POLL_SECONDS", 0.001)


def test_a_snapshot_waits_until_the_one_before_is_written(quick_polls):
    log = []
    team = saving_team(SavingWorker(log, 3), SavingWorker(log, 5))
    team._skipped_in_a_row = 1

    async def save():
        await asyncio.gather(team.snapshot("one"), team.snapshot("two"))
        assert [worker.left for worker in team.workers] == [3, 5]
        await team.written()
        assert [worker.left for worker in team.workers] == [0, 0]

    asyncio.run(save())
    assert log == [("snapshot", name, 1) for name in ("one", "two") for _ in range(2)]


def test_training_waits_for_the_copying_alone(quick_polls, batch):
    groups, selections = batch
    log = []
    team = saving_team(SavingWorker(log, 10**9))
    refs = [reference_to(group, None) for group in groups]

    async def save():
        await team.snapshot("one")
        writing = asyncio.create_task(team.written())
        await team.update(refs, selections, step=0)
        assert not writing.done()
        team.workers[0].left = 1
        await writing

    asyncio.run(save())
    assert [name for name, *_ in log] == ["snapshot", "update"]


def test_what_keeps_a_rank_from_writing_is_told_when_all_have_ended(quick_polls):
    full = OSError(28, "No space left on device")
    workers = SavingWorker([], 1, full), SavingWorker([], 20)
    team = saving_team(*workers)

    async def save():
        await team.snapshot("one")
        with pytest.raises(OSError, match="No space left") as caught:
            await team.written()
        assert caught.value is full and not workers[1].left
        workers[0].error = None
        # Once more, elsewhere.
        await team.snapshot("two")
        await team.written()

    asyncio.run(save())


def test_writing_has_a_deadline(quick_polls):
    team = saving_team(SavingWorker([], 10**9), update_deadline_seconds=0.05)

    async def save():
        await team.snapshot("one")
        await team.written()

    with pytest.raises(TimeoutError, match=r"written took .*update_deadline_seconds = 0\.05"):
        asyncio.run(save())


def test_a_state_that_does_not_fit_reaches_no_worker():
    log = []
    team = saving_team(
        SavingWorker(log, 0), SavingWorker(log, 0, obstacle="it is of another model")
    )
    team.version = 7
    with pytest.raises(ValueError, match=r"^it is of another model$"):
        asyncio.run(team.load_state("one"))
    assert team.version == 7 and not log
    team = saving_team(SavingWorker(log, 0), SavingWorker(log, 0))
    team.version = 7
    asyncio.run(team.load_state("one"))
    assert log == [("load_state", "one")] * 2
    assert team.version is None and team._skipped_in_a_row == 2


@pytest.mark.system
def test_two_real_workers_train_like_one_plain_engine(
    batch, pack, plain_engine, model_paths, tmp_path, monkeypatch
):
    ray = pytest.importorskip("ray")
    from launch.run.cluster import cluster

    groups, selections = batch
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    config = LearnerConfig(
        zero_stage=2, lr=1e-3, optimizer=AdamW(eps=1e-4, weight_decay=0.01), row_tokens=48
    )
    all_terms = replace(
        config,
        behaviour="recomputed",
        correction=Truncated(cap=1.2),
        reference=ReferenceConfig(kl_coefficient=0.3, path=str(model_paths[True])),
        entropy_coefficient=0.1,
        schedule="linear",
    )
    own_base = ReferenceConfig(kl_coefficient=0.3, kl_in="reward", kl_estimator="k1")
    adapters = replace(config, lora=LoraConfig(rank=4), lr=1e-2, reference=own_base)

    async def train():
        team = LearnerTeam.create(
            config,
            str(model_paths[False]),
            ClippedSurrogate(),
            Numerics(dtype="float32", temperature=0.9),
            seed=0,
            actor_options=[{"num_cpus": 0.5}] * 2,
        )
        await team.start()
        refs = [reference_to(group, ray.put(group)) for group in groups]
        metrics = await team.update(refs, selections, step=0)
        empty = await team.update(refs, [nothing_kept(s) for s in selections], step=1)
        sequences = [
            (group.prompt.token_ids, trajectory.token_ids)
            for group in groups
            for trajectory in group.trajectories
        ]
        scores = await team.logprobs(sequences)
        norms = {layer: await team.gradient_norms(refs, layer=layer) for layer in LAYERS}
        await team.save(str(tmp_path / "trained"))
        state = str(tmp_path)
        assert 0 < await team.snapshot(state) < 300
        await team.update(refs, selections, step=1)
        await team.written()
        await team.restart(all_terms, ClippedSurrogate(), seed=0)
        with_terms = await team.update(refs, selections, step=2, progress=0.25)
        kl = [await team.reference_kl(refs)]
        await team.restart(config, ClippedSurrogate(), seed=0)
        await team.load_state(state)
        for now, then in zip(await team.logprobs(sequences), scores, strict=True):
            np.testing.assert_array_equal(now, then)
        await team.restart(adapters, ClippedSurrogate(), seed=0)
        with pytest.raises(ValueError, match=r"not fit: learner\.lora\.rank was 0 and is 4$"):
            await team.load_state(state)
        with pytest.raises(FileNotFoundError):
            await team.snapshot(str(tmp_path / "nowhere"))
            await team.written()
        before = await team.logprobs(sequences)
        await team.update(refs, selections, step=0)
        after = await team.logprobs(sequences)
        assert any(np.abs(a - b).max() > 1e-4 for a, b in zip(before, after, strict=True))
        kl.append(await team.reference_kl(refs))
        # A group that is not what its report says fails on one rank; the other must not hang us.
        other = replace(groups[3], ticket=replace(groups[3].ticket, ticket_id=99))
        refs[3] = replace(refs[3], data=ray.put(other))
        started = time.monotonic()
        with pytest.raises(ValueError, match=r"selection\.ticket_id must be the group's 99") as e:
            await team.update(refs, selections, step=2)
        assert "segment_of" in str(e.value), "the worker's own traceback"
        team.close()
        seconds = time.monotonic() - started
        return metrics, empty, scores, norms, with_terms, kl, seconds

    with cluster(ResourcesConfig(num_learners=2, learner_cpus=0.5)):
        metrics, empty, scores, norms, with_terms, kl, seconds = asyncio.run(train())
    assert seconds < 300

    engine = plain_engine(temperature=0.9)
    [rows] = pack(groups, selections)
    sums = Updater(engine, Loss(ClippedSurrogate())).step(rows)
    assert metrics["learner/loss"] == pytest.approx(sums.loss, abs=1e-6)
    assert metrics["learner/grad_norm"] == pytest.approx(sums.outcome.grad_norm, rel=1e-5)
    assert metrics["learner/tokens"] == sums.num_tokens == 146
    for name, total in sums.token_sums.items():
        assert metrics[f"learner/{name}"] == pytest.approx(total / 146, abs=1e-5)
    assert empty["learner/optimizer_steps"] == 0
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "trained")
    for ours, theirs in zip(saved.parameters(), engine.model.parameters(), strict=True):
        assert (ours - theirs).abs().max() < 1e-5
    trajectories = [(g, t) for g in groups for t in g.trajectories]
    for (group, trajectory), score in zip(trajectories, scores, strict=True):
        token_ids = np.concatenate([group.prompt.token_ids, trajectory.token_ids])
        with torch.no_grad():
            logits = saved(torch.from_numpy(token_ids).long()[None]).logits[0] / 0.9
        logprobs = logits.log_softmax(-1)[np.arange(len(token_ids) - 1), token_ids[1:]].numpy()
        assert np.abs(logprobs[-len(trajectory.token_ids) :] - score).max() < 1e-5
    in_order = collate(
        [
            segment_of(group, selection, j, num_groups=5)
            for group, selection in zip(groups, selections, strict=True)
            for j in range(len(group.trajectories))
        ]
    )
    engine = plain_engine(temperature=0.9)
    other = AutoModelForCausalLM.from_pretrained(model_paths[True], dtype=torch.float32)
    engine.reference = PackedPolicy(other, 0.9)
    origins = [RowOrigin(old_logprobs=old) for old in old_logprobs(engine, rows)]
    starting = engine.logprobs(in_order)[0].detach()
    loss = Loss.of(ClippedSurrogate(), all_terms)
    sums = Updater(engine, loss).step(rows, origins=origins)
    assert with_terms["learner/loss"] == pytest.approx(sums.loss, abs=1e-6)
    assert with_terms["learner/grad_norm"] == pytest.approx(sums.outcome.grad_norm, rel=1e-5)
    for name, total in sums.token_sums.items():
        assert with_terms[f"learner/{name}"] == pytest.approx(total / 146, abs=1e-5)
    assert with_terms["learner/lr"] == pytest.approx(0.75 * config.lr)
    assert with_terms["learner/token_staleness"] == 2 and with_terms["learner/stale_share"] == 1
    for found, reference in zip(kl, (engine.reference_logprobs(in_order), starting), strict=True):
        k1 = (in_order.rollout_logprobs - reference).numpy()
        expected = [
            k1[(in_order.segment_ids == s) & in_order.loss_mask].sum() for s in range(len(scores))
        ]
        np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-4)
    for layer in LAYERS:
        expected = gradient_norms(PackedPolicy(saved, 0.9), in_order, layer)
        np.testing.assert_allclose(np.concatenate(norms[layer]), expected, rtol=1e-4)
        assert [len(n) for n in norms[layer]] == [len(group.trajectories) for group in groups]
    assert os.environ.get("RANK") is None
