"""Shapes, orders and equal losses of the benches; nothing about speed."""

import asyncio
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cost.types import Draw, LengthReport, Ticket
from launch.bench import load_config, measure, only_ours_on_stdout, parse
from launch.program import UserError
from launch.study.bench.contest import MOST_WORK, Setting
from launch.study.bench.cost import POOL_ALLOCATORS, TARGETS, Run, bench_cost
from launch.study.bench.learner import bench_learner
from launch.study.bench.logprobs import HeadLoad
from launch.study.bench.packing import bench_packed, pad, padded_logprobs
from launch.study.bench.plans import plan_figures
from launch.study.bench.publish import bench_publish
from launch.study.bench.rollout import Batches
from launch.study.bench.timing import ratio_of_medians, time_in_turns, turns
from launch.study.bench.workload import Workload
from learner.batch import collate
from learner.logprobs import PackedPolicy
from learner.partition import Work
from rollout.types import GroupRef, Prompt

HEAD = HeadLoad(vocabulary=4000, num_tokens=96, hidden_size=8, chunk_tokens=8)
SMALL = Workload(num_responses=6, group_size=2, mean_tokens=9.0, prompt_tokens=(3, 5), batch_rows=4)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        vocab_size=61,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    path = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(config).save_pretrained(path)
    return str(path)


def small_config(model_path: str, *overrides: str):
    return load_config([f"model.path={model_path}", "rollout.max_tokens=32", *overrides])


def test_contestants_take_turns_and_warm_ups_come_first() -> None:
    found = [(t.contestant, t.measured) for t in turns(["a", "b"], repetitions=2, warm_ups=1)]
    assert found == [
        ("a", False), ("b", False), ("a", True), ("b", True), ("a", True), ("b", True),
    ]  # fmt: skip


def test_the_two_sides_of_a_repetition_share_its_number() -> None:
    numbers = [turn.repetition for turn in turns(["a", "b"], repetitions=1, warm_ups=1)]
    assert numbers == [0, 0, 1, 1]


def test_ratio_is_that_of_medians_with_the_extremes_within_one_repetition() -> None:
    assert ratio_of_medians([2.0, 6.0, 4.0], [2.0, 1.0, 4.0]) == {
        "ratio": 2.0,
        "paired_ratio_median": 1.0,
        "paired_ratio_smallest": 1.0,
        "paired_ratio_largest": 6.0,
    }


def test_slow_contestants_get_fewer_turns() -> None:
    calls: list[str] = []
    run = {name: (lambda name=name: calls.append(name)) for name in ("a", "b")}
    timed = time_in_turns(run, repetitions=9, warm_ups=2, most_seconds=0.0)
    assert {len(seconds) for seconds in timed.seconds.values()} == {2}
    assert "".join(calls) == "abab"
    timed = time_in_turns(run, repetitions=5, warm_ups=2)
    assert {len(seconds) for seconds in timed.processor_seconds.values()} == {5}
    assert "".join(calls[4:]) == 7 * "ab"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ("all", [])),
        (["rollout"], ("rollout", [])),
        (["cost"], ("cost", [])),
        (["gradient_norms", "seed=3"], ("gradient_norms", ["seed=3"])),
        (["learner", "seed=3"], ("learner", ["seed=3"])),
        (["learner", "--repetitions", "2", "seed=3"], ("learner", ["seed=3"])),
    ],
)
def test_command_line(arguments: list[str], expected: tuple[str, list[str]]) -> None:
    parsed = parse(arguments)
    assert (parsed.bench, parsed.overrides) == expected


def test_at_least_five_repetitions_unless_told_otherwise() -> None:
    assert parse([]).repetitions >= 5
    assert parse(["--repetitions", "2"]).repetitions == 2


@pytest.mark.parametrize(
    "arguments", [["speed"], ["all", "--repetitions", "0"], ["all", "--warm-ups", "-1"]]
)
def test_command_line_refusals(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        parse(arguments)
    assert ending.value.code == 2
    assert arguments[-1] in capsys.readouterr().err


def test_the_configuration_is_the_quickstarts_unless_an_experiment_is_named(
    model_path: str,
) -> None:
    assert load_config([]).rollout.engine.enforce_eager
    chosen = small_config(model_path, "experiment=quickstart", "learner.row_tokens=512")
    assert (chosen.learner.row_tokens, chosen.name) == (512, "bench")


def test_a_misspelt_override_is_a_user_error() -> None:
    with pytest.raises(UserError, match="row_token"):
        load_config(["learner.row_token=512"])


def test_only_the_result_reaches_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    with only_ours_on_stdout() as stdout:
        print("chatter")
        os.write(1, b"of a child\n")
        print("result", file=stdout)
    os.write(1, b"later\n")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("result\nlater\n", "chatter\nof a child\n")


def test_workload_has_the_lengths_it_says() -> None:
    segments = Workload(num_responses=4000).segments(vocabulary=50, max_tokens=100_000, seed=0)
    lengths = np.array([segment.loss_mask.sum() for segment in segments])
    # Four standard errors of a lognormal's mean and of its logarithm's deviation.
    assert abs(lengths.mean() - 74) < 4 * lengths.std() / np.sqrt(4000)
    assert abs(np.log(lengths).std() - 0.6) < 4 * 0.6 / np.sqrt(8000)
    prompts = np.array([(~segment.loss_mask).sum() for segment in segments]).reshape(-1, 8)
    assert (prompts == prompts[:, :1]).all()
    assert (prompts.min(), prompts.max()) == (20, 40)


def test_workload_cuts_long_responses_and_repeats_with_its_seed() -> None:
    first, second = (Workload().segments(vocabulary=50, max_tokens=60, seed=1) for _ in range(2))
    assert max(int(segment.loss_mask.sum()) for segment in first) == 60
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.token_ids, other.token_ids)
        assert one.loss_weight == other.loss_weight == pytest.approx(1 / (64 * one.loss_mask.sum()))


def test_large_models_get_fewer_whole_groups() -> None:
    workload = Workload(mean_tokens=70.0)
    of_group = 8 * (30 + 70)
    for tokens, groups in ((of_group * 100, 8), (of_group * 3.5, 3), (1.0, 1)):
        assert workload.within(Work(), tokens).num_responses == 8 * groups
    assert workload.within(Work(token=2.0), of_group * 3.5).num_responses == 8
    # A model of 135M parameters.
    large = Work(token=2.1e8, loss_token=5.7e7)
    assert Workload().within(large, MOST_WORK).num_responses in range(16, 64)


def test_padding_counts_for_nothing() -> None:
    segments = SMALL.segments(vocabulary=50, max_tokens=32, seed=0)
    batch = pad(segments, torch.device("cpu"))
    lengths = [len(segment.token_ids) for segment in segments]
    assert batch.token_ids.shape == (6, max(lengths))
    assert batch.attention_mask.sum(dim=1).tolist() == lengths
    outside = batch.attention_mask == 0
    assert outside.any()
    assert not batch.loss_mask[outside].any()
    assert not batch.loss_weights[outside].any()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_padded_rows_have_the_packed_log_probabilities(model_path: str, temperature: float) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    segments = SMALL.segments(vocabulary=61, max_tokens=32, seed=0)
    batch = pad(segments, torch.device("cpu"))
    row = collate(segments)
    with torch.no_grad():
        padded = padded_logprobs(model, batch, temperature)
        packed, _ = PackedPolicy(model, temperature)(row.token_ids, row.position_ids, row.loss_mask)
    torch.testing.assert_close(padded[batch.loss_mask], packed[row.loss_mask])
    assert not padded[~batch.loss_mask].any()


@pytest.fixture(scope="module")
def learner_found(model_path: str) -> dict[str, object]:
    shape = Workload(
        num_responses=6, group_size=3, mean_tokens=4.0, sigma=0.0, prompt_tokens=(20, 20)
    )
    return bench_learner(
        small_config(model_path), SMALL, repetitions=2, warm_ups=0, long_prompt=shape,
        short_prompt=SMALL, head=HEAD,
    )  # fmt: skip


def test_learner_bench_compares_equal_gradients(learner_found: dict[str, object]) -> None:
    found = learner_found["packed"]
    assert found["gradients_agree"] and found["gradient_norm"] > 0
    assert {name: len(times) for name, times in found["repetitions_seconds"].items()} == {
        "packed": 2,
        "padded": 2,
    }
    lengths = np.add(found["prompt_lengths"], found["response_lengths"])
    assert found["tokens"] == lengths.sum()
    assert found["padded_tokens"] == 4 * lengths[:4].max() + 2 * lengths[4:].max()
    assert 0 < found["padding_share"] < 1
    for pair in (*learner_found["shared_prefix"].values(), learner_found["logprobs"]):
        assert pair["gradients_agree"] and pair["gradient_norm"] > 0
        one, other = pair["median_seconds"].values()
        assert pair["ratio"] == pytest.approx(other / one)
    shared = learner_found["shared_prefix"]["long_prompt"]
    assert shared["row_tokens_computed"] == {"shared": 2 * (20 + 12), "repeated": 6 * 24}


def test_learner_bench_sees_that_chunks_take_less_memory(learner_found: dict[str, object]) -> None:
    found = learner_found["logprobs"]
    logits = 4 * HEAD.vocabulary * HEAD.num_tokens
    assert found["peak_bytes"]["plain"] > 2 * logits
    assert found["peak_bytes"]["chunked"] < logits


def test_learner_bench_would_notice_another_loss(
    model_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "launch.study.bench.packing.padded_logprobs",
        lambda model, batch, temperature: 1.01 * padded_logprobs(model, batch, temperature),
    )
    setting = Setting.of(small_config(model_path))
    found = bench_packed(setting, SMALL, max_tokens=32, repetitions=1, warm_ups=0)
    assert not found["gradients_agree"]


def test_plans_repeat_little_and_are_even() -> None:
    work = Work(token=1.0, loss_token=0.3, pair=1e-3)
    workload = Workload(num_responses=96, mean_tokens=100.0, prompt_tokens=(60, 200))
    found = plan_figures(workload, work, row_tokens=2048, seed=0)
    assert found["useful_tokens"] < found["repeated_tokens"]
    for ranks in found["by_ranks"].values():
        # Many ranks for few groups: what is even repeats prompts, and pays.
        whole = ranks["step_efficiency_of_whole_groups"]
        assert ranks["useful_share"] >= 0.97 if ranks["groups_per_rank"] >= 3 else whole < 0.9
        rounding = 1 + 1e-9
        assert whole <= ranks["step_efficiency"] * rounding
        assert ranks["step_efficiency"] <= ranks["rank_balance"] * rounding
        assert 0.97 <= ranks["rank_balance"] <= 1 and ranks["useful_share"] <= 1
        assert ranks["largest_row"] <= 2048


def test_the_learner_bench_brings_all_of_the_learner(
    model_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("learner", "gradient_norms", "long_context"):
        monkeypatch.setattr(
            f"launch.study.bench.{name}.bench_{name}", lambda config, workload, **counts: counts
        )
    arguments = ["learner", f"model.path={model_path}", "--repetitions", "2", "--warm-ups", "0"]
    found = json.loads(json.dumps(measure(parse(arguments)), allow_nan=False))
    assert found["bench"] == "learner"
    measured = {"learner", "gradient_norms", "long_context"}
    assert set(found) == {"bench", "overrides", "model", "machine"} | measured
    assert set(found["machine"]) == {"cpus", "load_average_before", "load_average_after"}
    for name in measured:
        assert found[name] == {"repetitions": 2, "warm_ups": 0}


def test_the_learner_result_is_json(learner_found: dict[str, object]) -> None:
    assert json.loads(json.dumps(learner_found, allow_nan=False)) == learner_found
    assert set(learner_found) == {
        "packed", "shared_prefix", "logprobs", "plans", "threads", "device", "dtype",
    }  # fmt: skip


@pytest.fixture(scope="module")
def cost_found() -> dict[str, object]:
    pools = {
        name: load_config([f"allocator@scheduler.allocator={name}"]).scheduler
        for name in POOL_ALLOCATORS
    }
    return bench_cost(
        load_config([]).scheduler, pools, repetitions=2, warm_ups=0, num_prompts=(50, 500, 2000),
        num_tickets=16, num_candidates=64, num_added=30, num_pool=8,
    )  # fmt: skip


def test_the_cost_bench_measures_every_size_and_target(cost_found) -> None:
    found = json.loads(json.dumps(cost_found, allow_nan=False))
    assert set(found["targets"]) == set(TARGETS)
    for target in found["targets"].values():
        assert target["met"] == (target["measured"] <= target["target"])
    assert set(found["median"]) == {"50", "500", "2000"}
    for taken in found["median"].values():
        assert set(taken) == set(found["median"]["50"])
        assert all(clocks["wall"] > 0 for clocks in taken.values())
    assert set(found["growth_of_cpu_seconds"]) == {"50 to 500", "500 to 2000"}
    assert (
        found["targets"]["draw_seconds"]["measured"]
        == (found["median"]["2000"]["draw_seconds"]["wall"])
    )
    assert {name: pool["candidates"] for name, pool in found["pool_allocators"].items()} == (
        dict.fromkeys(POOL_ALLOCATORS, 8)
    )
    assert found["plugs"]["allocator"] == "SquareRoot" and found["reports"] == 160


def test_the_cost_bench_counts_the_bytes_of_prompts(cost_found) -> None:
    """At least the pool's 16, three running means of 24, estimates and probabilities."""
    sizes = cost_found["memory"]
    assert sizes["2000"]["held_bytes_per_prompt"] >= 16 + 3 * 24 + 4 * 8 + 16
    assert sizes["2000"]["peak_bytes_per_prompt"] >= 0
    assert sizes["2000"]["held_bytes"] <= sizes["2000"]["peak_bytes"]


def test_the_cost_bench_saves_and_restores_what_it_goes_on_with() -> None:
    config = load_config([]).scheduler
    run, other = Run(config, 40, 0), Run(config, 40, 0)
    for one in (run, other):
        one.draw()
        one.step()
    before = run.scheduler
    run.save_and_restore()
    assert run.scheduler is not before
    for one in (run, other):
        one.add_prompts(5)
        one.step()
    np.testing.assert_array_equal(
        run.scheduler.distribution().probabilities, other.scheduler.distribution().probabilities
    )
    assert len(run.scheduler.distribution().probabilities) == 45


class FakeScheduler:
    """Draws prompts 0, 1, 2, ... in turn."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int, object]] = []
        self._next = 0

    async def draw(self, batch: int, folded_batches: int) -> Draw:
        self.events.append(("draw", batch, folded_batches))
        ids = tuple(range(self._next, self._next + 4))
        self._next += 4
        return Draw([Ticket(i, i % 3, 2, 1.0, 1.0, 16) for i in ids], ids, (), False)

    async def select(self, batch: int, reports: list[LengthReport]) -> list[object]:
        self.events.append(("select", batch, [report.ticket_id for report in reports]))
        return []


class FakeRollouts:
    """Answers each ticket with responses of 5 and 7 tokens."""

    async def run(self, ticket: Ticket, prompt: Prompt) -> GroupRef:
        assert prompt.index == ticket.prompt_index
        report = LengthReport(
            ticket_id=ticket.ticket_id,
            prompt_index=prompt.index,
            prompt_tokens=1,
            prefill_tokens=2,
            lengths=np.array([5, 7]),
            truncated=np.zeros(2, np.bool_),
            rewards=np.zeros(2),
            status=np.zeros(2, np.int64),
            surprise=np.zeros(2),
            answer_codes=np.arange(2),
            engine_seconds=0.1,
            version=0,
        )
        return GroupRef(report=report, num_tokens=14, data=None)


def test_batches_go_through_the_scheduler_in_order() -> None:
    prompts = [Prompt(i, np.array([i], np.int32), "", "test", "") for i in range(3)]
    scheduler = FakeScheduler()
    system = SimpleNamespace(scheduler=scheduler, rollouts=FakeRollouts())
    batches = Batches(system, prompts)  # type: ignore[arg-type]

    async def twice() -> list[tuple[list[Prompt], int, float]]:
        return [await batches.run(), await batches.run()]

    (first, tokens, seconds), (second, _, _) = asyncio.run(twice())
    assert [prompt.index for prompt in first + second] == [0, 1, 2, 0, 1, 2, 0, 1]
    assert tokens == 4 * 12 and seconds > 0
    assert scheduler.events == [
        ("draw", 0, 0),
        ("select", 0, [0, 1, 2, 3]),
        ("draw", 1, 1),
        ("select", 1, [4, 5, 6, 7]),
    ]


class FakeSystem:
    """Records what is published."""

    def __init__(self) -> None:
        self.version = 0
        self.scale = 1.0
        self.published: list[tuple[int, float]] = []
        self.learners = self

    async def disturb_weights(self) -> None:
        self.scale *= 0.5

    async def restore_weights(self) -> None:
        self.scale *= 2.0

    async def publish(self, version: int) -> dict[str, float]:
        self.version = version
        self.published.append((version, self.scale))
        return {
            "publish/seconds": float(version),
            "publish/bytes": 8.0,
            "publish/bytes_per_second": 8.0 / version,
            "parity/max_logprob_difference": version * 1e-7,
        }


def test_every_publish_carries_weights_the_engines_do_not_hold() -> None:
    system = FakeSystem()
    found = asyncio.run(bench_publish(system, repetitions=2, warm_ups=1))
    assert system.published == [(1, 0.5), (2, 1.0), (3, 0.5), (4, 1.0), (5, 0.5), (6, 1.0)]
    assert [row["seconds"] for row in found["repetitions"]] == [3.0, 4.0, 5.0, 6.0]
    assert found["median"]["seconds"] == 4.5
    assert (found["bytes"], found["max_logprob_difference"]) == (8, pytest.approx(6e-7))
