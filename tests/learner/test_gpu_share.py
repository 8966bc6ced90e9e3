"""What torch is told of a GPU that is shared, without one."""

import pytest
import torch

from learner.gpu_share import CONTEXT_BYTES, keep_to


@pytest.fixture
def told(monkeypatch):
    found = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**30, 24 * 2**30))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", found.append)
    return found


def test_what_cuda_takes_is_part_of_the_share(told):
    keep_to(0.55)
    assert told[0] * 24 * 2**30 + CONTEXT_BYTES == pytest.approx(0.55 * 24 * 2**30)


def test_who_shares_with_nobody_has_no_bound(told):
    keep_to(1.0)
    assert told == []
