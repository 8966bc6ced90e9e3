"""Windows and capped scores against the square of the whole sequence."""

import pytest
import torch

from learner.window_attention import attend_last


def square(query, key, value, *, scaling, window, softcap):
    """The definition: every score, masked."""
    num_queries, num_keys = query.shape[2], key.shape[2]
    per_key = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(per_key, 1), value.repeat_interleave(per_key, 1)
    scores = query @ key.transpose(2, 3) * (query.shape[3] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    at = torch.arange(num_keys - num_queries, num_keys)[:, None]
    before = torch.arange(num_keys)
    seen = (before <= at) & (before > at - (window or num_keys))
    return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value


@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("window", [None, 1, 3, 5, 40])
@pytest.mark.parametrize(("num_queries", "num_keys"), [(1, 1), (7, 7), (4, 11), (17, 23)])
def test_output_and_gradient_are_those_of_the_masked_square(
    num_queries, num_keys, window, softcap, monkeypatch
):
    monkeypatch.setattr("learner.window_attention._BLOCK", 5)
    generator = torch.Generator()

    def inputs():
        made = []
        for heads, size, seed in ((4, num_queries, 1), (2, num_keys, 2), (2, num_keys, 3)):
            generator.manual_seed(seed)
            made.append(torch.randn(1, heads, size, 8, generator=generator, dtype=torch.float64))
        return [tensor.requires_grad_() for tensor in made]

    ours, theirs = inputs(), inputs()
    settings = {"scaling": 0.4 if window else None, "window": window, "softcap": softcap}
    out, expected = attend_last(*ours, **settings), square(*theirs, **settings)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    probe = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)
    (out * probe).sum().backward()
    (expected * probe).sum().backward()
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, reference.grad, rtol=0, atol=1e-12)
