"""Run by test_host_gpu.py: a learner looks at its model where it will train, and by that kernel."""

import os
import socket
from unittest import mock

import torch

from learner import attention, deepspeed_engine
from learner.config import LearnerConfig
from learner.deepspeed_engine import DeepSpeedEngine
from learner.numerics import Numerics
from tests.places import CHAIN_MODEL


def main():
    with socket.create_server(("127.0.0.1", 0)) as free:
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    os.environ |= where | {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_SIZE": "1"}
    attend, check = attention.attend_sequences, deepspeed_engine.check_packing
    calls = []

    def attended(sequences, query, *others, **settings):
        calls.append(query.device.type)
        return attend(sequences, query, *others, **settings)

    def checked(policy):
        assert {each.device.type for each in policy.parameters()} == {"cuda"}
        check(policy)
        assert set(calls) == {"cuda"}, "in one call"

    with (
        mock.patch.object(attention, "attend_sequences", attended),
        mock.patch.object(deepspeed_engine, "check_packing", checked),
    ):
        engine = DeepSpeedEngine(
            LearnerConfig(zero_stage=3), str(CHAIN_MODEL), Numerics(dtype="bfloat16", temperature=1)
        )
    assert calls
    assert engine.device == torch.device("cuda", 0)


if __name__ == "__main__":
    main()
