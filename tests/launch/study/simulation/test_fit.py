"""A run folder written from a known profile: the fit finds it, and predicts other settings."""

import asyncio
import json
from dataclasses import replace

import numpy as np
import pytest
from omegaconf import OmegaConf

from launch.cli.refusals import UserError
from launch.study.simulation import clock
from launch.study.simulation.check import compare, passes
from launch.study.simulation.engine import SimulatedEngine
from launch.study.simulation.fit import _accelerator, fit
from launch.study.simulation.measured import MeasuredRun
from launch.study.simulation.profile import LearningLaw, Profile
from launch.study.simulation.speed_fit import _evaluation, with_learner
from launch.study.simulation.speeds import EngineSpeed, LearnerSpeed, PublishSpeed
from launch.study.simulation.study import simulate
from launch.study.simulation.task import MeasuredPrompts, ResponseLengths, sigmoid

TOKENS = np.random.default_rng(0).integers(10, 100, 64)
TRUE = Profile(
    source="stated: a test",
    accelerator="CPU core",
    max_tokens=400,
    surprise_per_token=0.1,
    prompts=MeasuredPrompts(
        tokens=TOKENS.tolist(),
        mean_tokens=(5.0 + 1.5 * TOKENS).tolist(),
        pass_rates=sigmoid(1.5 - 0.03 * TOKENS).tolist(),
    ),
    lengths=ResponseLengths(quantiles=[0.7, 0.9, 1.0, 1.1, 1.3]),
    learning=LearningLaw(gain_logits=0.04, noise_responses=128.0),
    engine=EngineSpeed(
        max_num_seqs=64, step_seconds=4e-3, sequence_seconds=8e-5, prefill_token_seconds=8e-5
    ),
    learner=LearnerSpeed(update_seconds=0.05, token_seconds=1e-4),
    publish=PublishSpeed(seconds=0.1, probe_seconds=0.1),
    engine_slowdown=1.3,
    learner_slowdown=1.3,
)


def write_run(
    folder, *, true=TRUE, max_staleness=1, group_size=8, num_steps=16, evaluated=False,
    num_epochs=1, num_learners=1,
):  # fmt: skip
    """A run folder as `launch.train` leaves it, out of a simulation."""
    folder.mkdir()
    config = {
        "seed": 3,
        "scheduler": {
            "length": {"_target_": "cost.worth.lengths.PoolMeanLength"},
            "price": {"_target_": "cost.prices.tokens.TokenPrice"},
            "utility": {"_target_": "cost.worth.utilities.ConstantUtility"},
            "allocator": {"_target_": "cost.draws.allocators.uniform.Uniform"},
            "thinning": {"_target_": "cost.thinning.thinning.KeepAll"},
            "proxy": {"_target_": "cost.thinning.proxies.AdvantageProxy"},
            "advantage": {"_target_": "cost.advantages.within_group.GroupMean"},
            "aggregation": {"_target_": "cost.aggregations.SequenceMean"},
            "tickets_per_step": 16,
            "group_size": group_size,
        },
        "rollout": {
            "max_tokens": 400, "max_retries": 2, "update_mode": "recompute",
            "engine": {"max_num_seqs": 64, "prefix_caching": False},
        },
        "learner": {"num_epochs": num_epochs, "num_minibatches": 1},
        "loop": {"max_staleness": max_staleness},
        "resources": {"num_engines": 1, "num_learners": num_learners,"tensor_parallel_size": 1},
        "evaluation": {"num_samples": 4, "greedy": False},
        "held_out": {"num_prompts": len(TOKENS) if evaluated else 0},
    }  # fmt: skip
    OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    bare = MeasuredRun(folder, config, {"step": np.arange(num_steps)}, [], {})
    steps = simulate(true, bare.scheduler(), bare.layout).steps
    rng, samples = np.random.default_rng(1), []
    for number in range(0, num_steps, 2):
        index = int(rng.integers(len(TOKENS)))
        for length in TRUE.lengths.draw(TRUE.prompts.mean_tokens[index], 400, group_size, rng):
            samples.append({"step": number, "prompt": str(index), "length_tokens": int(length)})
    lines = [{"step": number} | step.metrics for number, step in enumerate(steps, 1)]
    for name, rows in (("metrics", lines), ("samples", samples)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text)
    summary = {"completed": True} | (evaluation(true) if evaluated else {})
    (folder / "summary.json").write_text(json.dumps(summary))
    return MeasuredRun.read(str(folder))


def evaluation(true):
    """What a summary says of one evaluation, 4 responses to every prompt and no learner at work."""
    rng = np.random.default_rng(2)
    means = true.prompts.mean_tokens
    lengths = [true.lengths.draw(mean, true.max_tokens, 4, rng).tolist() for mean in means]

    async def generate():
        engine = SimulatedEngine(true.engine, prefix_caching=False)
        pairs = zip(TOKENS.tolist(), lengths, strict=True)
        await asyncio.gather(*(engine.generate(tokens, own) for tokens, own in pairs))
        return asyncio.get_running_loop().time()

    return {
        "length_mean_before": float(np.mean(lengths)),
        "seconds": {"evaluate": clock.run(generate())},
    }


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    run = write_run(tmp_path_factory.mktemp("fit") / "run")
    return fit(run, TOKENS), run


def test_the_fit_finds_lengths_pass_rates_and_speeds(fitted):
    found, _ = fitted
    assert found.prompts.tokens == TOKENS.tolist()
    assert found.prompts.mean_tokens == pytest.approx(TRUE.prompts.mean_tokens, rel=0.15)
    assert np.mean(found.prompts.pass_rates) == pytest.approx(
        np.mean(TRUE.prompts.pass_rates), abs=0.05
    )
    assert np.corrcoef(found.prompts.pass_rates, TRUE.prompts.pass_rates)[0, 1] > 0.95
    assert found.learner.token_seconds == pytest.approx(1e-4, rel=0.25)
    assert found.publish.seconds == pytest.approx(0.1)
    assert found.publish.probe_seconds == pytest.approx(0.1)
    assert found.source.startswith("measured:")


def test_the_run_itself_is_predicted(fitted):
    found, run = fitted
    comparisons = compare(found, run)
    assert comparisons[0].name == "step seconds"
    assert comparisons[0].ratio == pytest.approx(1, abs=0.05)
    assert passes(comparisons)


@pytest.mark.parametrize("other", [{"group_size": 4}, {"max_staleness": 0}, {"max_staleness": 3}])
def test_other_settings_are_predicted(fitted, tmp_path, other):
    found, _ = fitted
    assert passes(compare(found, write_run(tmp_path / "other", **other)))


def test_engines_and_learners_are_slowed_down_by_different_factors(tmp_path):
    engine, learner = 1.6, 1.1
    true = replace(TRUE, engine_slowdown=engine, learner_slowdown=learner)
    run = write_run(tmp_path / "run", true=true, evaluated=True)
    found = fit(run, TOKENS)
    assert found.engine_slowdown == pytest.approx(engine, abs=0.15)
    assert found.learner_slowdown == pytest.approx(learner, abs=0.15)
    assert passes(compare(found, write_run(tmp_path / "other", true=true, max_staleness=0)))


@pytest.mark.parametrize(
    ("engines", "learners", "shared", "accelerators", "colocated"),
    [(1, 1, 0, 2, False), (1, 1, 1, 1, True), (4, 4, 4, 4, True), (4, 2, 2, 4, False)],
)
def test_a_gpu_that_engine_and_learner_share_counts_once(
    fitted, engines, learners, shared, accelerators, colocated
):
    _, run = fitted
    resources = {"num_engines": engines, "num_learners": learners, "tensor_parallel_size": 1}
    found = replace(
        run, config=run.config | {"resources": resources}, summary={"shared_gpus": shared}
    ).layout
    assert (found.num_accelerators, found.colocated) == (accelerators, colocated)


def test_a_check_knows_of_a_shared_gpu_what_its_profile_does_not(fitted):
    found, run = fitted
    shared = replace(run, summary=run.summary | {"shared_gpus": 1})
    alone, together = (compare(found, each)[0].predicted for each in (run, shared))
    assert together > 1.05 * alone
    # A profile that was fitted on one has measured how much the two slow each other down.
    measured = fit(shared, TOKENS)
    assert measured.colocated and not found.colocated
    assert passes(compare(measured, shared))


def test_without_timed_evaluations_both_are_taken_to_slow_down_alike(fitted):
    found, _ = fitted
    assert found.engine_slowdown == found.learner_slowdown == pytest.approx(1.3, abs=0.15)


@pytest.mark.parametrize("layout", [{"num_epochs": 2}, {"num_learners": 2}])
def test_what_an_update_takes_is_of_every_pass_and_a_tokens_of_one_learner(tmp_path, layout):
    """Two passes pay it twice; two learners have half of the tokens each."""
    true = replace(TRUE, learner=replace(TRUE.learner, update_seconds=0.5))
    run = write_run(tmp_path / "run", true=true, max_staleness=0, **layout)
    found = with_learner(TRUE, run).learner
    assert found.update_seconds == pytest.approx(0.5, rel=0.1)
    assert found.token_seconds == pytest.approx(1e-4, rel=0.1)


def test_evaluations_that_cannot_be_timed_are_left_out(fitted, tmp_path):
    found, _ = fitted
    run = write_run(tmp_path / "run", evaluated=True)
    alone = _evaluation(run, found)

    def changed(**settings):
        return _evaluation(replace(run, config=run.config | settings), found)

    evaluation, resources = run.config["evaluation"], run.config["resources"]
    assert changed(evaluation=evaluation | {"sets": {"more": {}}}) is None
    assert changed(held_out=None) is None
    # Of 64 prompts one engine of three has 22, and one of 200 has one.
    third = changed(resources=resources | {"num_engines": 3})
    assert third.tokens > 21.5 / 64 * alone.tokens
    assert changed(resources=resources | {"num_engines": 200}).spent(found) > 0


def change_config(folder, **rooms):
    path = folder / "config.yaml"
    config = OmegaConf.to_container(OmegaConf.load(path))
    changed = {room: config[room] | settings for room, settings in rooms.items()}
    OmegaConf.save(OmegaConf.create(config | changed), path)


@pytest.mark.parametrize(
    ("rooms", "said"),
    [
        ({"rollout": {"update_mode": "drain"}}, r"rollout\.update_mode in config\.yaml must be"),
        ({"scheduler": {"prompt_features": True}}, r"scheduler\.prompt_features must be false"),
        ({"learner": {"num_epochs": None}}, r"learner\.num_epochs in config\.yaml must be a whole"),
        ({"loop": {"max_staleness": -1}}, r"loop\.max_staleness .* of at least 0, got -1"),
        ({"resources": {"num_engines": "x"}}, r"resources\.num_engines .* at least 1, got 'x'"),
        ({"rollout": {"engine": 3}}, r"rollout\.engine\.max_num_seqs .* at least 1, got None"),
    ],
)
def test_a_run_that_did_what_is_not_simulated_is_refused(fitted, tmp_path, rooms, said):
    found, _ = fitted
    folder = write_run(tmp_path / "run").folder
    change_config(folder, **rooms)
    with pytest.raises(UserError, match=said):
        compare(found, MeasuredRun.read(str(folder)))


def test_a_step_that_measured_nothing_is_named(fitted, tmp_path):
    found, _ = fitted
    folder = write_run(tmp_path / "run").folder
    path = folder / "metrics.jsonl"
    first, *lines = path.read_text().splitlines()
    nothing = json.dumps(json.loads(first) | {"loop/update_seconds": None})
    path.write_text("\n".join([nothing, *lines]) + "\n")
    with pytest.raises(UserError, match=r"must have 'loop/update_seconds' as a number in every"):
        compare(found, MeasuredRun.read(str(folder)))


def test_a_run_of_several_turns_is_refused(tmp_path):
    """What its environment wrote would be taken for what an engine decoded."""
    folder = write_run(tmp_path / "run").folder
    path = folder / "metrics.jsonl"
    *lines, last = path.read_text().splitlines()
    turns = json.dumps(json.loads(last) | {"rollout/turns_mean": 1.5})
    path.write_text("\n".join([*lines, turns]) + "\n")
    with pytest.raises(UserError, match="its responses had turns"):
        MeasuredRun.read(str(folder))


@pytest.mark.parametrize(
    ("use_gpu", "name"), [(None, "GPU or CPU core"), (True, "GPU"), (False, "CPU core")]
)
def test_an_accelerator_is_called_what_is_known_of_it(use_gpu, name):
    assert _accelerator(use_gpu) == name


def test_a_check_can_fail(fitted, tmp_path):
    found, run = fitted
    slow = replace(found, learner=replace(found.learner, token_seconds=1e-3))
    assert not passes(compare(slow, run))


def test_folders_that_do_not_serve_are_refused(fitted, tmp_path):
    found, run = fitted
    with pytest.raises(UserError, match="there is no such folder"):
        MeasuredRun.read(str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="at least 4 steps"):
        MeasuredRun.read(str(write_run(tmp_path / "short", num_steps=3).folder))
    with pytest.raises(UserError, match=r"rollout\.max_tokens=50"):
        compare(replace(found, max_tokens=50), run)
