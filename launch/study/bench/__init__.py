"""Measurements of the parts that a run spends its time in; `python -m launch.bench` prints them."""

import time

PROCESS_START = time.monotonic()
"""Before anything heavy is imported, so that imports can be part of the start-up time."""
