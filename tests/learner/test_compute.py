"""FLOPs of the learners, held against what torch counts and against sums by hand."""

from dataclasses import replace

import numpy as np
import pytest
from torch.utils.flop_counter import FlopCounterMode

from cost.prices.compute import scoring
from cost.prices.shape import ModelShape
from cost.types import LengthReport
from learner.batch import collate
from learner.batch_plan import MinibatchPlan
from learner.compute import CURVATURE_PRODUCTS, LearnerCompute
from learner.config import LearnerConfig
from learner.curvature_config import RejectedShares
from learner.gradient_norms import gradient_norms
from learner.lora import LoraConfig, attach
from learner.partition import Work
from learner.reference_config import ReferenceConfig
from learner.scoring import unscored_segment
from tests.learner.conftest import PlainEngine

SHAPE = ModelShape(
    hidden_size=8, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=5, intermediate_size=7,
    vocab_size=11,
)  # fmt: skip


def report(ticket_id, prompt_tokens, *lengths):
    whole, none = np.array(lengths), np.zeros(len(lengths))
    return LengthReport(
        ticket_id, 0, prompt_tokens, prompt_tokens, whole, none > 0, none, none.astype(np.int64),
        none, none.astype(np.int64), 0.1, 0,
    )  # fmt: skip


REPORTS = [report(0, 6, 4, 1, 3), report(1, 5, 7), report(2, 9)]
PLANS = [[MinibatchPlan(2, (((0, 0), (0, 2), (1, 0)),)), MinibatchPlan(2, (((0, 1),), ()))]]


def compute(**settings):
    return LearnerCompute(SHAPE, LearnerConfig(**settings))


def forward(shared=True):
    """FLOPs of a forward pass over the rows: (tokens, logits, pairs) by hand."""
    pairs = 21 + (7 + 8 + 9 + 10) + (7 + 8 + 9) + 78 + 28
    if not shared:
        pairs += 21
    return (6 + 4 + 3 + 12 + 7 + 6 * (not shared), 4 + 3 + 7 + 1, pairs)


def flops(token=0.0, head=0.0, pair=0.0, *, shared=True, adapter=0.0):
    tokens, logits, pairs = forward(shared)
    weights = token * SHAPE.token + adapter
    return weights * tokens + head * SHAPE.head * logits + pair * SHAPE.pair * pairs


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, flops(3, 3, 3)),
        ({"shared_prefix": False}, flops(3, 3, 3, shared=False)),
        ({"gradient_checkpointing": True}, flops(4, 3, 4)),
        ({"behaviour": "recomputed"}, flops(4, 4, 4)),
        ({"reference": ReferenceConfig(kl_coefficient=0.1)}, flops(4, 4, 4)),
        (
            {"curvature": RejectedShares(low=0.1)},
            flops(4, 4 + CURVATURE_PRODUCTS, 4),
        ),
    ],
)  # fmt: skip
def test_a_pass_takes_what_is_laid_out(settings, expected):
    assert compute(**settings).update(PLANS, REPORTS) == pytest.approx(expected, rel=1e-12)


def test_logits_of_an_environment_s_tokens_are_not_computed():
    played = replace(REPORTS[0], environment_tokens=np.array([2, 0, 1]))
    reports = [played, *REPORTS[1:]]
    less = compute().update(PLANS, REPORTS) - compute().update(PLANS, reports)
    assert less == pytest.approx(3 * 3 * SHAPE.head)
    less = compute().scores(REPORTS) - compute().scores(reports)
    assert less == pytest.approx(3 * SHAPE.head)


def test_finding_entropies_takes_a_pass():
    assert compute().update(PLANS, REPORTS, 0.5) == pytest.approx(flops(4, 4, 4), rel=1e-12)


def test_adapters_leave_out_the_gradient_of_the_weights_they_sit_on():
    rank, sides = 2, (8 + 20) + 2 * (8 + 10) + (20 + 8) + 3 * (8 + 7)
    adapters = 2 * 3 * rank * sides
    found = compute(lora=LoraConfig(rank=rank)).update(PLANS, REPORTS)
    assert found == pytest.approx(flops(2, 2, 3, adapter=3 * adapters), rel=1e-12)
    some = compute(lora=LoraConfig(rank=rank, target_modules=["q_proj", "mlp.up_proj"]))
    assert some.adapters == 2 * 3 * rank * ((8 + 20) + (8 + 7))


def test_long_rows_compute_logits_twice_and_in_chunks_everything():
    whole = flops(3, 3, 3)
    # Row one has 14 scored tokens, so that two chunks of 6 come again.
    assert compute(logits_chunk_tokens=6).update(PLANS, REPORTS) == pytest.approx(
        whole + 12 * SHAPE.head
    )
    chunked = flops(3, 3, 3, shared=False)
    first = Work.of_shape(SHAPE)
    again = sum(first.of_prompt(p) + first.of_response(p, n) for p, n in ((6, 4), (6, 3), (5, 7)))
    assert compute(chunk_tokens=10).update(PLANS, REPORTS) == pytest.approx(chunked + again)


def test_scores_repeat_the_prompts():
    expected = scoring(SHAPE, 6, np.array([4, 1, 3])).sum() + scoring(SHAPE, 5, np.array([7])).sum()
    assert compute().scores(REPORTS) == pytest.approx(expected)


@pytest.fixture(scope="module")
def engine(model_paths):
    return PlainEngine(model_paths[False])


def row_of(*lengths, prompt=10):
    rng = np.random.default_rng(0)
    return collate(
        [
            unscored_segment(rng.integers(0, 99, prompt), rng.integers(0, 99, n), np.ones(n, bool))
            for n in lengths
        ]
    )


def products(counter):
    """FLOPs of matrix products that torch counted, those of attention left out."""
    ops = counter.get_flop_counts()["Global"]
    return sum(count for op, count in ops.items() if str(op) in ("aten.mm", "aten.addmm"))


@pytest.mark.parametrize("rank", [0, 4])
def test_torch_counts_the_same_products(model_paths, rank):
    """All of a row's but attention's, of which torch counts the masked pairs as well."""
    engine = PlainEngine(model_paths[False])
    if rank:
        attach(engine.model, LoraConfig(rank=rank))
    row = row_of(12, 30)
    with FlopCounterMode(display=False) as counter:
        logprobs, _ = engine.logprobs(row)
        logprobs.sum().backward()
    shape = replace(ModelShape.of_model(str(model_paths[False])))
    counted = LearnerCompute(shape, LearnerConfig(lora=LoraConfig(rank=rank), shared_prefix=False))
    work = counted.training_work()
    expected = work.token * 62 + work.loss_token * 42
    if rank:
        # Nothing below the first layer's adapters is trained, so that no gradient goes there.
        queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
        expected -= 62 * 2 * (shape.hidden_size + rank) * (queries + 2 * keys)
    assert products(counter) == pytest.approx(expected, rel=0.01)


def test_torch_counts_the_same_for_norms_at_the_head(engine, model_paths):
    """Through products of tokens for the short response, through the gradient for the long one."""
    lengths = 12, 100
    with FlopCounterMode(display=False) as counter:
        gradient_norms(engine.policy, row_of(*lengths), "lm_head")
    shape = ModelShape.of_model(str(model_paths[False]))
    found = LearnerCompute(shape, LearnerConfig()).gradient_norms(
        [report(0, 10, *lengths)], "lm_head"
    )
    pairs = sum((10 + n) * (11 + n) / 2 for n in lengths)
    assert products(counter) == pytest.approx(found - shape.pair * pairs, rel=0.01)


def test_norms_at_the_embedding_take_a_backward_pass_to_what_goes_in():
    found = compute().gradient_norms(REPORTS[1:], "embedding")
    assert found == 12 * 2 * SHAPE.token + 7 * 2 * SHAPE.head + 78 * 3 * SHAPE.pair
