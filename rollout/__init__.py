"""From a ticket to a scored group of trajectories: engines, environments, tasks and rewards."""
