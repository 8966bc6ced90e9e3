"""A process that scores responses one after the other until its parent hangs up.

Started by `rollout.rewards.pool` as `python -m rollout.rewards.child FD PARENT`. On the socket FD
it reads the pickled reward once and answers {} when it is ready, then reads requests and writes
answers as JSON. Each message is four bytes of length, most significant first, and the body.
"""

import contextlib
import ctypes
import json
import os
import pickle
import signal
import socket
import sys
import traceback
from dataclasses import asdict
from typing import Any

_PR_SET_PDEATHSIG = 1


def _die_with(parent: int) -> None:
    # A reward that hangs inside C code would outlive a parent that was killed.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(0)


def _read(connection: socket.socket, size: int) -> bytes:
    chunks = bytearray()
    while len(chunks) < size:
        chunk = connection.recv(size - len(chunks))
        if not chunk:
            raise EOFError
        chunks += chunk
    return bytes(chunks)


def _receive(connection: socket.socket) -> bytes:
    return _read(connection, int.from_bytes(_read(connection, 4), "big"))


def _send(connection: socket.socket, answer: dict[str, Any]) -> None:
    body = json.dumps(answer).encode()
    connection.sendall(len(body).to_bytes(4, "big") + body)


def main() -> None:
    """Serve the socket named on the command line."""
    _die_with(int(sys.argv[2]))
    connection = socket.socket(fileno=int(sys.argv[1]))
    try:
        try:
            reward = pickle.loads(_receive(connection))
            # Load what the reward imports on first use, so that no response is charged for it.
            with contextlib.suppress(Exception):
                reward.score("", "", "0")
            _send(connection, {})
        except EOFError:
            raise
        except Exception:
            _send(connection, {"error": traceback.format_exc()})
            return
        while True:
            request = json.loads(_receive(connection))
            try:
                answer: dict[str, Any] = {"score": asdict(reward.score(*request))}
            except Exception:
                answer = {"error": traceback.format_exc()}
            _send(connection, answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


if __name__ == "__main__":
    main()
