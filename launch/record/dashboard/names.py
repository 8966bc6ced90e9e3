"""What a metric of a run is called in Ray and in Prometheus."""

import re

PREFIX = "cost_aware_rl"
RAY_PREFIX = "ray_"
"""Put before every name by Ray's metrics agent."""
RUN_TAG = "run"
"""Label with the run's name and its folder's (`RunInfo.title`)."""


def ray_name(key: str) -> str:
    """Return the name in `ray.util.metrics` of the metric `package/quantity_unit`.

    Whatever Prometheus allows in no name becomes an underscore: users name evaluation sets as they
    like, and their metrics carry those names.
    """
    return f"{PREFIX}_{re.sub('[^a-zA-Z0-9_]', '_', key)}"


def prometheus_name(key: str) -> str:
    """Return the name of the same metric in Prometheus."""
    return RAY_PREFIX + ray_name(key)
