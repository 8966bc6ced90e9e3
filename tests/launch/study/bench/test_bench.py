"""Shapes, orders and equal losses of the benches; nothing about speed."""

import asyncio
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from conf.studies import BENCHES, BenchConfig
from cost.types import Draw, LengthReport, Ticket
from launch.bench import only_ours_on_stdout
from launch.cli.command_line import with_words
from launch.program import build
from launch.study.bench.cost import TARGETS, Run, bench_cost
from launch.study.bench.gradient_norms import bench_gradient_norms
from launch.study.bench.layouts import bench_layouts, packed_step, pad, padded_step
from launch.study.bench.learner import bench_learner, plan_figures
from launch.study.bench.publish import bench_publish
from launch.study.bench.rollout import Batches, Generated
from launch.study.bench.suite import measure
from launch.study.bench.timing import ratio_of_medians, time_in_turns, turns
from launch.study.bench.workload import MOST_WORK, Workload
from learner.batch import collate
from learner.logprobs import PackedPolicy
from learner.partition import Work
from rollout.types import GroupRef, Prompt
from tests.composing import composed
from tests.launch.programs import call

SMALL = Workload(num_responses=10, group_size=2, mean_tokens=9.0, prompt_tokens=(3, 5))
LONG = Workload(num_responses=6, group_size=3, mean_tokens=4.0, sigma=0.0, prompt_tokens=(20, 20))


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


def configured(*arguments: str) -> BenchConfig:
    found = build(composed("bench", *with_words(arguments, "benches")))
    assert isinstance(found, BenchConfig)
    return found


def small_config(model_path: str, *arguments: str) -> BenchConfig:
    return configured(f"model.path={model_path}", "rollout.max_tokens=32", *arguments)


def test_contestants_take_turns_and_warm_ups_come_first() -> None:
    found = [(t.contestant, t.measured) for t in turns(["a", "b"], repetitions=2, warm_ups=1)]
    assert found == [
        ("a", False), ("b", False), ("a", True), ("b", True), ("a", True), ("b", True),
    ]  # fmt: skip


def test_ratio_is_that_of_medians_with_the_extremes_within_one_repetition() -> None:
    assert ratio_of_medians([2.0, 6.0, 4.0], [2.0, 1.0, 4.0]) == {
        "ratio": 2.0,
        "smallest": 1.0,
        "middle": 1.0,
        "largest": 6.0,
    }


def test_slow_contestants_get_fewer_turns() -> None:
    calls: list[str] = []
    run = {name: (lambda name=name: calls.append(name)) for name in ("a", "b")}
    timed = time_in_turns(run, repetitions=9, warm_ups=2, most_seconds=0.0)
    assert {len(seconds) for seconds in timed.seconds.values()} == {2}
    assert "".join(calls) == "abab"
    timed = time_in_turns(run, repetitions=5, warm_ups=2)
    assert {len(seconds) for seconds in timed.seconds.values()} == {5}
    assert "".join(calls[4:]) == 7 * "ab"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], BENCHES["all"]),
        (["rollout"], ["rollout"]),
        (["gradient_norms", "seed=3", "cost"], ["gradient_norms", "cost"]),
        (["learner", "repetitions=2"], ["learner", "gradient_norms", "long_context"]),
    ],
)
def test_words_name_the_benches(arguments: list[str], expected: list[str]) -> None:
    config = configured(*arguments)
    assert config.expanded() == set(expected)
    assert config.seed == (3 if "seed=3" in arguments else 0)


def test_at_least_five_repetitions_unless_told_otherwise() -> None:
    assert configured().repetitions >= 5
    assert configured("repetitions=2").repetitions == 2


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["speed"], f"benches must be some of {', '.join(BENCHES)}, got 'speed'"),
        (["all", "repetitions=0"], "repetitions must be at least 1, got 0"),
        (["all", "warm_ups=-1"], "warm_ups must not be negative, got -1"),
        (["learner", "learner.row_token=512"], "row_token"),
        (["learner", "learner.row_tokens=1"], "learner.row_tokens must be at least"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: list[str], part: str) -> None:
    done = call("launch.bench", *arguments)
    assert done.status == 2
    assert part in done.err and len(done.err.splitlines()) == 1


def test_the_configuration_is_the_quickstarts_unless_an_experiment_is_named(
    model_path: str,
) -> None:
    run = build(composed("train", "experiment=quickstart", "name=bench"))
    ours = configured()
    for name in ("scheduler", "learner", "rollout", "loop", "task", "model", "name"):
        assert getattr(ours, name) == getattr(run, name)
    chosen = small_config(model_path, "experiment=smollm2_arithmetic", "learner.row_tokens=3072")
    assert chosen.model.dtype == "bfloat16" and chosen.learner.row_tokens == 3072


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


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_all_layouts_have_one_gradient(model_path: str, temperature: float) -> None:
    from transformers import AutoModelForCausalLM

    from learner import attention

    def load(kind: str) -> torch.nn.Module:
        return AutoModelForCausalLM.from_pretrained(
            model_path, dtype=torch.float64, attn_implementation=kind
        )

    segments = SMALL.segments(vocabulary=61, max_tokens=32, seed=0)
    padded, packed, shared = load("sdpa"), load(attention.register()), load(attention.register())
    batches = [pad(segments[:8], torch.device("cpu")), pad(segments[8:], torch.device("cpu"))]
    lengths = [len(segment.token_ids) for segment in segments[:8]]
    assert batches[0]["token_ids"].shape == (8, max(lengths))
    assert batches[0]["attention_mask"].sum(dim=1).tolist() == lengths
    padded_step(padded, batches, temperature)
    packed_step(PackedPolicy(packed, temperature), [collate(segments)])
    packed_step(PackedPolicy(shared, temperature), [collate(segments, shared_prefix=True)])
    for one, other, third in zip(
        padded.parameters(), packed.parameters(), shared.parameters(), strict=True
    ):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(third.grad, other.grad, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def learner_found(model_path: str) -> dict[str, object]:
    return bench_learner(
        small_config(model_path), repetitions=2, warm_ups=0, workloads=(SMALL, LONG), planned=SMALL
    )


def test_learner_bench_counts_what_each_layout_computes(learner_found) -> None:
    assert json.loads(json.dumps(learner_found, allow_nan=False)) == learner_found
    found = learner_found["long_prompts"]
    # Two groups of three responses of four tokens; padding has equal lengths here.
    assert found["computed_tokens"] == {"shared": 2 * (20 + 12), "repeated": 144, "padded": 144}
    assert found["useful_share"] == {"shared": 1.0, "repeated": 64 / 144, "padded": 64 / 144}
    for found in (learner_found["short_prompts"], learner_found["long_prompts"]):
        median = found["median_seconds"]
        assert set(median) == {"shared", "repeated", "padded"}
        for over, under in (("repeated", "shared"), ("padded", "repeated")):
            ratio = found[f"{over}_over_{under}"]["ratio"]
            assert ratio == pytest.approx(median[over] / median[under])
        assert all(len(taken) == 2 for taken in found["repetitions_seconds"].values())
        assert all(peak > 0 for peak in found["peak_bytes"].values())
        assert 0 < found["useful_share"]["padded"] <= found["useful_share"]["repeated"] < 1


def test_a_shared_prompt_takes_less_memory(learner_found) -> None:
    peaks = learner_found["long_prompts"]["peak_bytes"]
    assert peaks["shared"] < peaks["repeated"]


def test_the_memory_of_a_step_leaves_weights_out(model_path: str) -> None:
    """Gradients are added to those that are there; activations grow with the batch."""
    config = small_config(model_path)
    counts = {"repetitions": 1, "warm_ups": 0}
    one, two = (
        bench_layouts(config, Workload(num_responses=n, sigma=0.0, mean_tokens=20.0), **counts)
        for n in (8, 16)
    )
    assert one["peak_bytes"]["repeated"] < two["peak_bytes"]["repeated"]


def test_plans_repeat_little_and_are_even() -> None:
    work = Work(token=1.0, loss_token=0.3, pair=1e-3)
    workload = Workload(num_responses=96, mean_tokens=100.0, prompt_tokens=(60, 200))
    for num_ranks, figures in plan_figures(workload, work, row_tokens=2048, seed=0).items():
        # Many ranks for few groups: what is even repeats prompts.
        assert figures["useful_share"] >= (0.97 if int(num_ranks) <= 4 else 0.9)
        assert 0.97 <= figures["rank_balance"] <= 1 and figures["useful_share"] <= 1


def test_the_learner_bench_brings_all_of_the_learner(
    model_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("learner", "gradient_norms", "long_context"):
        monkeypatch.setattr(
            f"launch.study.bench.{name}.bench_{name}", lambda config, **counts: counts
        )
    config = small_config(model_path, "learner", "repetitions=2", "warm_ups=0")
    found = json.loads(json.dumps(measure(config), allow_nan=False))
    assert found["benches"] == ["learner"] and found["model"] == model_path
    assert set(found["machine"]) == {"cpus", "load_average_before", "load_average_after"}
    for name in ("learner", "gradient_norms", "long_context"):
        assert found[name] == {"repetitions": 2, "warm_ups": 0}
    assert not {"cost", "rollout", "startup", "publish"} & set(found)


def test_gradient_norms_are_compared_with_those_of_all_weights(model_path: str) -> None:
    config = small_config(model_path, "learner.row_tokens=512")
    found = bench_gradient_norms(config, repetitions=2, warm_ups=0, workload=SMALL)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["num_responses"] == 10
    for layer in ("embedding", "lm_head"):
        assert found["all_weights_over_packed"][layer]["ratio"] == pytest.approx(
            found["median_seconds"]["all_weights"] / found["median_seconds"][layer]
        )
        assert 0 < found["correlation_with_all_weights"][layer] <= 1


@pytest.fixture(scope="module")
def cost_found() -> dict[str, object]:
    return bench_cost(
        configured().scheduler, repetitions=2, warm_ups=0, num_prompts=(50, 500, 2000),
        num_tickets=16, num_candidates=64,
    )  # fmt: skip


def test_the_cost_bench_measures_every_size_and_target(cost_found) -> None:
    found = json.loads(json.dumps(cost_found, allow_nan=False))
    assert set(found["targets"]) == set(TARGETS)
    for target in found["targets"].values():
        assert target["met"] == (target["measured"] <= target["target"])
    assert set(found["median"]) == {"50", "500", "2000"}
    for taken in (*found["median"].values(), found["thinning"]):
        assert all(clocks["wall"] > 0 for clocks in taken.values())
    assert (
        found["targets"]["draw_seconds"]["measured"]
        == (found["median"]["2000"]["draw_seconds"]["wall"])
    )
    assert found["plugs"]["allocator"] == "SquareRoot" and found["reports"] == 160


def test_the_cost_bench_counts_the_bytes_of_prompts(cost_found) -> None:
    """At least the pool's 16, three running means of 24, estimates and probabilities."""
    sizes = cost_found["memory"]
    held = (sizes["2000"]["held_bytes"] - sizes["500"]["held_bytes"]) / 1500
    assert held >= 16 + 3 * 24 + 4 * 8 + 16
    assert sizes["2000"]["held_bytes"] <= sizes["2000"]["peak_bytes"]
    peak = (sizes["2000"]["peak_bytes"] - sizes["500"]["peak_bytes"]) / 1500
    assert cost_found["targets"]["bytes_per_prompt"]["measured"] == peak


@pytest.mark.parametrize("allocator", ["square_root", "knapsack", "gvm"])
def test_the_cost_bench_saves_and_restores_what_it_goes_on_with(allocator: str) -> None:
    config = configured(f"allocator@scheduler.allocator={allocator}").scheduler
    run, other = Run(config, 40, 0), Run(config, 40, 0)
    for one in (run, other):
        one.draw()
        one.step()
    before = run.scheduler
    run.save_and_restore()
    assert run.scheduler is not before
    for one in (run, other):
        one.step()
    np.testing.assert_array_equal(
        run.scheduler.distribution().probabilities, other.scheduler.distribution().probabilities
    )


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

    async def select(self, batch: int, attempts: list[int]) -> list[object]:
        self.events.append(("select", batch, attempts))
        return []


class FakeRollouts:
    """Answers each ticket with responses of 5 and 7 tokens."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, int]] = []

    def signs(self) -> int:
        return 0

    async def run(self, ticket: Ticket, prompt: Prompt) -> GroupRef:
        assert prompt.index == ticket.prompt_index
        self.asked.append((ticket.ticket_id, prompt.index, ticket.attempt))
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
            attempt=2,
        )
        return GroupRef(report=report, data=None)


def test_batches_go_through_the_scheduler_in_order() -> None:
    prompts = [Prompt(i, np.array([i], np.int32), "", "test", "") for i in range(3)]
    scheduler = FakeScheduler()
    system = SimpleNamespace(scheduler=scheduler, rollouts=FakeRollouts())
    batches = Batches(system, prompts)  # type: ignore[arg-type]

    async def twice() -> list[Generated]:
        return [await batches.run(), await batches.run()]

    first, second = asyncio.run(twice())
    assert [prompt.index for prompt in first.prompts + second.prompts] == [0, 1, 2, 0, 1, 2, 0, 1]
    assert first.num_tokens == 4 * 12 and first.seconds > 0
    assert scheduler.events == [
        ("draw", 0, 0),
        ("select", 0, [2, 2, 2, 2]),
        ("draw", 1, 1),
        ("select", 1, [2, 2, 2, 2]),
    ]


def test_a_batch_rolled_out_again_has_the_same_tickets_as_newer_attempts() -> None:
    prompts = [Prompt(i, np.array([i], np.int32), "", "test", "") for i in range(3)]
    scheduler, rollouts = FakeScheduler(), FakeRollouts()
    system = SimpleNamespace(scheduler=scheduler, rollouts=rollouts)
    batches = Batches(system, prompts)  # type: ignore[arg-type]

    async def twice() -> tuple[Generated, Generated]:
        first = await batches.generate()
        return first, await batches.again(first)

    first, second = asyncio.run(twice())
    assert (second.batch, second.prompts) == (first.batch, first.prompts)
    # Reported was attempt 2: the pool had tried each twice more.
    assert rollouts.asked == [
        *((ticket.ticket_id, ticket.prompt_index, 0) for ticket in first.tickets),
        *((ticket.ticket_id, ticket.prompt_index, 3) for ticket in first.tickets),
    ]
    assert scheduler.events == [("draw", 0, 0)]


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

    async def checked(self) -> None:
        """Find nothing."""

    async def publish(self, version: int, groups: object = ()) -> dict[str, float]:
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
