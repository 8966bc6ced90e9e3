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
            case "nap":
                time.sleep(0.3)
        main = float(threading.current_thread() is threading.main_thread())
        components = {"pid": float(os.getpid()), "main_thread": main}
        components["torch"] = float("torch" in sys.modules)
        return Score(1.0, components, response_text)


@dataclass(frozen=True)
class Unloadable:
    def check(self, answer):
        pass

    def score(self, prompt_text, response_text, answer):
        return Score(1.0)

    def __reduce__(self):
        return (int, ("not a number",))
