"""Ways out of a group and of a transfer over NCCL, without any GPU: what is called, and when."""

import threading
import time
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from vllm.distributed.weight_transfer import nccl_common

from rollout import nccl_transfer
from rollout.nccl_transfer import NcclInitInfo, NcclWeightTransferEngine, break_off
from rollout.rendezvous import GivenUpError
from rollout.weight_transfer import PolicySource, open_sender

UNIQUE_ID = bytes(range(128))


@pytest.fixture
def entered(monkeypatch):
    """(Name of the group, rank, its size) of each that entered NCCL's group."""
    found = []

    def enter(unique_id, rank, world_size, device):
        found.append((unique_id, rank, world_size))
        return SimpleNamespace(rank=rank, disabled=True)

    monkeypatch.setattr(nccl_common, "uid_init_process_group", enter)
    monkeypatch.setattr(nccl_transfer, "_new_group", lambda: UNIQUE_ID)
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 0)
    return found


def engine():
    half = object.__new__(NcclWeightTransferEngine)
    half.parallel_config = SimpleNamespace(data_parallel_index=0, world_size=1, rank=0)
    return half


class Client:
    """Lets engines join, each in a thread of its own, after some seconds each.

    Args:
        delays: Of each engine; None of one that dies before it joins.
        errors: Where what engines raise is put.
    """

    def __init__(self, delays, errors):
        self.delays, self.errors = delays, errors
        self.threads = []

    def init_weight_transfer_engine(self, info):
        def join(i, delay):
            time.sleep(delay)
            shifted = info | {"rank_offset": info["rank_offset"] + i}
            try:
                engine().init_transfer_engine(NcclInitInfo(**shifted))
            except Exception as error:
                self.errors.append(error)

        living = [(i, delay) for i, delay in enumerate(self.delays) if delay is not None]
        self.threads = [threading.Thread(target=join, args=one) for one in living]
        for thread in self.threads:
            thread.start()
        if None in self.delays:
            # Ray says so when it has noticed.
            time.sleep(0.3)
            raise RuntimeError("an engine died")
        for thread in self.threads:
            thread.join(30)


def sender_of(client, port, rank=0):
    return open_sender(
        backend="nccl",
        rank=rank,
        master_address="127.0.0.1",
        master_port=port,
        num_receivers=2,
        client=client,
        source=PolicySource([("w", torch.float32, (2,))], lambda: iter(()), {}),
    )


def test_all_enter_the_group_when_all_are_there_each_with_a_rank_of_its_own(free_port, entered):
    began, errors = time.monotonic(), []
    client = Client([0.0, 0.4], errors)
    early = []
    threading.Timer(0.2, lambda: early.extend(entered)).start()
    sender = sender_of(client, free_port)
    assert errors == []
    assert (early, time.monotonic() - began >= 0.4) == ([], True)
    assert sorted(entered) == [(UNIQUE_ID, rank, 3) for rank in range(3)]
    assert sender.model_update_group.rank == 0


def test_when_one_dies_at_the_join_nobody_enters_and_all_are_free_at_once(free_port, entered):
    errors = []
    client = Client([0.0, None], errors)
    with pytest.raises(RuntimeError, match=r"^an engine died"):
        sender_of(client, free_port)
    for thread in client.threads:
        thread.join(10)
    assert [type(error) for error in errors] == [GivenUpError]
    assert entered == []


def test_ranks_other_than_0_are_in_no_group(entered):
    sender = sender_of(Client([], []), port=1, rank=1)
    assert (sender.model_update_group, entered) == (None, [])


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
