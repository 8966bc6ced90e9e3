"""The typed shape of the configurations of comparisons, simulations and submissions.

See `conf.schema`, whose dataclasses describe single runs.
"""

import math
import re
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore

from conf.checks import ProfilePlug, require, require_plug
from conf.schema import EvaluateConfig, RunConfig
from cost.scheduler.config import SchedulerConfig

BUDGET_AXES = ("generated_tokens", "trained_tokens", "seconds", "steps")


@dataclass(kw_only=True, slots=True)
class BudgetConfig:
    """What every run of a comparison may spend, equal for all arms."""

    axis: str = "generated_tokens"
    """"generated_tokens": computed by engines, pilots and filtered groups included;
    "trained_tokens": of responses trained on, with their prompts, every pass counted;
    "seconds": of waiting, learning and publishing; "steps": batches learned."""
    amount: float
    """Of the axis. A run ends with the batch that is expected to use it up."""

    def __post_init__(self) -> None:
        require(self.axis in BUDGET_AXES, f"budget.axis must be one of {BUDGET_AXES}", self.axis)
        require(
            self.amount > 0 and math.isfinite(self.amount),
            "budget.amount must be positive",
            self.amount,
        )
        require(
            self.axis == "seconds" or self.amount == int(self.amount),
            f"budget.amount must be a whole number of {self.axis}",
            self.amount,
        )


@dataclass(kw_only=True, slots=True)
class CompareConfig:
    """What a comparison runs; every run is one of `conf/train.yaml`."""

    name: str
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
        require(len(self.arms) >= 1, "arms must name at least one arm", self.arms)
        for arm in self.arms:
            require(
                re.fullmatch(r"[A-Za-z0-9_.-]+", arm) is not None,
                "arms must have names of letters, digits, '_', '.' and '-'",
                arm,
            )
        require(len(self.seeds) >= 1, "seeds must name at least one seed", self.seeds)
        require(
            len(set(self.seeds)) == len(self.seeds), "seeds must differ from each other", self.seeds
        )
        require(self.max_steps > 0, "max_steps must be positive", self.max_steps)
        require(
            self.budget.axis != "steps" or self.budget.amount <= self.max_steps,
            f"budget.amount must not exceed max_steps = {self.max_steps}, or no arm can reach it",
            self.budget.amount,
        )


@dataclass(kw_only=True, slots=True)
class SimulateConfig:
    """What a study in simulated time runs; see `launch.simulate`."""

    name: str
    seed: int = 0
    run_dir: str
    """Folder for config and results; must not exist yet, or be empty."""
    profile: Any
    """Plug: machine, model and task (launch/study/simulation/profile.py)."""
    scheduler: SchedulerConfig
    accelerators: list[int] = field(default_factory=lambda: [1, 4, 16, 64, 256, 1024, 4096])
    """One row of the study each."""
    learner_share: float = 0.25
    """Part of the accelerators for learners, in (0, 1); the rest is for engines."""
    tickets_per_accelerator: float | None = None
    """Let the batch grow with the accelerators; None keeps scheduler.tickets_per_step."""
    num_steps: int = 20
    """Steps that count; some more are run before and after them."""
    max_staleness: int = 1
    num_epochs: int = 1
    """Passes over a batch."""
    num_minibatches: int = 1
    """Optimiser steps in a pass."""
    prefix_caching: bool = True
    """Whether engines prefill a group's prompt once."""
    update_mode: str = "recompute"
    """What new weights do to running sequences: "recompute" or "keep_kv"."""
    max_retries: int = 2
    """Retries of one ticket."""
    target_pass_rate: float | None = None
    """Mean pass rate to which steps and hours are extrapolated, by the profile's law."""
    fit: str | None = None
    """Folder of a real run: fit a profile to it instead of simulating."""
    out: str | None = None
    """File for the fitted profile, such as conf/profile/NAME.yaml."""
    check: str | None = None
    """Folder of a real run: predict it instead of simulating a study."""

    def __post_init__(self) -> None:
        require_plug("profile", self.profile, ProfilePlug)
        require(
            len(self.accelerators) >= 1 and min(self.accelerators) >= 1,
            "accelerators must name at least one number, each at least 1",
            self.accelerators,
        )
        require(
            self.scheduler.entropy_control is None,
            "scheduler.entropy_control must be null: what is simulated has no entropy",
            self.scheduler.entropy_control,
        )
        require(0 < self.learner_share < 1, "learner_share must lie in (0, 1)", self.learner_share)
        for key in ("num_steps", "num_epochs", "num_minibatches"):
            require(getattr(self, key) >= 1, f"{key} must be at least 1", getattr(self, key))
        for key in ("max_staleness", "max_retries"):
            require(getattr(self, key) >= 0, f"{key} must not be negative", getattr(self, key))
        share = self.tickets_per_accelerator
        require(
            share is None or share > 0, "tickets_per_accelerator must be positive or null", share
        )
        target = self.target_pass_rate
        require(
            target is None or 0 < target < 1,
            "target_pass_rate must lie in (0, 1) or be null",
            target,
        )
        require(
            self.update_mode in ("recompute", "keep_kv"),
            "update_mode must be recompute or keep_kv, which are simulated",
            self.update_mode,
        )
        require(self.fit is None or self.check is None, "check must be null with fit", self.check)
        require(
            (self.fit is None) == (self.out is None),
            "out must name the file for the fitted profile, and be null without fit",
            self.out,
        )


SUBMIT_FORMS = ("submit", "ray", "kuberay", "slurm")
_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"
_KUBERNETES_NAME = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
_SECRET_WORDS = r"(?i)key|token|secret|passw|credential"


@dataclass(kw_only=True, slots=True)
class NodeConfig:
    """One machine of a cluster that KubeRay or Slurm starts for the run; all are alike."""

    gpus: int = 8
    """0 for machines without."""
    cpus: int = 32
    memory_gib: int = 256

    def __post_init__(self) -> None:
        require(self.gpus >= 0, "node.gpus must not be negative", self.gpus)
        for key in ("cpus", "memory_gib"):
            require(getattr(self, key) >= 1, f"node.{key} must be at least 1", getattr(self, key))


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
    head_memory_gib: int = 16

    def __post_init__(self) -> None:
        for key in ("token_secret", "secret", "claim"):
            name = getattr(self, key)
            require(
                name is None or re.fullmatch(_KUBERNETES_NAME, name) is not None,
                f"kuberay.{key} must be lower-case letters, digits and '-'",
                name,
            )
        require(
            self.mount_path.startswith("/"), "kuberay.mount_path must be absolute", self.mount_path
        )
        for key in ("head_cpus", "head_memory_gib"):
            require(
                getattr(self, key) >= 1, f"kuberay.{key} must be at least 1", getattr(self, key)
            )


@dataclass(kw_only=True, slots=True)
class SlurmConfig:
    """What a Slurm script asks for."""

    activate: str = ".venv/bin/activate"
    """The virtual environment's script, from the folder where sbatch is called."""
    time: str = "24:00:00"
    partition: str | None = None
    account: str | None = None

    def __post_init__(self) -> None:
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
                re.search(_SECRET_WORDS, variable) is None,
                "env must not hold keys, whose values Ray would keep in its records and logs; put "
                "the name into secrets",
                variable,
            )


def register() -> None:
    """Put the schemas where the YAML's defaults lists find them."""
    store = ConfigStore.instance()
    store.store(name="train_schema", node=RunConfig)
    store.store(name="evaluate_schema", node=EvaluateConfig)
    store.store(name="compare_schema", node=CompareConfig)
    store.store(name="simulate_schema", node=SimulateConfig)
    store.store(name="submit_schema", node=SubmitConfig)
