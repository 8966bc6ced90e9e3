"""The typed shape of the configurations of programs that are no single run, and all schemas' names.

`conf.schema` describes single runs, `conf.studies` what is measured about them, `conf.models` how
policies are made.
"""

import math
from dataclasses import dataclass, field
from functools import cache

from hydra.core.config_store import ConfigStore

from conf.chaos import ChaosConfig
from conf.checks import require, require_name, require_path
from conf.gpu_check import GpuCheckConfig
from conf.models import SmolLM2Config, WarmStartConfig
from conf.prediction import PredictConfig
from conf.schema import EvaluateConfig, RunConfig
from conf.studies import SimulateConfig, TheoryConfig, VarianceConfig, bench_schema
from conf.submit import SubmitConfig
from cost.ranges import SEED, amount, positive, require_ranges

BUDGET_AXES = ("generated_tokens", "trained_tokens", "compute_flops", "seconds", "steps")
FRACTIONAL = ("compute_flops", "seconds")


@dataclass(kw_only=True, slots=True)
class BudgetConfig:
    """What every run of a comparison may spend, equal for all arms but those with a share."""

    axis: str = "generated_tokens"
    """"generated_tokens": computed by engines, pilots and filtered groups included;
    "trained_tokens": of responses trained on, with their prompts, every pass counted;
    "compute_flops": of engines and learners, from the model's shape;
    "seconds": of waiting, learning and publishing; "steps": batches learned."""
    amount: float
    """Of the axis. A run ends with the batch that is expected to use it up."""
    shares: dict[str, float] = field(default_factory=dict)
    """By arm, the share of `amount` that its runs may spend, in (0, 1]; 1 of those left out. An arm
    that ends as high as the baseline with {arm: 0.333} does so at a third of its cost."""

    def __post_init__(self) -> None:
        require(self.axis in BUDGET_AXES, f"budget.axis must be one of {BUDGET_AXES}", self.axis)
        require(
            self.amount > 0 and math.isfinite(self.amount),
            "budget.amount must be positive and finite",
            self.amount,
        )
        require_ranges("budget.", self, {"amount": positive(1e30)})
        require(
            self.axis in FRACTIONAL or self.amount == int(self.amount),
            f"budget.amount must be a whole number of {self.axis}",
            self.amount,
        )
        for arm, share in self.shares.items():
            require(0 < share <= 1, f"budget.shares.{arm} must be in (0, 1]", share)

    def of(self, arm: str) -> float:
        """Return what a run of an arm may spend; whole where the axis counts."""
        amount = self.amount * self.shares.get(arm, 1.0)
        return amount if self.axis in FRACTIONAL else float(math.ceil(amount))


@dataclass(kw_only=True, slots=True)
class CompareConfig:
    """What a comparison runs; every run is one of `conf/train.yaml`."""

    name: str
    """Name of the comparison, on its page and at wandb."""
    run_dir: str
    """Folder of all runs. Started again with the same folder, a comparison continues where it
    stopped."""
    base: list[str]
    """Overrides of conf/train.yaml that all arms share."""
    arms: dict[str, list[str]]
    """Overrides of each arm on top; the first arm is the baseline. The members of an arm's recipe
    take the place of those that base chooses."""
    seeds: list[int]
    """Every arm runs once with each."""
    budget: BudgetConfig
    max_steps: int = 100_000
    """Steps after which a run ends even if it has not used its budget."""
    pooled: list[str] = field(default_factory=list)
    """Files `comparison.json` whose runs of these arms are read together; nothing is run."""

    def __post_init__(self) -> None:
        require_name("name", self.name)
        require_path("run_dir", self.run_dir)
        for file in self.pooled:
            require_path("pooled", file)
        require(len(self.arms) >= 1, "arms must name at least one arm", self.arms)
        for arm in self.arms:
            require_name("arms", arm)
        require(len(self.seeds) >= 1, "seeds must name at least one seed", self.seeds)
        require(
            len(set(self.seeds)) == len(self.seeds), "seeds must differ from each other", self.seeds
        )
        for seed in self.seeds:
            fault = SEED.fault(seed)
            require(fault is None, f"seeds {fault}", seed)
        require_ranges("", self, {"max_steps": positive()})
        require(
            self.budget.axis != "steps" or self.budget.amount <= self.max_steps,
            f"budget.amount must not exceed max_steps = {self.max_steps}, or no arm can reach it",
            self.budget.amount,
        )
        odd = [arm for arm in self.budget.shares if arm not in self.arms]
        require(not odd, f"budget.shares must name arms of {', '.join(self.arms)}", ", ".join(odd))


@dataclass(kw_only=True, slots=True)
class ReportConfig:
    """What a page shows; see `launch.report`."""

    runs: list[str] = field(default_factory=list)
    """Run folders: the words without a key on the command line."""
    out: str | None = None
    """New HTML file; None for RUN/report.html, or runs/report-TIME.html for several runs."""

    def __post_init__(self) -> None:
        require(len(self.runs) >= 1, "runs must name at least one run folder", self.runs)
        _check_pages(self.runs, self.out)


@dataclass(kw_only=True, slots=True)
class TraceConfig:
    """What a trace shows; see `launch.trace`."""

    runs: list[str] = field(default_factory=list)
    """One run folder: the word without a key on the command line."""
    step: int | None = None
    """Only this step; None for all."""
    out: str | None = None
    """New JSON file; None for RUN/trace.json, or RUN/trace-STEP.json for one step."""

    def __post_init__(self) -> None:
        require(len(self.runs) == 1, "runs must name one run folder", self.runs)
        require_ranges("", self, {"step": amount()})
        _check_pages(self.runs, self.out)


@dataclass(kw_only=True, slots=True)
class DashboardConfig:
    """Where the files for Grafana and Prometheus go; see `launch.dashboard`."""

    out: str
    """Folder for the files."""
    discovery: str | None = None
    """File in which Ray lists what to scrape, as Prometheus sees it; None takes that of the session
    that runs on this machine, or that Ray's next one writes."""

    def __post_init__(self) -> None:
        require_path("out", self.out)
        if self.discovery is not None:
            require_path("discovery", self.discovery)


def _check_pages(runs: list[str], out: str | None) -> None:
    for run in runs:
        require_path("runs", run)
    if out is not None:
        require_path("out", out)


@cache
def register() -> None:
    """Put the schemas where the YAML's defaults lists find them, once for all programs."""
    store = ConfigStore.instance()
    store.store(name="train_schema", node=RunConfig)
    store.store(name="evaluate_schema", node=EvaluateConfig)
    store.store(name="compare_schema", node=CompareConfig)
    store.store(name="simulate_schema", node=SimulateConfig)
    store.store(name="submit_schema", node=SubmitConfig)
    store.store(name="report_schema", node=ReportConfig)
    store.store(name="trace_schema", node=TraceConfig)
    store.store(name="dashboard_schema", node=DashboardConfig)
    store.store(name="smollm2_schema", node=SmolLM2Config)
    store.store(name="bench_schema", node=bench_schema())
    store.store(name="gpu_check_schema", node=GpuCheckConfig)
    store.store(name="theory_schema", node=TheoryConfig)
    store.store(name="chaos_schema", node=ChaosConfig)
    store.store(name="variance_schema", node=VarianceConfig)
    store.store(name="predict_schema", node=PredictConfig)
    store.store(name="warmstart_schema", node=WarmStartConfig)
