"""The running system: what is started for a run, and the loop that drives it."""
