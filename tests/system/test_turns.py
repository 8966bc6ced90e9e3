"""Several turns through the real stack: calls, masks, shared beginnings, a policy that moved."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from launch.record.trace import write_trace
from tests.places import PROJECT
from tests.system.program import finished, train

pytestmark = pytest.mark.system
MODEL = PROJECT / "rollout" / "tasks" / "calculator_model"


def test_a_policy_with_a_tool_is_trained_on_its_own_words_alone(tmp_path):
    run_dir = tmp_path / "run"
    with train(
        run_dir,
        "experiment=calculator",
        "recipe=st_ppo",
        # Half of a group is from the prompt, the other half branches after whatever call.
        "branching@rollout.branching=agentic_aepo",
        "rollout.branching.threshold=0",
        "rollout.branching.beta=0",
        "rollout.max_tokens=96",
        "loop.num_steps=2",
        "loop.max_staleness=0",
        "checkpoint.every_steps=100",
    ) as process:
        status, out = finished(process)
    assert status == 0, out

    steps = lines_of(run_dir / "metrics.jsonl")
    assert [step["step"] for step in steps] == [1, 2]
    for step in steps:
        assert step["rollout/turns_mean"] > 1 and step["rollout/tool_calls_mean"] > 0
        assert step["rollout/environment_mean_tokens"] > 0
        assert step["parity/max_logprob_difference"] < 1e-4
    assert sum(step["rollout/inherited_mean_tokens"] for step in steps) > 0
    assert sum(step["cost/step_trained_tokens"] for step in steps) > 0
    assert sum(step["learner/optimizer_steps"] for step in steps) > 0
    before, after = (load_file(path / "model.safetensors") for path in (MODEL, run_dir / "policy"))
    assert any(not np.array_equal(before[name], after[name]) for name in before)

    samples = lines_of(run_dir / "samples.jsonl")
    played = [sample for sample in samples if sample["turns"]]
    assert played
    for sample in played:
        turns = sample["turns"]
        assert sum(turn["num_tokens"] for turn in turns) == sample["length_tokens"]
        # The policy's turns, which are trained on, and the tool's, which are not, take turns.
        assert turns[0]["trained"]
        assert all(a["trained"] != b["trained"] for a, b in pairwise(turns))
        for call, told in pairwise(turns):
            if call["trained"] and call["calls"] and not call["failed_calls"]:
                assert '"calculator"' in call["text"] and any(c.isdigit() for c in told["text"])
    assert sum(turn["calls"] for sample in played for turn in sample["turns"]) > 0
    names = {event["name"] for event in json.loads(write_trace(run_dir).read_text())["traceEvents"]}
    assert "tool, turn 0" in names


def lines_of(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]
