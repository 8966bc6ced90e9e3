"""What /proc says of this process and of all that it started."""

import os
import socket
import time
from ipaddress import ip_address
from pathlib import Path

LISTENING = "0A"


def descendants(root=None):
    """Ids of a process, this one unless given, and of all below it."""
    children = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        children.setdefault(parent, []).append(int(folder.name))
    found, ahead = [], [root or os.getpid()]
    while ahead:
        found.append(ahead.pop())
        ahead += children.get(found[-1], [])
    return found


def command_line(pid):
    try:
        return (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        )
    except OSError:
        return ""


def titled(title, root=None):
    """The one process below that calls itself so.

    Ray writes a worker's title anew whenever it is called, and there may be none to read meanwhile.
    """
    deadline = time.monotonic() + 30
    while True:
        found = [pid for pid in descendants(root) if command_line(pid).startswith(title)]
        if len(found) == 1 or time.monotonic() > deadline:
            (pid,) = found
            return pid
        time.sleep(0.05)


def engine_of(root=None):
    """The engine's own process of the one rollout actor below, whatever it calls itself.

    Its title cannot always be written. It is of the actor's group, and the largest beside it.
    """
    actor = titled("ray::RolloutActor", root)
    sizes = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == actor != int(folder.name):
            sizes[int(folder.name)] = int(fields[21])
    return max(sizes, key=sizes.__getitem__)


def listening(pids):
    """Address and command of every socket at which one of the processes waits for others."""
    owners = {}
    for pid in pids:
        try:
            links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
        except OSError:
            continue
        owners |= {link[8:-1]: pid for link in links if link.startswith("socket:[")}
    found = []
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING and fields[9] in owners:
                found.append((_address(fields[1]), command_line(owners[fields[9]])))
    return found


def _address(text):
    """An address as /proc writes it: words of four bytes, each in the machine's order."""
    packed = bytes.fromhex(text.partition(":")[0])
    words = [packed[at : at + 4][::-1] for at in range(0, len(packed), 4)]
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    address = ip_address(socket.inet_ntop(family, b"".join(words)))
    return getattr(address, "ipv4_mapped", None) or address
