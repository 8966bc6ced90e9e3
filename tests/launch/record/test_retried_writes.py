"""Writes in their order, whatever fails for how long; and no more of them than are allowed."""

import random

import pytest

from launch.record.retried_writes import RetriedWrites


class Disk:
    """Takes writes, or refuses them."""

    def __init__(self):
        self.content, self.full = [], False

    def write(self, number):
        def call():
            if self.full:
                raise OSError(28, "No space left on device")
            self.content.append(number)

        return call


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost_or_swapped_within_the_bound(seed):
    rng, disk, kept = random.Random(seed), Disk(), RetriedWrites(10_000)
    for number in range(100):
        disk.full = rng.random() < 0.6
        if disk.full:
            with pytest.raises(OSError):
                kept.put(100, disk.write(number))
            assert disk.content == [*range(len(disk.content))]
        else:
            kept.put(100, disk.write(number))
            assert disk.content == [*range(number + 1)]
        assert kept.num_waiting == number + 1 - len(disk.content)
    disk.full = False
    kept.flush()
    assert disk.content == [*range(100)] and kept.num_dropped == kept.num_waiting == 0


def test_beyond_the_bound_the_oldest_are_dropped_and_counted():
    disk, kept = Disk(), RetriedWrites(250)
    disk.full = True
    for number in range(10):
        with pytest.raises(OSError):
            kept.put(100, disk.write(number))
        assert kept.num_waiting == min(number + 1, 2)
    # One that is larger than what may be kept is there until the next.
    with pytest.raises(OSError):
        kept.put(1000, disk.write(10))
    assert kept.num_waiting == 1 and kept.num_dropped == 10
    disk.full = False
    kept.put(100, disk.write(11))
    assert disk.content == [10, 11] and kept.num_dropped == 10


def test_a_mistake_is_no_matter_of_the_disk():
    def wrong():
        raise KeyError("x")

    with pytest.raises(KeyError):
        RetriedWrites().put(1, wrong)
