"""Settings of `launch.submit`."""

import posixpath
import re
from dataclasses import dataclass, field

from conf.checks import require, require_path
from conf.secrets import SECRET_WORDS
from cost.ranges import amount, count, require_ranges

SUBMIT_PROGRAMS = ("train", "compare")
SUBMIT_ACTIONS = {"list": 0, "stop": 1, "resume": 1}
"""Verb -> names of jobs that it takes."""
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
    """How often a failed job is retried from its newest checkpoint, on a new cluster."""

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
    """Activation script of the virtual environment, relative to where sbatch is called."""
    time: str = "24:00:00"
    """The job's time limit, as sbatch takes it."""
    partition: str | None = None
    """Partition; None takes the site's default."""
    account: str | None = None
    """Account to charge; None takes the site's default."""

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
    """A training run or a comparison as a job on a cluster; see `launch.submit`."""

    name: str
    """Name of the job; must be new on the cluster."""
    program: str = "train"
    """What the job runs: "train", or "compare", which continues after its finished runs if the job
    is submitted again with the same `run_dir`."""
    action: list[str] = field(default_factory=list)
    """Words without a key: `list` shows the cluster's jobs, `stop NAME` ends one gracefully,
    `resume NAME` submits one that has ended again, to resume from its run folder with the settings
    after `--` changed. Without any, a job is submitted."""
    form: str = "submit"
    """"submit" sends the job; "ray" prints the `ray job submit` line, "kuberay" a RayJob manifest,
    "slurm" a batch script."""
    address: str | None = None
    """Of the job server, http://HEAD:8265; None takes RAY_API_SERVER_ADDRESS, then an http
    RAY_ADDRESS, then this machine."""
    follow: bool = True
    """Stream the job's output and exit with its status; false returns once it is submitted."""
    env: list[str] = field(default_factory=lambda: ["HF_HOME", "HF_HUB_OFFLINE", "WANDB_MODE"])
    """Variables to send with their values, if they are set here."""
    secrets: list[str] = field(default_factory=lambda: ["HF_TOKEN", "WANDB_API_KEY"])
    """Variables of which only the names are sent: KubeRay takes the values from a Secret, Slurm
    from the shell that calls sbatch, and nodes of a running cluster must have been started with
    them."""
    node: NodeConfig = field(default_factory=NodeConfig)
    kuberay: KubeRayConfig = field(default_factory=KubeRayConfig)
    slurm: SlurmConfig = field(default_factory=SlurmConfig)

    def __post_init__(self) -> None:
        require(
            re.fullmatch(_KUBERNETES_NAME, self.name) is not None and len(self.name) <= 47,
            "name must be at most 47 lower-case letters, digits and '-'",
            self.name,
        )
        require(
            self.program in SUBMIT_PROGRAMS,
            f"program must be one of {SUBMIT_PROGRAMS}",
            self.program,
        )
        require(self.form in SUBMIT_FORMS, f"form must be one of {SUBMIT_FORMS}", self.form)
        require(
            not self.action
            or (all(self.action) and SUBMIT_ACTIONS.get(self.action[0]) == len(self.action) - 1),
            "action, the bare words, must be list, stop NAME or resume NAME",
            " ".join(self.action),
        )
        require(
            not self.action or self.form == "submit",
            f"form must be submit with {' '.join(self.action)}, which asks a cluster's job server",
            self.form,
        )
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
