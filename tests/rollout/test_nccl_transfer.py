"""Ways out of a transfer over NCCL, without any GPU: what is called, and when."""

from contextlib import nullcontext
from types import SimpleNamespace

import torch

from rollout.nccl_transfer import break_off


def test_no_broadcast_begins_on_a_group_that_is_given_up(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "device_index", lambda index: nullcontext())
    aborted = []
    group = SimpleNamespace(disabled=False, device=torch.device("cuda", 0), comm="comm")
    group.nccl = SimpleNamespace(
        ncclCommAbort=lambda comm: aborted.append((comm, group.disabled)),
    )
    sender = SimpleNamespace(model_update_group=group)
    break_off(sender)
    # Once: what is aborted is gone.
    break_off(sender)
    assert aborted == [("comm", True)]


def test_a_rank_that_is_in_no_group_has_nothing_to_give_up():
    break_off(SimpleNamespace(model_update_group=None))


def test_a_group_that_is_disabled_sends_nothing_and_is_not_aborted_again():
    from vllm.distributed.device_communicators.pynccl import PyNcclCommunicator

    group = object.__new__(PyNcclCommunicator)
    group.available, group.disabled = True, True
    # Without a communicator: either would fail.
    group.broadcast(torch.ones(1), src=0)
    group.destroy()
