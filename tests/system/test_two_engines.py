"""One run of several turns on two engines, looked at from every side: its weights, its words, Ray.

Starting what it runs on takes far longer than the run.
"""

import json
import math
import re
import shutil
import time
import urllib.request
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import ray
from safetensors.numpy import load_file

from launch.record.dashboard.names import prometheus_name
from launch.record.dashboard.panels import PANELS
from launch.record.dashboard.tracker import RayTracker
from launch.record.trace import write_trace
from launch.record.tracking import RunInfo
from tests.places import PROJECT

pytestmark = pytest.mark.system
MODEL = PROJECT / "rollout" / "tasks" / "calculator_model"
SCRAPE_SECONDS = 300.0
KEYS = sorted({key for panel in PANELS for query in panel.queries for key in query.keys})


@dataclass(frozen=True)
class Ran:
    """A run that is over, and what was seen of its system afterwards."""

    model: Path
    folder: Path
    version: int
    disturbed_difference: float
    """Of engines and learners whose weights were changed but not published."""
    tracked: dict
    """Values that were handed to Ray, by metric and run."""
    scraped: dict
    """Those that came out."""
    max_difference: float

    @property
    def metrics(self):
        return lines_of(self.folder / "metrics.jsonl")


@pytest.fixture(scope="module")
def ran(tmp_path_factory, prepared_in, on_cluster):
    """Untied model, ZeRO 3, two engines that sleep while it learns, drained updates, a calculator.

    Half of a group is from the prompt, the other half branches after whatever call.
    """
    from launch.record.startup import Startup
    from launch.run.system import System
    from launch.run.training import TrainingRun

    folder = tmp_path_factory.mktemp("two_engines")
    model = untied_copy(MODEL, folder / "untied")
    inputs = prepared_in(
        folder,
        "experiment=calculator",
        "recipe=st_ppo",
        f"model.path={model}",
        "branching@rollout.branching=agentic_aepo",
        "rollout.branching.threshold=0",
        "rollout.branching.beta=0",
        "resources.num_engines=2",
        "resources.engine_cpus=0.5",
        "learner.zero_stage=3",
        "loop.num_steps=2",
        "loop.max_staleness=0",
        "resources.engines_sleep=true",
        "rollout.update_mode=drain",
        "rollout.max_tokens=96",
        "rollout.temperature=0.8",
        "evaluation.before=false",
        "evaluation.after=false",
    )

    async def main():
        system = await System.create(inputs.config, inputs.prompts, Startup())
        try:
            await TrainingRun(inputs, system, began=time.monotonic()).run(Startup())
            tracked, scraped = tracked_and_scraped(folder)
            # Weights that were changed but not published, as after a transfer that lost some.
            await system.learners.disturb_weights()
            return system.version, await system.probe(), tracked, scraped
        finally:
            await system.close()

    seen = on_cluster(inputs.config.resources, main)
    run_dir = Path(inputs.config.run_dir)
    return Ran(model, run_dir, *seen, inputs.config.parity.max_difference)


def untied_copy(source, path):
    """A model with an output head of its own, different from the embedding."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shutil.copytree(source, path)
    config = AutoConfig.from_pretrained(path)
    config.tie_word_embeddings = False
    model = AutoModelForCausalLM.from_pretrained(path, config=config, dtype=torch.float32)
    embedding = AutoModelForCausalLM.from_pretrained(source).get_input_embeddings().weight
    with torch.no_grad():
        model.get_output_embeddings().weight.copy_(embedding * 1.125)
    model.save_pretrained(path)
    return path


def track(folder):
    """Hand every metric of the panels to Ray; returns the values by name and run."""
    names, tracked = [prometheus_name(key) for key in KEYS], {}
    # One process may make several runs, one after the other.
    for first, name in enumerate(("one", "two")):
        run = RunInfo(name, folder, {}, 2)
        tracker = RayTracker().open(run)
        values = [float(first + index) for index in range(len(KEYS))]
        tracker.log(1, dict(zip(KEYS, values, strict=True)))
        tracker.log(2, dict.fromkeys(KEYS, math.nan))
        tracker.close({})
        tracked |= {(key, run.title): x for key, x in zip(names, values, strict=True)}
    return tracked


def tracked_and_scraped(folder):
    """What was handed to Ray, and what can be scraped there, once that is all or it had its time.

    Ray forgets what is not set again.
    """
    (node,) = ray.nodes()
    address = f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"
    deadline = time.monotonic() + SCRAPE_SECONDS
    while True:
        tracked = track(folder)
        time.sleep(1)
        found = scrape(address, {name for name, _ in tracked})
        if found == tracked or time.monotonic() > deadline:
            return tracked, found


def scrape(address, names):
    """Values of these metrics by name and run."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    line = re.compile(r'^(\w+)\{[^}]*\brun="([^"]+)"[^}]*\} (\S+)$', re.MULTILINE)
    return {(name, run): float(value) for name, run, value in line.findall(text) if name in names}


def lines_of(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_two_engines_follow_an_untied_policy(ran):
    assert [step["step"] for step in ran.metrics] == [1, 2]
    assert max(step["parity/max_logprob_difference"] for step in ran.metrics) < 1e-4
    # At temperature 0.8: had the engine reported untempered log-probabilities, ratios would differ.
    assert max(step["learner/max_logprob_difference"] for step in ran.metrics) < 1e-4
    assert all(step["loop/staleness"] == 0 for step in ran.metrics)
    summary = json.loads((ran.folder / "summary.json").read_text())
    assert summary["trained_tokens"] == summary["selectable_tokens"]


def test_the_guard_sees_weights_that_were_not_published(ran):
    from launch.run.parity import ParityError, Tolerance

    with pytest.raises(ParityError, match=rf"^version {ran.version}: .* differ by [0-9.]+"):
        Tolerance(ran.max_difference).check(ran.version, ran.disturbed_difference)


def test_a_policy_with_a_tool_is_trained(ran):
    for step in ran.metrics:
        assert step["rollout/turns_mean"] > 1 and step["rollout/tool_calls_mean"] > 0
        assert step["rollout/environment_mean_tokens"] > 0
    assert sum(step["rollout/inherited_mean_tokens"] for step in ran.metrics) > 0
    assert sum(step["cost/step_trained_tokens"] for step in ran.metrics) > 0
    assert sum(step["learner/optimizer_steps"] for step in ran.metrics) > 0
    before, after = (
        load_file(path / "model.safetensors") for path in (ran.model, ran.folder / "policy")
    )
    assert any(not np.array_equal(before[name], after[name]) for name in before)


def test_a_policy_with_a_tool_is_trained_on_its_own_words_alone(ran):
    samples = lines_of(ran.folder / "samples.jsonl")
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


def test_a_trace_shows_the_tool(ran):
    events = json.loads(write_trace(ran.folder).read_text())["traceEvents"]
    assert "tool, turn 0" in {event["name"] for event in events}


def test_every_metric_of_the_panels_reaches_rays_metrics_port(ran):
    assert len(ran.tracked) == 2 * len(KEYS) > 0
    assert ran.scraped == ran.tracked
