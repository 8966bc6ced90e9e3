"""A node of a Ray cluster on ports of its own, started as a user starts one."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.system.program import PATIENCE_SECONDS

RAY = Path(sys.executable).with_name("ray")


def environment(**changes):
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return kept | {"RAY_AUTH_MODE": "token", "OMP_NUM_THREADS": "1"} | changes


def free_ports(count):
    """Ports that nobody has, nor is given by the system before they are used.

    It gives them by the dozen where another cluster starts, and Ray takes ten seconds to come to
    some; below those that it gives lie Ray's own for workers.
    """
    given = Path("/proc/sys/net/ipv4/ip_local_port_range")
    first = int(given.read_text().split()[0]) if given.exists() else 32_768
    ports = []
    for port in random.SystemRandom().sample(range(20_000, max(first, 30_000)), 2_000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ports.append(port)
        if len(ports) == count:
            break
    return ports


class RayNode:
    """`ray start --block`; its processes are a group, and what it says goes to `log`."""

    def __init__(self, log, arguments, environment):
        self._log, self._arguments, self._environment = Path(log), arguments, environment
        self._begin()

    def _begin(self):
        agent, self.dashboard_port, client = free_ports(3)
        ports = [f"--dashboard-agent-listen-port={agent}"]
        if "--head" in self._arguments:
            ports += [f"--dashboard-port={self.dashboard_port}"]
            ports += [f"--ray-client-server-port={client}"]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [
                    *(RAY, "start", "--block", "--disable-usage-stats"),
                    *("--node-ip-address=127.0.0.1", *ports, *self._arguments),
                ],
                env=self._environment, cwd=self._log.parent, start_new_session=True,
                stdout=log, stderr=log,
            )  # fmt: skip

    def await_start(self):
        """Wait until the node is there; Ray gives up after 30 s, too soon on a busy machine.

        That its dashboard answers is not enough: the head's comes before the rest of the node.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while "Ray runtime started" not in self._log.read_text():
            assert time.monotonic() < deadline, self._log.read_text()
            if self._process.poll() is not None:
                self.kill()
                self._begin()
            time.sleep(0.1)

    def terminate(self):
        """End the node in order, and by force what is left of it after 30 s."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        self.kill()

    def kill(self):
        """Kill all of the node at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
