"""Files of comparisons that are read together say what one comparison would."""

import json

import numpy as np
import pytest

from launch.cli.refusals import UserError
from launch.record.statistics import Estimate
from launch.study.comparison.pooled import read, said
from tests.launch.programs import call

ENDS = {"control": [0.40, 0.42, 0.41, 0.39], "ours": [0.45, 0.48, 0.44, 0.46]}


def write(path, seeds, arms=tuple(ENDS)):
    """Runs that get from 0.2 to their ends in four evaluations; ours at half of the FLOPs."""
    runs = {
        arm: {
            str(seed): {
                "start": 0.2,
                "pass_rate": np.linspace(0.2, ENDS[arm][seed], 5)[1:].tolist(),
                "spent": {"compute_flops": [1e9, 2e9, 3e9, 4e9], "steps": [1.0, 2.0, 3.0, 4.0]},
            }
            for seed in seeds
        }
        for arm in arms
    }
    path.write_text(json.dumps({"evaluations": runs}))
    return str(path)


def test_seeds_and_arms_may_be_spread_over_files(tmp_path):
    whole = said(read([write(tmp_path / "whole.json", range(4))], list(ENDS)), "compute_flops")
    parts = [
        write(tmp_path / "a.json", [0, 1]),
        write(tmp_path / "b.json", [2, 3], ["control"]),
        write(tmp_path / "c.json", [2, 3], ["ours"]),
    ]
    assert said(read(parts, list(ENDS)), "compute_flops") == whole
    assert whole[0].startswith(f"control: {Estimate.of(ENDS['control'])} over 4 seeds")
    differences = np.subtract(ENDS["ours"], ENDS["control"])
    assert f"({differences.mean():+.3f}, 95% interval" in whole[2]
    (flops,) = [line for line in whole if line.startswith("FLOPs")]
    assert "where the curve of control ends (at 4e+09): ours " in flops
    # Straight lines from .2 to .405 and to .4575.
    assert whole[-1] == (
        "at a third and two thirds of that end (1.33e+09 and 2.67e+09 FLOPs): "
        "control 0.268 and 0.337, ours 0.286 and 0.372."
    )
    assert len(said(read(parts, list(ENDS)), "generated_tokens")) == len(whole) - 1


def test_an_arm_is_held_against_the_first_over_the_seeds_that_both_have(tmp_path):
    files = [write(tmp_path / "a.json", [0, 1, 2, 3], ["control"]),
             write(tmp_path / "b.json", [1, 3], ["ours"])]  # fmt: skip
    lines = said(read(files, list(ENDS)), "compute_flops")
    mean = np.mean([ENDS["ours"][seed] - ENDS["control"][seed] for seed in (1, 3)])
    assert f"({mean:+.3f}, 95% interval" in lines[2] and "2 paired seeds" in lines[2]
    # Arms that nobody asked for are passed over, and the first that was asked for is the baseline.
    assert said(read(files, ["ours"]), "compute_flops")[0].startswith("ours: ")


def test_what_cannot_be_read_together_is_refused(tmp_path):
    file = write(tmp_path / "a.json", [0, 1])
    with pytest.raises(UserError, match="control seed 0 is twice"):
        read([file, file], list(ENDS))
    with pytest.raises(UserError, match=r"cannot read .*nowhere.*No such file"):
        read([str(tmp_path / "nowhere")], list(ENDS))
    with pytest.raises(UserError, match="there are none"):
        said(read([file], ["half"]), "steps")
    with pytest.raises(
        UserError, match=r"runs of arms\.base, the baseline .*, got runs of ours alone"
    ):
        read([file], ["base", "ours"])
    for content in (
        "{",
        "[" * 100_000,
        "[]",
        '{"evaluations": {"a": {"0": {"pass_rate": []}}}}',
        '{"evaluations": 1}',
    ):
        (tmp_path / "odd.json").write_text(content)
        with pytest.raises(UserError, match="pooled must name files comparison"):
            read([str(tmp_path / "odd.json")], list(ENDS))


def test_the_program_prints_and_runs_nothing(tmp_path):
    file = write(tmp_path / "a.json", [0, 1, 2, 3])
    run_dir = tmp_path / "run"
    done = call(
        "launch.compare", "~arms", "+arms={control:[],ours:[]}", f"pooled=[{file}]",
        f"run_dir={run_dir}", "budget.axis=compute_flops",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert done.out.splitlines() == said(read([file], list(ENDS)), "compute_flops")
    assert not run_dir.exists()
