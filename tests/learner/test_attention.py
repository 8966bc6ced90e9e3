"""Attention piece by piece against the masked attention of a whole packed row."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from learner.attention import attend, layout_of

ROW = [(3, [4, 1, 6]), (1, []), (6, [2]), (1, [1, 1])]
"""Prompts and the responses that share them."""


def positions_of(row):
    parts = [torch.arange(p) for p, _ in row]
    return torch.cat(
        [
            torch.cat([part, *(p + torch.arange(r) for r in responses)])
            for part, (p, responses) in zip(parts, row, strict=True)
        ]
    )


def seen_by(row, window=10**6):
    """[T, T] bool, straight from the definition: prefix and own response, causally."""
    places = positions_of(row).tolist()
    owners = [(g, j) for g, (p, rs) in enumerate(row) for j, n in enumerate([p, *rs])
              for _ in range(n)]  # fmt: skip
    return torch.tensor(
        [
            [
                s <= t and gs == gt and js in (0, jt) and places[t] - places[s] < window
                for s, (gs, js) in enumerate(owners)
            ]
            for t, (gt, jt) in enumerate(owners)
        ]
    )


def inputs(row, heads=4, kv_heads=2, dim=8, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    positions = positions_of(row)[None]
    total = positions.shape[1]
    q = torch.randn(1, heads, total, dim, generator=generator, dtype=dtype)
    k, v = torch.randn(2, 1, kv_heads, total, dim, generator=generator, dtype=dtype)
    return [t.requires_grad_() for t in (q, k.clone(), v.clone())], positions


@pytest.mark.parametrize("scaling", [None, 0.3])
@pytest.mark.parametrize("row", [ROW, [(3, []), (1, []), (6, [])], [(2, [3, 3])]])
def test_output_and_gradient_are_those_of_the_masked_square(row, scaling):
    ours, positions = inputs(row)
    theirs, _ = inputs(row)
    out, weights = attend(SimpleNamespace(), *ours, None, scaling=scaling, position_ids=positions)
    expected = scaled_dot_product_attention(
        *theirs, attn_mask=seen_by(row), scale=scaling, enable_gqa=True
    ).transpose(1, 2)
    assert weights is None
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    probe = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)
    (out * probe).sum().backward()
    (expected * probe).sum().backward()
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, reference.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("window", [1, 2, 5, 8, 9, 20])
def test_a_window_counts_from_the_token_back_into_the_prompt(window):
    (q, k, v), positions = inputs(ROW)
    out, _ = attend(SimpleNamespace(), q, k, v, None, position_ids=positions, sliding_window=window)
    expected = scaled_dot_product_attention(
        q, k, v, attn_mask=seen_by(ROW, window), enable_gqa=True
    ).transpose(1, 2)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


def test_a_window_that_nothing_exceeds_changes_no_bit():
    (q, k, v), positions = inputs(ROW, dtype=torch.float32)
    plain, _ = attend(SimpleNamespace(), q, k, v, None, position_ids=positions)
    windowed, _ = attend(SimpleNamespace(), q, k, v, None, position_ids=positions, sliding_window=9)
    assert torch.equal(plain, windowed)


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.lists(st.integers(1, 4), max_size=3)), min_size=1,
             max_size=4)
)  # fmt: skip
def test_the_positions_say_what_every_token_sees(row):
    layout = layout_of(positions_of(row))
    ends = torch.tensor(layout.sizes).cumsum(0).tolist()
    starts = [0, *ends[:-1]]
    seen = torch.zeros(ends[-1], ends[-1], dtype=torch.bool)
    for start, end, prefix in zip(starts, ends, layout.prefixes, strict=True):
        seen[start:end, start:end] = True
        if prefix is not None:
            seen[start:end, starts[prefix] : ends[prefix]] = True
    # One response follows its prompt as the rest of one segment.
    assert torch.equal(seen.tril(), seen_by(row))
    alone = [p + sum(rs) if len(rs) < 2 else p + max(rs) for p, rs in row]
    assert layout.longest_context == max(alone)


def test_another_precision_gets_its_own_mask():
    _, positions = inputs(ROW)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        (q, k, v), _ = inputs(ROW, dtype=dtype)
        assert attend(SimpleNamespace(), q, k, v, None, position_ids=positions)[0].dtype == dtype


@pytest.mark.parametrize("positions", [[1, 2], [0, 1, 3], [0, 1, 2, 1, 2, 2]])
def test_positions_that_point_nowhere_are_refused(positions):
    with pytest.raises(ValueError, match=r"^position_ids must restart at 0, or at the length"):
        layout_of(torch.tensor(positions))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position_ids": None}, "position ids"),
        ({"attention_mask": torch.ones(1)}, "no mask"),
        ({"dropout": 0.1}, "dropout 0.1"),
        ({"s_aux": torch.ones(4)}, "got s_aux"),
        ({"is_causal": False}, "got is_causal False"),
    ],
)
def test_what_packed_rows_cannot_have_is_refused(changes, message):
    (q, k, v), positions = inputs(ROW)
    arguments = {"attention_mask": None, "position_ids": positions} | changes
    with pytest.raises(ValueError, match=message):
        attend(SimpleNamespace(), q, k, v, **arguments)
