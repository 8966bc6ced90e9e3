"""Programs: train, evaluate, warm start, bench."""
