"""A reward for test_pool.py that does what the response tells it to, in the pool's processes."""

import os
import re
import signal
import sys
import threading
import time
from dataclasses import dataclass

from rollout.rewards.types import Score


@dataclass(frozen=True)
class Obedient:
    def check(self, answer):
        pass

    def score(self, prompt_text, response_text, answer):
        match response_text:
            case "sleep":
                time.sleep(3600)
            case "spin in C":
                re.match(r"(a+)+$", "a" * 60 + "b")
            case "ignore signals":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                time.sleep(3600)
            case "raise":
                raise KeyError("lost")
            case "raise far below":
                raise_far_below(60)
            case "exit":
                os._exit(3)
            case "sys.exit":
                sys.exit(4)
            case "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "not a number":
                return Score(float("nan"))
            case "print":
                print("a reward may print")
            case "print to a closed stdout":
                sys.stdout.close()
                print("to nobody")
            case "nap":
                time.sleep(0.3)
            case "change the folder":
                os.chdir("/")
            case "alarm":
                signal.setitimer(signal.ITIMER_REAL, 0.2)
            case "raise no Exception":
                raise KeyboardInterrupt("mine")
            case "fork and go on":
                os.fork()
            case "fork and exit":
                if os.fork():
                    os._exit(0)
                time.sleep(3600)
            case "kill me":
                os.kill(os.getpid(), signal.SIGKILL)
            case "kill me later":
                threading.Timer(0.2, os._exit, [5]).start()
            case "kill my parent":
                os.kill(os.getppid(), signal.SIGKILL)
                time.sleep(3600)
            case "ask my parent to end":
                os.kill(os.getppid(), signal.SIGTERM)
                time.sleep(3600)
            case "stop my parent":
                os.kill(os.getppid(), signal.SIGSTOP)
                time.sleep(3600)
            case "kill my group":
                os.killpg(0, signal.SIGKILL)
            case "leave daemons":
                pids = [daemon(), daemon(own_session=True)]
                return Score(1.0, {"pid": float(os.getpid())}, " ".join(map(str, pids)))
            case "return None":
                return None
        main = float(threading.current_thread() is threading.main_thread())
        components = {"pid": float(os.getpid()), "main_thread": main}
        components["torch"] = float("torch" in sys.modules)
        if response_text == "where":
            return Score(1.0, components, os.getcwd())
        return Score(1.0, components, response_text)


def raise_far_below(depth):
    # Lines that differ, which a traceback does not take together.
    return exec(f"#{depth}\nraise_far_below({depth} - 1)" if depth else "raise KeyError('lost')")


def daemon(own_session=False):
    """Start a process that nobody waits for, and return its id."""
    pid = os.fork()
    if not pid:
        if own_session:
            os.setsid()
        time.sleep(3600)
    return pid


SEEN = []
"""What `Loading` was asked for in this process."""


@dataclass(frozen=True)
class Loading:
    """Takes longer to load than a response may."""

    def load(self):
        time.sleep(1.0)
        SEEN.append("load")

    def score(self, prompt_text, response_text, answer):
        SEEN.append(response_text)
        return Score(1.0, extracted=" ".join(SEEN))


@dataclass(frozen=True)
class Unloadable:
    def check(self, answer):
        pass

    def score(self, prompt_text, response_text, answer):
        return Score(1.0)

    def __reduce__(self):
        return (int, ("not a number",))
