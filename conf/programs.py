"""The typed shape of the configurations of programs that are no single run, and all schemas' names.

`conf.schema` describes single runs, `conf.studies` what is measured about them, `conf.models` how
policies are made.
"""

import math
import posixpath
import re
from dataclasses import dataclass, field

from hydra.core.config_store import ConfigStore

from conf.checks import require, require_name, require_path
from conf.models import SmolLM2Config, WarmStartConfig
from conf.prediction import PredictConfig
from conf.schema import EvaluateConfig, RunConfig
from conf.secrets import SECRET_WORDS
from conf.studies import ChaosConfig, SimulateConfig, TheoryConfig, VarianceConfig, bench_schema
from cost.ranges import SEED, amount, count, positive, require_ranges

BUDGET_AXES = ("generated_tokens", "trained_tokens", "compute_flops", "seconds", "steps")
FRACTIONAL = ("compute_flops", "seconds")


@dataclass(kw_only=True, slots=True)
class BudgetConfig:
    """What every run of a comparison may spend, equal for all arms."""

    axis: str = "generated_tokens"
    """"generated_tokens": computed by engines, pilots and filtered groups included;
    "trained_tokens": of responses trained on, with their prompts, every pass counted;
    "compute_flops": of engines and learners, from the model's shape;
    "seconds": of waiting, learning and publishing; "steps": batches learned."""
    amount: float
    """Of the axis. A run ends with the batch that is expected to use it up."""

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


@dataclass(kw_only=True, slots=True)
class CompareConfig:
    """What a comparison runs; every run is one of `conf/train.yaml`."""

    name: str
    """The comparison's, on its page and at wandb."""
    run_dir: str
    """Folder of all runs. Started again with the same folder, a comparison goes on where it
    stopped."""
    base: list[str]
    """Overrides of conf/train.yaml that all arms share."""
    arms: dict[str, list[str]]
    """Overrides of each arm on top; the first arm is the baseline."""
    seeds: list[int]
    """Every arm runs once with each."""
    budget: BudgetConfig
    max_steps: int = 100_000
    """Batches at which a run ends whatever it has spent."""

    def __post_init__(self) -> None:
        require_name("name", self.name)
        require_path("run_dir", self.run_dir)
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


SUBMIT_FORMS = ("submit", "ray", "kuberay", "slurm")
_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"
_KUBERNETES_NAME = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
_IMAGE = r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,254}"


@dataclass(kw_only=True, slots=True)
class NodeConfig:
    """One machine of a cluster that KubeRay or Slurm starts for the run; all are alike."""

    gpus: int = 8
    """0 for machines without."""
    cpus: int = 32
    """Cores of each."""
    memory_gib: int = 256
    """Memory of each, GiB."""

    def __post_init__(self) -> None:
        ranges = {"gpus": amount(1024), "cpus": count(10_000), "memory_gib": count(1e6)}
        require_ranges("node.", self, ranges)


@dataclass(kw_only=True, slots=True)
class KubeRayConfig:
    """What a RayJob names in its Kubernetes namespace; all must exist there."""

    image: str = "cost-aware-rl"
    """Made with the project's Dockerfile."""
    token_secret: str = "cost-aware-rl-token"
    """Secret whose key auth_token holds the cluster's token."""
    secret: str = "cost-aware-rl"
    """Secret whose keys are the names in `secrets`; keys that it lacks are left out."""
    claim: str | None = None
    """PersistentVolumeClaim that keeps `run_dir`, and holds models that the image lacks."""
    mount_path: str = "/shared"
    """Where the claim appears on all nodes."""
    head_cpus: int = 4
    """Cores of the head's pod, which holds no engine and no learner."""
    head_memory_gib: int = 16
    """Its memory, GiB."""
    retries: int = 3
    """How often a job that failed goes on from its newest checkpoint, with a new cluster."""

    def __post_init__(self) -> None:
        for key in ("token_secret", "secret", "claim"):
            name = getattr(self, key)
            require(
                name is None
                or (re.fullmatch(_KUBERNETES_NAME, name) is not None and len(name) <= 253),
                f"kuberay.{key} must be at most 253 lower-case letters, digits and '-'",
                name,
            )
        require(
            re.fullmatch(_IMAGE, self.image) is not None,
            "kuberay.image must be a container image such as registry/name:tag",
            self.image,
        )
        require_path("kuberay.mount_path", self.mount_path)
        require(
            self.mount_path.startswith("/")
            and posixpath.normpath(self.mount_path) == self.mount_path != "/",
            "kuberay.mount_path must be absolute, below / and without '..'",
            self.mount_path,
        )
        ranges = {
            "head_cpus": count(10_000),
            "head_memory_gib": count(1e6),
            "retries": amount(1000),
        }
        require_ranges("kuberay.", self, ranges)


@dataclass(kw_only=True, slots=True)
class SlurmConfig:
    """What a Slurm script asks for."""

    activate: str = ".venv/bin/activate"
    """The virtual environment's script, from the folder where sbatch is called."""
    time: str = "24:00:00"
    """The job's time limit, as sbatch takes it."""
    partition: str | None = None
    """Where the job queues up; None takes the site's default."""
    account: str | None = None
    """Who pays; None takes the site's default."""

    def __post_init__(self) -> None:
        require_path("slurm.activate", self.activate)
        for key in ("time", "partition", "account"):
            value = getattr(self, key)
            require(
                value is None or re.fullmatch(r"[A-Za-z0-9_.,:@+-]+", value) is not None,
                f"slurm.{key} must be letters, digits and '_.,:@+-'",
                value,
            )


@dataclass(kw_only=True, slots=True)
class SubmitConfig:
    """A training run as a job on a cluster; see `launch.submit`."""

    name: str
    """The job's; new on the cluster."""
    form: str = "submit"
    """"submit" sends the job; "ray" prints the `ray job submit` line, "kuberay" a RayJob manifest,
    "slurm" a batch script."""
    address: str | None = None
    """Of the job server, http://HEAD:8265; None takes RAY_API_SERVER_ADDRESS, then an http
    RAY_ADDRESS, then this machine."""
    follow: bool = True
    """Stream the job's output and end with its status; false returns once it is submitted."""
    env: list[str] = field(default_factory=lambda: ["HF_HOME", "HF_HUB_OFFLINE", "WANDB_MODE"])
    """Variables that go along with the values they have here, where they are set."""
    secrets: list[str] = field(default_factory=lambda: ["HF_TOKEN", "WANDB_API_KEY"])
    """Variables that go by name only: KubeRay takes them from a Secret, Slurm from the shell that
    calls sbatch, and on a cluster that runs already the nodes must have been started with them."""
    node: NodeConfig = field(default_factory=NodeConfig)
    kuberay: KubeRayConfig = field(default_factory=KubeRayConfig)
    slurm: SlurmConfig = field(default_factory=SlurmConfig)

    def __post_init__(self) -> None:
        require(
            re.fullmatch(_KUBERNETES_NAME, self.name) is not None and len(self.name) <= 47,
            "name must be at most 47 lower-case letters, digits and '-'",
            self.name,
        )
        require(self.form in SUBMIT_FORMS, f"form must be one of {SUBMIT_FORMS}", self.form)
        for key in ("env", "secrets"):
            for variable in getattr(self, key):
                require(
                    re.fullmatch(_VARIABLE, variable) is not None,
                    f"{key} must hold names of environment variables",
                    variable,
                )
        for variable in self.env:
            require(
                re.search(SECRET_WORDS, variable) is None,
                "env must not hold keys, whose values Ray would keep in its records and logs; put "
                "the name into secrets",
                variable,
            )


@dataclass(kw_only=True, slots=True)
class ReportConfig:
    """What a page shows; see `launch.report`."""

    runs: list[str] = field(default_factory=list)
    """Run folders; what the command line names without a key."""
    out: str | None = None
    """New HTML file; None takes RUN/report.html, of several runs runs/report-TIME.html."""

    def __post_init__(self) -> None:
        require(len(self.runs) >= 1, "runs must name at least one run folder", self.runs)
        _check_pages(self.runs, self.out)


@dataclass(kw_only=True, slots=True)
class TraceConfig:
    """What a trace shows; see `launch.trace`."""

    runs: list[str] = field(default_factory=list)
    """One run folder; what the command line names without a key."""
    step: int | None = None
    """This step alone; None takes all."""
    out: str | None = None
    """New JSON file; None takes RUN/trace.json, of one step RUN/trace-STEP.json."""

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


def register() -> None:
    """Put the schemas where the YAML's defaults lists find them."""
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
    store.store(name="theory_schema", node=TheoryConfig)
    store.store(name="chaos_schema", node=ChaosConfig)
    store.store(name="variance_schema", node=VarianceConfig)
    store.store(name="predict_schema", node=PredictConfig)
    store.store(name="warmstart_schema", node=WarmStartConfig)
