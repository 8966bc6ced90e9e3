"""The settings of the sandbox in which code of a policy runs."""

from dataclasses import dataclass

from cost.ranges import count, positive, require_ranges

FORMS = ("auto", "bubblewrap", "namespaces")


@dataclass(kw_only=True, slots=True, unsafe_hash=True)
class SandboxConfig:
    """What untrusted code may use; see `rollout.sandbox.run`."""

    form: str = "auto"
    """"bubblewrap" where it is installed and works, "namespaces" made by this project, or "auto":
    the first of them that works."""
    allow_weak: bool = False
    """If neither works, run code with resource limits only. It can then reach the network, read and
    write whatever this user may, files in memory included, and, unless this user is root, end this
    user's processes."""
    wall_seconds: float = 5.0
    """Time limit of one run; all its processes are killed then."""
    cpu_seconds: int = 5
    """Processor time of one process."""
    memory_mib: int = 512
    """Address space of one process."""
    processes: int = 16
    """Processes and threads at a time."""
    open_files: int = 64
    """Open files of one process."""
    scratch_mib: int = 32
    """Size of the scratch folder, and of the largest file in it."""
    output_kib: int = 256
    """Longest output; a run that writes more is killed."""

    def __post_init__(self) -> None:
        """Refuse settings out of range."""
        if self.form not in FORMS:
            raise ValueError(f"sandbox.form must be one of {', '.join(FORMS)}, got {self.form!r}")
        ranges = {
            "wall_seconds": positive(3600),
            "cpu_seconds": count(3600),
            "memory_mib": count(1e6),
            "processes": count(10_000),
            "open_files": count(100_000),
            "scratch_mib": count(1e6),
            "output_kib": count(1e6),
        }
        require_ranges("sandbox.", self, ranges)
