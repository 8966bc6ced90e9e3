"""Tensors arrive as they were sent, however they are cut into buckets."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rollout.buckets import ALIGNMENT, cut

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.uint8, torch.int64]
shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
kinds = st.lists(st.tuples(st.sampled_from(DTYPES), shapes), max_size=12)


def made(kind, seed):
    dtype, shape = kind
    bytes_ = torch.Size(shape).numel() * dtype.itemsize
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randint(0, 256, (bytes_,), dtype=torch.uint8, generator=generator)
    return raw.view(dtype).view(shape)


def same(one, other):
    a, b = (x.contiguous().reshape(-1).view(torch.uint8) for x in (one, other))
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(a, b)


@given(kinds, st.integers(1, 300))
def test_all_arrive_in_order_bit_for_bit(kinds, most_bytes):
    sent = [made(kind, seed) for seed, kind in enumerate(kinds)]
    buckets, ahead = cut(kinds, most_bytes), iter(sent)
    arrived = []
    for bucket in buckets:
        message, room = bucket.packed(ahead), bucket.buffer()
        assert message.shape == room.shape and message.dtype == room.dtype
        room.copy_(message)
        arrived += bucket.unpacked(room)
    assert next(ahead, None) is None and len(arrived) == len(sent)
    assert all(same(one, other) for one, other in zip(sent, arrived, strict=True))


@given(kinds, st.integers(1, 300))
def test_no_bucket_of_several_is_larger_than_it_may_be_and_none_has_room_for_the_next(
    kinds, most_bytes
):
    buckets = cut(kinds, most_bytes)
    assert [(p.dtype, p.shape) for bucket in buckets for p in bucket.pieces] == kinds
    ends = [bucket.pieces[-1].begin + bucket.pieces[-1].num_bytes for bucket in buckets]
    for bucket, end in zip(buckets, ends, strict=True):
        assert len(bucket.pieces) == 1 or end <= most_bytes
        assert all(piece.begin % ALIGNMENT == 0 for piece in bucket.pieces)
    for end, following in zip(ends, buckets[1:], strict=False):
        aligned = -(-end // ALIGNMENT) * ALIGNMENT
        assert aligned + following.pieces[0].num_bytes > most_bytes


def test_a_tensor_need_only_last_until_the_next_is_asked_for():
    held = torch.zeros(3)

    def gathered():
        for value in (1.0, 2.0):
            held.fill_(value)
            yield held

    (bucket,) = cut([(torch.float32, (3,))] * 2)
    first, second = bucket.unpacked(bucket.packed(gathered()))
    assert first.tolist() == [1.0] * 3 and second.tolist() == [2.0] * 3


def test_one_of_its_own_is_sent_as_it_is():
    tensor = torch.arange(6.0).reshape(2, 3)
    (bucket,) = cut([(torch.float32, (2, 3))])
    assert bucket.packed(iter([tensor])).data_ptr() == tensor.data_ptr()
    assert bucket.packed(iter([tensor.T.contiguous().T])).is_contiguous()


def test_too_few_tensors_are_an_error():
    (bucket,) = cut([(torch.float32, (2,))] * 2)
    with pytest.raises(StopIteration):
        bucket.packed(iter([torch.ones(2)]))
