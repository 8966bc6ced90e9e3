"""The search for the fastest split."""

import pytest

from launch.study.simulation.plan import COARSE_POINTS, best_count


@pytest.mark.parametrize("most", [1, 2, 7, 16, 63, 100])
def test_the_best_count_is_found_wherever_it_lies(most):
    for best in range(1, most + 1):
        asked = []

        def seconds(count, best=best, asked=asked):
            asked.append(count)
            return max(best / count, (most + 1 - count) ** -1 * (most + 1 - best))

        assert best_count(seconds, most) == best
        assert len(asked) == len(set(asked)) and all(1 <= count <= most for count in asked)


def test_few_counts_are_asked_for():
    asked = []
    best_count(lambda count: asked.append(count) or abs(count - 700.3), 1023)
    assert len(asked) < COARSE_POINTS + 2 * 8 + 4
