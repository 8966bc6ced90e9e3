"""DeepSpeed on two ranks in every ZeRO stage, against one rank of plain torch.

One pair of ranks goes through all stages, since starting them is what takes time.
"""

from pathlib import Path

import peft
import pytest
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM

from learner.batch import collate
from learner.curvature_config import RejectedShares
from learner.gradient_norms import LAYERS, gradient_norms
from learner.logprobs import PackedPolicy
from learner.lora import LoraConfig, attach, weights_of
from learner.loss import Loss
from learner.objectives.clipped_surrogate import ClippedSurrogate
from learner.token_masks import WithinCurvature
from learner.update import Updater
from tests.learner.ranks import run_program

pytestmark = pytest.mark.system

RUNS = [
    (0, False, "float32", False, "full"),
    (1, False, "float32", False, "full"),
    (2, False, "float32", False, "full"),
    (3, False, "float32", False, "full"),
    (0, False, "float32", True, "full"),
    (0, False, "float32", False, "chunked"),
    (1, False, "float32", False, "chunked"),
    (2, False, "float32", False, "chunked"),
    (3, True, "float32", True, "full"),
    (2, True, "bfloat16", False, "full"),
    (0, False, "float32", False, "lora"),
    (1, False, "float32", False, "lora"),
    (2, False, "float32", False, "lora"),
    (3, False, "float32", False, "lora"),
    (2, True, "bfloat16", False, "lora"),
    (0, False, "float32", False, "masked chunked"),
    (2, False, "float32", False, "masked"),
    (3, False, "float32", False, "masked"),
    (2, False, "bfloat16", False, "masked"),
    (3, False, "bfloat16", False, "float32 head"),
    (1, False, "bfloat16", False, "offloaded"),
    (2, False, "bfloat16", False, "offloaded"),
    (3, False, "bfloat16", False, "offloaded"),
]
"""ZeRO stage, whether embeddings are tied, dtype, gradient checkpointing, what is trained how."""
ON_GPU = [
    (3, True, "float32", True, "full"),
    (0, False, "float32", False, "masked chunked"),
    (2, True, "bfloat16", False, "lora"),
    (2, False, "bfloat16", False, "masked"),
    (3, False, "bfloat16", False, "offloaded"),
]
"""Of RUNS, those that are tried where torch has a GPU, too."""
EXACT = RUNS[:8]
MASKED = [run for run in RUNS if "masked" in run[-1]]
EXACT_MASKED = [run for run in MASKED if run[2] == "float32"]
ADAPTERS = [run for run in RUNS if run[-1] == "lora"]
EXACT_ADAPTERS = [run for run in ADAPTERS if run[2] == "float32"]


@pytest.fixture(scope="module")
def rows(pack, batch):
    """Two ranks' rows, split unevenly: the first has more responses, the second ends in padding."""
    [every] = pack(*batch, row_tokens=48)
    half = len(every) // 2 + 1
    ranks = every[:half], every[half:] + [collate([])] * (2 * half - len(every))
    assert ranks[1][-1].is_padding
    return ranks


@pytest.fixture(scope="module")
def train(tmp_path_factory, model_paths, rows):
    """Return, per rank, what rank_program.py sees in some runs."""

    def see(runs, *, on_gpu=False):
        folder = tmp_path_factory.mktemp("ranks")
        tokenizer = folder / "tokenizer"
        tokenizer.mkdir()
        (tokenizer / "tokenizer.json").write_text("{}")
        task = {
            "rows": rows,
            "runs": runs,
            "models": {tied: str(path) for tied, path in model_paths.items()},
            "tokenizer": tokenizer,
        }
        torch.save(task, folder / "task.pt")
        run_program("rank_program.py", folder, on_gpu=on_gpu)
        return [
            torch.load(folder / f"rank{rank}.pt", weights_only=False, map_location="cpu")
            for rank in range(2)
        ]

    return see


@pytest.fixture(scope="module")
def results(train):
    """What the ranks see on CPUs."""
    return train(RUNS)


@pytest.fixture(scope="module")
def on_gpu(train):
    """What they see where torch has a GPU."""
    return train(ON_GPU, on_gpu=True)


@pytest.fixture(scope="module")
def reference(plain_engine, rows):
    """What the two good steps look like in plain torch, all rows on one rank."""
    engine = plain_engine(temperature=0.9)
    all_rows = [row for rank_rows in rows for row in rank_rows]
    steps = []
    for _ in range(2):
        sums = Updater(engine, Loss(ClippedSurrogate())).step(all_rows)
        weights = {n: p.detach().clone() for n, p in engine.model.named_parameters()}
        steps.append((sums, engine.gradients, weights))
    return steps


def difference(ours, theirs):
    assert ours.keys() == theirs.keys()
    return max((ours[name] - theirs[name]).abs().max().item() for name in ours)


def relative_difference(ours, theirs):
    """Return the length of all differences over the length of it all."""
    assert ours.keys() == theirs.keys()
    apart = torch.stack([(ours[name] - theirs[name]).norm() for name in theirs]).norm()
    return (apart / torch.stack([tensor.norm() for tensor in theirs.values()]).norm()).item()


@pytest.mark.parametrize("run", EXACT)
def test_every_stage_takes_the_gradient_and_the_step_of_one_plain_rank(results, reference, run):
    for step, index in ((0, 0), (1, 2)):
        sums, gradients, weights = reference[step]
        assert difference(results[0][run]["gradients"][index], gradients) < 2e-6
        assert difference(results[0][run]["weights"][index], weights) < 1e-5
        loss = sum(rank[run]["losses"][index] for rank in results)
        assert loss == pytest.approx(sums.loss, abs=1e-6)
        norm = results[0][run]["outcomes"][index].grad_norm
        assert norm == pytest.approx(sums.outcome.grad_norm, rel=1e-5)


@pytest.mark.parametrize("run", MASKED)
def test_as_many_tokens_are_masked_as_asked_for(results, run):
    """A tenth by each of two thresholds, a twentieth by the third, some by several."""
    for index in (0, 2):
        sums = [rank[run]["token_sums"][index]["curvature_rejected_share"] for rank in results]
        assert 14 <= sum(sums) <= 35


@pytest.mark.parametrize("run", EXACT_MASKED)
def test_every_stage_masks_the_tokens_of_one_plain_rank(
    results, rows, plain_engine, plain_head, run
):
    engine = plain_engine(temperature=0.9, max_grad_norm=1e9)
    all_rows = [row for rank_rows in rows for row in rank_rows]
    head = plain_head(engine)
    mask = WithinCurvature(engine, head, RejectedShares(low=0.1, high=0.05, shift=0.1))
    for index in (0, 2):
        before = head.weight()
        sums = Updater(engine, Loss(ClippedSurrogate())).step(all_rows, hooks=[mask])
        assert difference(results[0][run]["gradients"][index], engine.gradients) < 2e-6
        assert difference(results[0][run]["weights"][index], dict(engine.model.state_dict())) < 1e-5
        rejected = [rank[run]["token_sums"][index]["curvature_rejected_share"] for rank in results]
        assert min(rejected) > 0
        assert sum(rejected) == sums.token_sums["curvature_rejected_share"]
        # What the engine foresaw is what came, but for the decay and the weights' rounding.
        after = results[0][run]["weights"][index]["lm_head.weight"]
        change = after - before * (1 - 1e-3 * 0.01)
        assert change.abs().max() > 5e-4
        assert (results[0][run]["foreseen"][index] - change).abs().max() < 2e-7


def set_adapters(model, tensors):
    """Give a model, with adapters already, those of a rank."""
    with torch.no_grad():
        for name, tensor in tensors.items():
            model.get_parameter(name).copy_(tensor)


@pytest.mark.parametrize("run", EXACT_ADAPTERS)
def test_adapters_take_the_steps_of_one_plain_rank(results, rows, plain_engine, run):
    seen = results[0][run]
    engine = plain_engine(temperature=0.9)
    base = {name: p.detach().clone() for name, p in engine.model.named_parameters()}
    attach(engine.model, LoraConfig(rank=4, alpha=32.0))
    set_adapters(engine.model, seen["start"])
    trained = [p for p in engine.model.parameters() if p.requires_grad]
    engine.optimizer = torch.optim.AdamW(trained, lr=1e-3, eps=1e-4, weight_decay=0.01)
    all_rows = [row for rank_rows in rows for row in rank_rows]
    for index in (0, 2):
        sums = Updater(engine, Loss(ClippedSurrogate())).step(all_rows)
        assert difference(seen["gradients"][index], engine.gradients) < 2e-6
        norm = seen["outcomes"][index].grad_norm
        assert norm == pytest.approx(sums.outcome.grad_norm, rel=1e-5)
        merged = {weight.name: weight.merged() for weight in weights_of(engine.model)}
        assert difference(seen["weights"][index], merged) < 1e-5
    changed = {name for name in base if not torch.equal(seen["weights"][2][name], base[name])}
    assert changed == {name for name in base if name.endswith("_proj.weight")}


@pytest.mark.parametrize("run", ADAPTERS)
def test_without_adapters_the_policy_is_the_one_it_started_from(results, rows, model_paths, run):
    _, tied, dtype, *_ = run
    model = AutoModelForCausalLM.from_pretrained(model_paths[tied], dtype=torch.float32)
    row = rows[0][0]
    with torch.no_grad():
        expected = PackedPolicy(model, 0.9)(row.token_ids, row.position_ids, row.loss_mask)[0]
    reference, again = results[0][run]["references"]
    tolerance = {"rtol": 0, "atol": 0.1 if dtype == "bfloat16" else 1e-5}
    torch.testing.assert_close(reference, expected, **tolerance)
    assert torch.equal(again, results[0][run]["logprobs"]), "adapters are back afterwards"
    assert (again - reference).abs().max() > 1e-3


@pytest.mark.parametrize("run", RUNS)
def test_a_disturbance_changes_the_policy_and_is_undone_to_the_bit(results, run):
    for seen in (ranks[run] for ranks in results):
        assert (seen["disturbed"] - seen["logprobs"]).abs().max() > 1e-2
        assert torch.equal(seen["restored"], seen["logprobs"])


@pytest.mark.parametrize("run", RUNS)
def test_what_is_published_while_disturbed_is_what_the_learner_computes_with(results, run):
    for seen in (ranks[run] for ranks in results):
        assert torch.equal(seen["disturbed_again"], seen["disturbed"])
        if run not in ADAPTERS:
            for name, weight in seen["weights"][-1].items():
                assert torch.equal(seen["disturbed_weights"][name], weight / 2), name


@pytest.mark.parametrize("run", ADAPTERS)
def test_published_adapters_are_those_that_are_saved(results, run):
    """And a disturbance is in every one of them, in its second half."""
    seen, other_rank = (ranks[run] for ranks in results)
    assert other_rank["files"] == {}
    saved = Path(seen["checkpoint"]) / "adapter"
    for name, content in seen["files"].items():
        assert content == (saved / name).read_bytes()
    before, after = (
        safetensors.torch.load(seen[key]["adapter_model.safetensors"])
        for key in ("files", "disturbed_files")
    )
    assert before.keys() == after.keys() and any("lora_B" in name for name in before)
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) == ("lora_B" not in name), name


@pytest.mark.parametrize("run", EXACT_ADAPTERS)
def test_saved_adapters_and_merged_weights_are_the_same_policy(results, rows, model_paths, run):
    row, seen = rows[0][0], results[0][run]
    model = AutoModelForCausalLM.from_pretrained(model_paths[False], dtype=torch.float32)
    peft.PeftModel.from_pretrained(model, Path(seen["checkpoint"]) / "adapter")
    with torch.no_grad():
        ours = PackedPolicy(model, 0.9)(row.token_ids, row.position_ids, row.loss_mask)[0]
    torch.testing.assert_close(ours, seen["logprobs"], rtol=0, atol=1e-5)
    merged = AutoModelForCausalLM.from_pretrained(seen["checkpoint"], dtype=torch.float32)
    with torch.no_grad():
        ours = PackedPolicy(merged, 0.9)(row.token_ids, row.position_ids, row.loss_mask)[0]
    torch.testing.assert_close(ours, seen["logprobs"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("layer", LAYERS)
def test_gradient_norms_in_every_stage(results, rows, model_paths, run, layer):
    stage, tied, dtype, *_ = run
    model = AutoModelForCausalLM.from_pretrained(model_paths[tied], dtype=torch.float32)
    for rank, rank_rows in zip(results, rows, strict=True):
        for norms, row in zip(rank[run]["norms"], rank_rows, strict=True):
            expected = gradient_norms(PackedPolicy(model, 0.9), row, layer)
            torch.testing.assert_close(
                norms[layer], expected, rtol=0.05 if dtype == "bfloat16" else 1e-5, atol=0
            )
        weights = "ZeroParamStatus.NOT_AVAILABLE" if stage == 3 else "None"
        assert rank[run]["gathered"] == {weights}, "no rank keeps the others' share"


@pytest.mark.parametrize("run", RUNS)
def test_a_spoilt_step_is_skipped_by_all_ranks_and_the_next_is_not(results, run):
    for rank in results:
        assert [outcome.applied for outcome in rank[run]["outcomes"]] == [True, False, True]
        first, spoilt, last = rank[run]["weights"]
        assert difference(first, spoilt) == 0.0
        assert difference(spoilt, last) > 1e-4
        assert not torch.isfinite(torch.tensor(rank[run]["outcomes"][1].grad_norm))
    assert difference(results[0][run]["weights"][2], results[1][run]["weights"][2]) == 0.0


@pytest.mark.parametrize("run", RUNS)
def test_the_checkpoint_holds_the_trained_weights(results, run, model_paths):
    state = results[0][run]
    model = AutoModelForCausalLM.from_pretrained(state["checkpoint"], dtype=torch.float32)
    loaded = {name: parameter.detach() for name, parameter in model.named_parameters()}
    assert difference(loaded, state["weights"][2]) == 0.0
    assert (Path(state["checkpoint"]) / "tokenizer.json").exists()
    stored = AutoModelForCausalLM.from_pretrained(model_paths[run[1]])
    expected = [
        (name, getattr(torch, run[2]), tuple(parameter.shape))
        for name, parameter in stored.named_parameters()
    ]
    assert state["metadata"] == expected


@pytest.mark.parametrize("run", ON_GPU)
def test_on_a_gpu_ranks_learn_what_they_learn_on_cpus(results, on_gpu, run):
    """In 16 bits attention is another kernel's there, which rounds otherwise."""
    exact = run[2] == "float32"
    for here, there in zip(results, on_gpu, strict=True):
        cpu, gpu = here[run], there[run]
        assert (cpu["device"], gpu["device"]) == ("cpu", "cuda")
        for step in (0, 2):
            ours, theirs = gpu["gradients"][step], cpu["gradients"][step]
            assert relative_difference(ours, theirs) < (5e-6 if exact else 0.05)
            ours, theirs = gpu["weights"][step], cpu["weights"][step]
            assert relative_difference(ours, theirs) < (1e-7 if exact else 5e-3)
        for ours, theirs in zip(gpu["norms"], cpu["norms"], strict=True):
            tolerance = {"rtol": 5e-6 if exact else 0.05, "atol": 0}
            torch.testing.assert_close(ours, theirs, **tolerance)
        assert (gpu["logprobs"] - cpu["logprobs"]).abs().max() < (1e-5 if exact else 0.1)
        assert [o.applied for o in gpu["outcomes"]] == [o.applied for o in cpu["outcomes"]]
