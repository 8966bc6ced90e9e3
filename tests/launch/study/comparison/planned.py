"""What the runs of a comparison leave behind, as far as it reads that."""

import json
from pathlib import Path

from omegaconf import OmegaConf

from launch.run.kept_paths import keep_paths
from launch.run.model_folder import resolve_model
from launch.study.comparison.checks import write_plan

PLAIN = ["allocator@scheduler.allocator=epoch", "thinning@scheduler.thinning=keep_all"]
SUMMARY = {
    "completed": True, "pass_rate_after": 0.5, "pass_rate_before": 0.3, "pass_at_8_after": 0.9,
    "num_steps": 2, "generated_tokens": 5000, "selectable_tokens": 5000, "trained_tokens": 4000,
}  # fmt: skip


def finish(run, num_lines=2, **content):
    """Leave behind what a finished run leaves."""
    run.run_dir.mkdir(parents=True)
    (run.run_dir / "summary.json").write_text(json.dumps(SUMMARY | content))
    composed = run.composed.copy()
    keep_paths(composed, resolve_model(composed.model.path))
    OmegaConf.save(composed, run.run_dir / "config.yaml", resolve=True)
    lines = [
        {
            "step": step, "cost/generated_tokens": 2500 * step, "cost/trained_tokens": 2000 * step,
            "loop/wait_seconds": 1.0, "loop/update_seconds": 2.0, "loop/publish_seconds": 0.5,
            "cost/reward_mean_uniform": 0.4 + 0.05 * step + 0.01 * run.seed,
        }
        for step in range(1, num_lines + 1)
    ]  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run.run_dir / "metrics.jsonl").write_text(text)


def new_folder(config):
    """Make the folder of a comparison, with its plan."""
    folder = Path(config.run_dir)
    write_plan(config, folder)
    return folder
