"""What is matched, refused and counted beside TRL; nothing about speed, and nothing is trained."""

import copy
import os
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import torch

from conf.schema import RunConfig
from conf.studies import BenchConfig
from cost.draws.allocators.square_root import SquareRoot
from cost.draws.allocators.uniform import Uniform
from cost.thinning.thinning import CostAware
from cost.types import LengthReport, RewardStatus
from launch.cli.command_line import with_words
from launch.cli.refusals import UserError
from launch.program import build
from launch.record.evaluation import Evaluation, SetResult
from launch.run.model_folder import load_tokenizer, resolve_model
from launch.study.bench import peer
from launch.study.bench.peer_settings import PLAIN, require_matched, settings
from launch.study.bench.peer_trl import Rewards, messages_of, our_schedule, read_config
from learner.objectives.clipped_surrogate import ClippedSurrogate, Gspo
from learner.optimizers import AdamW, Sgd
from rollout.types import Prompt
from tests.composing import composed
from tests.launch.programs import call
from tests.places import PROJECT


@pytest.fixture(autouse=True)
def trl_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".oracles" / "trl").mkdir(parents=True)
    monkeypatch.setattr(peer, "INSTALLED", tmp_path / ".oracles")


def planned(tmp_path: Path, *overrides: str) -> peer.Plan:
    return peer.plan(overrides, tmp_path / "runs")


@pytest.fixture(scope="module")
def plain() -> RunConfig:
    config: RunConfig = build(composed("train", "experiment=quickstart", *PLAIN))
    config.model.path = resolve_model(config.model.path)
    return config


def changed(config: RunConfig, path: str, value: object) -> RunConfig:
    """A copy with one setting changed."""
    copied = copy.deepcopy(config)
    place, _, name = path.rpartition(".")
    setattr(attrgetter(place)(copied) if place else copied, name, value)
    return copied


def report(index: int, rewards: Sequence[float]) -> LengthReport:
    number = len(rewards)
    return LengthReport(
        ticket_id=index,
        prompt_index=index,
        prompt_tokens=1,
        prefill_tokens=1,
        lengths=np.full(number, 5, dtype=np.int32),
        truncated=np.zeros(number, dtype=bool),
        rewards=np.array(rewards, dtype=np.float64),
        status=np.full(number, RewardStatus.OK, dtype=np.int8),
        surprise=np.ones(number),
        answer_codes=np.zeros(number, dtype=np.int64),
        engine_seconds=1.0,
        version=0,
    )


def evaluated(*rewards: Sequence[float]) -> Evaluation:
    prompts = [Prompt(i, np.array([1], np.int32), "1", "s", "q") for i in range(len(rewards))]
    reports = [report(index, each) for index, each in enumerate(rewards)]
    return Evaluation(0, 0, 2, 0.5, {"held_out": SetResult.of(prompts, reports, [1, 2])}, None)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["peer"], {"peer"}),
        (["peer=trl"], {"peer"}),
        (["peer", "peer=trl"], {"peer"}),
        (["cost", "peer=trl"], {"cost", "peer"}),
    ],
)
def test_it_is_asked_for_by_word_or_by_library(arguments: list[str], expected: set[str]) -> None:
    config: BenchConfig = build(composed("bench", *with_words(arguments, "benches")))
    assert config.expanded() == expected


def test_another_library_is_refused() -> None:
    done = call("launch.bench", "peer=verl")
    assert done.status == 2
    assert done.err == "error: peer must be trl or null, got 'verl'\n"


def test_without_trl_one_sentence_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer, "INSTALLED", tmp_path / "nowhere")
    with pytest.raises(UserError, match="install it with `make oracles`"):
        planned(tmp_path)
    assert not (tmp_path / "runs").exists()


def test_one_side_is_plain_and_the_other_what_was_asked_for(tmp_path: Path) -> None:
    found = planned(tmp_path, "peer=trl", "benches=['peer']", "repetitions=3", "seed=5")
    plain, ours, theirs = (build(found.composed[side]) for side in ("grpo", "cost_aware", "trl"))
    assert plain.scheduler == theirs.scheduler == found.config.scheduler
    assert (plain.scheduler.advantage.ddof, plain.scheduler.advantage.epsilon) == (1, 1e-4)
    assert isinstance(ours.scheduler.thinning, CostAware)
    assert {each.seed for each in (plain, ours, theirs)} == {5}
    assert plain.learner == ours.learner == theirs.learner
    assert plain.name == "quickstart"
    # None measures or keeps anything on the way: a side trains and saves its policy.
    for each in (plain, ours, theirs):
        evaluation = each.evaluation
        assert not (evaluation.before or evaluation.after or evaluation.every)
        assert each.loop.save_final and each.checkpoint.every_seconds is None
    assert len({each.run_dir for each in (plain, ours, theirs)}) == 3


def test_a_named_recipe_and_experiment_are_those_of_ours(tmp_path: Path) -> None:
    found = planned(tmp_path, "experiment=quickstart_two_ends", "recipe=priced")
    ours, plain = build(found.composed["cost_aware"]), found.config
    assert type(ours.scheduler.thinning).__name__ == "Priced"
    assert type(plain.scheduler.thinning).__name__ == "KeepAll"
    assert plain.name == ours.name == "quickstart_two_ends"


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("seed", 4, {"seed": 4}),
        ("loop.num_steps", 7, {"max_steps": 7}),
        (
            "scheduler.group_size",
            4,
            {"num_generations": 4, "per_device_train_batch_size": 64},
        ),
        ("scheduler.tickets_per_step", 3, {"per_device_train_batch_size": 24}),
        ("rollout.max_tokens", 99, {"max_completion_length": 99}),
        ("rollout.temperature", 0.6, {"temperature": 0.6}),
        (
            "objective",
            ClippedSurrogate(0.1, 0.3, 3.0),
            {"epsilon": 0.1, "epsilon_high": 0.3, "delta": 3.0},
        ),
        ("learner.lr", 1e-4, {"learning_rate": 1e-4}),
        (
            "learner.optimizer",
            AdamW([0.8, 0.95], 1e-6, 0.01),
            {
                "adam_beta1": 0.8,
                "adam_beta2": 0.95,
                "adam_epsilon": 1e-6,
                "weight_decay": 0.01,
            },
        ),
        ("learner.max_grad_norm", 0.3, {"max_grad_norm": 0.3}),
        ("learner.gradient_checkpointing", True, {"gradient_checkpointing": True}),
        ("model.dtype", "bfloat16", {"bf16": True}),
    ],
)
def test_every_setting_follows_ours(
    plain: RunConfig, path: str, value: object, expected: dict[str, object]
) -> None:
    before, after = settings(plain), settings(changed(plain, path, value))
    assert {key: after[key] for key in after if after[key] != before[key]} == expected


@pytest.mark.parametrize(
    ("path", "value", "part"),
    [
        ("scheduler.thinning", CostAware(), "scheduler.thinning must be KeepAll beside TRL"),
        ("scheduler.allocator", SquareRoot(), "scheduler.allocator must be Uniform"),
        ("scheduler.allocator", Uniform(), "allocator.draws must be EpochDraws"),
        ("objective", Gspo(), "objective must be ClippedSurrogate"),
        ("learner.optimizer", Sgd(), "learner.optimizer must be AdamW"),
        ("learner.num_minibatches", 2, "learner.num_minibatches must be 1 beside TRL"),
        ("rollout.permute_rewards", True, "rollout.permute_rewards must be False"),
        ("model.dtype", "float16", "model.dtype must be float32 or bfloat16"),
    ],
)
def test_what_trl_is_not_asked_to_do_is_refused(
    plain: RunConfig, path: str, value: object, part: str
) -> None:
    require_matched(plain)
    with pytest.raises(UserError, match=part):
        require_matched(changed(plain, path, value))


def test_it_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"scheduler\.thinning must be KeepAll"):
        planned(tmp_path, "thinning@scheduler.thinning=cost_aware")
    assert not (tmp_path / "runs").exists()


def test_trls_process_reads_the_configuration_that_was_planned(tmp_path: Path) -> None:
    found = planned(tmp_path, "learner.lr=3e-5")
    config = read_config(peer.write_config(found, "trl"))
    assert settings(config) == settings(found.config)
    assert (config.task, config.reward, config.learner) == (
        found.config.task,
        found.config.reward,
        found.config.learner,
    )


def test_only_trls_process_sees_it_and_our_packages_come_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/mine")
    environment = peer.their_environment(2)
    assert environment["PYTHONPATH"].split(os.pathsep) == [
        str(PROJECT),
        str(peer.INSTALLED),
        "/mine",
    ]
    assert environment["OMP_NUM_THREADS"] == "2"
    assert os.environ["PYTHONPATH"] == "/mine"


def test_rewards_go_to_their_prompts_and_all_tokens_are_counted() -> None:
    prompts = [Prompt(i, np.arange(3 + i, dtype=np.int32), str(i), "s", "q") for i in range(2)]
    rewards = Rewards(lambda prompt, tokens: float(prompt.index * 10 + len(tokens)), prompts)
    assert rewards([[7], [7, 7], [7]], [1, 0, 1], prompts=None, trainer_state=None) == [11, 2, 11]
    assert (rewards.generated_tokens, rewards.trained_tokens) == (4, 4 + 4 + 3 + 4)
    rewards([[7, 7]], [0])
    assert (rewards.generated_tokens, rewards.trained_tokens) == (6, 20)


def test_conversations_give_the_tokens_that_our_prompts_have(plain: RunConfig) -> None:
    tokenizer = load_tokenizer(plain.model.path)
    prompts = plain.task.prompts(tokenizer)
    assert [each[0]["content"] for each in messages_of(prompts, tokenizer)] == [
        prompt.text for prompt in prompts
    ]
    odd = Prompt(0, prompts[0].token_ids, "1", "s", prompts[1].text)
    with pytest.raises(UserError, match="single messages of a user"):
        messages_of([odd], tokenizer)


def test_steps_have_the_learning_rates_of_our_schedule(plain: RunConfig) -> None:
    config = changed(changed(plain, "learner.warmup_steps", 4), "learner.lr", 0.5)
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=config.learner.lr)
    schedule, rates = our_schedule(config, optimizer), []
    for _ in range(6):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5, 0.5])


def test_figures_of_a_run_and_ratios_of_two() -> None:
    summary = {
        "seconds": {"startup": 20.0, "loop": 10.0, "generate": 8.0, "wait": 1.0},
        "num_steps": 5,
        "generated_tokens": 900,
        "generated_response_tokens": 400,
        "trained_tokens": 300,
    }
    ours = peer.figures_of_run(summary)
    theirs = peer.Figures(
        num_steps=5,
        startup_seconds=10.0,
        loop_seconds=50.0,
        generate_seconds=40.0,
        generated_tokens=500,
        trained_tokens=600,
    )
    assert ours.derived()["tokens_per_second"] == 40
    scores = {"grpo": evaluated([1, 1], [1, 0], [0, 0]), "trl": evaluated([1, 0], [1, 0], [0, 0])}
    found = peer.compared({"grpo": ours, "trl": theirs}, scores, "grpo")
    assert found["tokens_per_second"] == 4
    assert found["generate_tokens_per_second"] == 4
    assert found["seconds_per_step"] == pytest.approx(0.2)
    assert found["trained_tokens"] == 0.5
    assert found["startup_seconds"] == 2
    assert found["pass_rate_difference"] == pytest.approx(1 / 6)
    # Differences .5, 0, 0: sample deviation .2887, t of 2 degrees 4.303.
    assert found["pass_rate_difference_half_width"] == pytest.approx(0.717, abs=1e-3)
    assert peer.pass_rate(scores["trl"])["pass_rate"] == pytest.approx(1 / 3)
