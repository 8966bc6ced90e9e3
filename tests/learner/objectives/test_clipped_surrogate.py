"""Clipped surrogates of tokens, turns and responses against closed forms."""

import math

import pytest

from learner.objectives.clipped_surrogate import ClippedSurrogate, Gspo, TurnClippedSurrogate

BOUNDS = [(0.2, 0.2, None), (0.2, 0.28, None), (0.2, 0.28, 3.0), (0.16, 0.24, None)]


@pytest.mark.parametrize(("low", "high", "dual"), BOUNDS)
def test_losses_and_gradient_factors_follow_the_closed_form(run, grid, gradient_factors,
                                                            low, high, dual):  # fmt: skip
    def inside(r, a):
        if a < 0:
            return r >= 1 - low and (dual is None or r <= dual)
        return a == 0 or r <= 1 + high

    objective = ClippedSurrogate(clip_low=low, clip_high=high, dual_clip=dual)
    gradient_factors(objective, lambda r, a: r if inside(r, a) else 0.0)
    ratios, advantages = zip(*grid, strict=True)
    output, _ = run(objective, ratios, advantages)
    for index, (r, a) in enumerate(grid):
        surrogate = min(r * a, min(max(r, 1 - low), 1 + high) * a)
        if dual is not None and a < 0:
            surrogate = max(surrogate, dual * a)
        assert output.token_losses[index].item() == pytest.approx(-surrogate, abs=1e-12)
        assert output.metrics["clip_fraction"][index].item() == float(not inside(r, a))
        assert output.metrics["ratio"][index].item() == pytest.approx(r)


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("clip_low", {"clip_low": 0.0}),
        ("clip_low", {"clip_low": 1.1}),
        ("clip_high", {"clip_high": 0.0}),
        ("clip_high", {"clip_high": math.nan}),
        ("dual_clip", {"dual_clip": 1.28}),
    ],
)
def test_bounds_outside_their_range_are_refused(key, settings):
    with pytest.raises(ValueError, match=rf"^objective\.{key} .* got {settings[key]!r}$"):
        ClippedSurrogate(**settings)
    if key != "dual_clip":
        for other in (Gspo, TurnClippedSurrogate):
            with pytest.raises(ValueError, match=rf"^objective\.{key} .* got {settings[key]!r}$"):
                other(**settings)


@pytest.mark.parametrize(
    "objective", [Gspo(), Gspo(0.2, 0.28), TurnClippedSurrogate(), TurnClippedSurrogate(0.3, 0.5)]
)
def test_gradient_factor_of_runs_of_one_token(gradient_factors, objective):
    def factor(r, a):
        outside = r > 1 + objective.clip_high if a > 0 else r < 1 - objective.clip_low
        return 0.0 if outside else r

    gradient_factors(objective, factor)


@pytest.mark.parametrize("kind", [Gspo, TurnClippedSurrogate])
@pytest.mark.parametrize("a", [-1.5, 2.0])
def test_gradient_factor_of_a_long_run_is_its_mean_ratio_for_every_token(run, grid, kind, a):
    """Four tokens whose ratios differ and whose geometric mean is each r of the grid."""
    row = {"segment_ids": [0] * 5, "loss_mask": [False, True, True, True, True]}
    for r in sorted({r for r, _ in grid}):
        ratios = [1.0, 0.5 * r, 2.0 * r, 0.8 * r, 1.25 * r]
        _, gradient = run(kind(0.2, 0.28), ratios, [a] * 5, **row)
        factor = 0.0 if (r > 1.28 if a > 0 else r < 0.8) else r
        assert gradient.tolist() == pytest.approx([0.0] + [-a * factor] * 4, rel=1e-9)


# Two prompt tokens, then a response: lengths 3 and 2, with a gap in the first.
SEGMENTS = [0, 0, 0, 0, 0, 0, 1, 1, 1, 1]
MASK = [False, False, True, True, False, True, False, False, True, True]
RATIOS = [1.0, 1.0, 1.0004, 0.9999, 1.0, 1.0002, 1.0, 1.0, 0.99, 1.0002]


def test_gspo_gives_each_token_its_share_of_the_sequence_gradient(run):
    """With a = 1 / |y| the token losses add up to -s A, and each gradient is s A / |y|."""
    advantages = [2.0] * 6 + [1.0] * 4
    output, gradient = run(Gspo(), RATIOS, advantages, segment_ids=SEGMENTS, loss_mask=MASK)
    s = [(1.0004 * 0.9999 * 1.0002) ** (1 / 3), (0.99 * 1.0002) ** (1 / 2)]
    assert s[0] < 1 + 4e-4 and s[1] < 1 - 3e-4
    for j, (length, a) in enumerate([(3, 2.0), (2, 1.0)]):
        own = [t for t, segment in enumerate(SEGMENTS) if segment == j]
        total = sum(output.token_losses[t].item() for t in own) / length
        assert total == pytest.approx(-s[j] * a, rel=1e-12)
        for t in own:
            share = s[j] * a / length if MASK[t] else 0.0
            assert gradient[t].item() / length == pytest.approx(-share, rel=1e-12)
    assert not output.metrics["clip_fraction"].any()


@pytest.mark.parametrize(("a", "clipped"), [(1.0, True), (-1.0, False)])
def test_gspo_clips_whole_responses(run, a, clipped):
    ratios = [1.0, 1.002, 0.9995]
    output, gradient = run(
        Gspo(), ratios, [a] * 3, segment_ids=[0] * 3, loss_mask=[False, True, True]
    )
    s = math.sqrt(1.002 * 0.9995)
    assert s > 1 + 4e-4
    bounded = 1 + 4e-4 if clipped else s
    assert output.token_losses.tolist() == pytest.approx([0.0, -bounded * a, -bounded * a])
    assert gradient.tolist() == pytest.approx([0.0] + [0.0 if clipped else -s * a] * 2)
    assert output.metrics["clip_fraction"][1:].tolist() == [float(clipped)] * 2


def test_responses_of_one_token_make_gspo_the_token_surrogate(run, grid):
    ratios, advantages = zip(*grid, strict=True)
    one, one_gradient = run(Gspo(clip_low=0.2, clip_high=0.28), ratios, advantages)
    other, other_gradient = run(ClippedSurrogate(), ratios, advantages)
    assert one.token_losses.tolist() == pytest.approx(other.token_losses.tolist())
    assert one_gradient.tolist() == pytest.approx(other_gradient.tolist())


def test_responses_of_one_turn_make_the_turn_ratio_gspo(run):
    advantages = [1.5] * 6
    mask = [False, True, True, True, False, False]
    row = {"segment_ids": [0] * 6, "loss_mask": mask}
    ratios = [1.0, 0.9, 1.4, 1.05, 1.0, 1.0]
    one, one_gradient = run(TurnClippedSurrogate(0.2, 0.28), ratios, advantages, **row)
    other, other_gradient = run(Gspo(0.2, 0.28), ratios, advantages, **row)
    assert one.token_losses.tolist() == other.token_losses.tolist()
    assert one_gradient.tolist() == other_gradient.tolist()
    assert one_gradient.any()


def test_turns_of_one_token_make_the_turn_ratio_the_token_ratio(run):
    ratios = [1.0, 0.7, 1.0, 1.1, 1.0, 1.5]
    mask = [False, True] * 3
    for a in (-1.0, 1.0):
        row = {"segment_ids": [0] * 6, "loss_mask": mask}
        one, one_gradient = run(TurnClippedSurrogate(0.2, 0.2), ratios, [a] * 6, **row)
        other, other_gradient = run(ClippedSurrogate(0.2, 0.2), ratios, [a] * 6, **row)
        assert one.token_losses.tolist() == pytest.approx(other.token_losses.tolist())
        assert one_gradient.tolist() == pytest.approx(other_gradient.tolist())


def test_each_turn_is_clipped_by_its_own_ratio(run):
    mask = [False, True, True, False, True, True]
    ratios = [1.0, 1.2, 1.6, 1.0, 1.0, 1.1]
    output, gradient = run(
        TurnClippedSurrogate(), ratios, [1.0] * 6, segment_ids=[0] * 6, loss_mask=mask
    )
    assert math.sqrt(1.2 * 1.6) > 1.2 > math.sqrt(1.1)
    second = math.sqrt(1.1)
    assert output.token_losses.tolist() == pytest.approx([0, -1.2, -1.2, 0, -second, -second])
    assert gradient.tolist() == pytest.approx([0, 0, 0, 0, -second, -second])


def test_the_clipping_bias_lowers_only_the_responses_that_it_is_of(run):
    plain, corrected = (TurnClippedSurrogate(0.2, 0.2, corrects) for corrects in (False, True))
    row = {
        "segment_ids": [0, 0, 0, 0, 0, 1, 1, 1],
        "loss_mask": [False, True, True, False, True, False, True, True],
    }
    # The first response's second turn is clipped, nothing of the second response is.
    ratios, advantages = [1, 1.1, 1.1, 1, 1.5, 1, 0.9, 1.1], [2.0] * 5 + [-1.0] * 3
    before, gradient = run(plain, ratios, advantages, **row)
    after, scaled = run(corrected, ratios, advantages, **row)
    bias = 1.5 * 2.0 / 3
    expected = [1 + bias] * 5 + [1.0] * 3
    for index in range(8):
        assert after.token_losses[index].item() * expected[index] == pytest.approx(
            before.token_losses[index].item()
        )
    assert (scaled * scaled.new_tensor(expected)).tolist() == pytest.approx(gradient.tolist())
    assert after.metrics["clipping_bias"][1].item() == pytest.approx(bias)
    for name, values in before.metrics.items():
        assert after.metrics[name].tolist() == values.tolist()
