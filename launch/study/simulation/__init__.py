"""The training loop in simulated time, on engines and learners that only keep time."""
