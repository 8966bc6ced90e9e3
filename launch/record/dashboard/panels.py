"""What the Grafana dashboard shows.

Queries name metrics by key, `<loop/staleness>`, so that a panel of a metric that does not exist
cannot be made. They show the last step's values as they are: a rate over a window would be jagged
wherever steps take longer than the window.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from launch.record.dashboard.names import RUN_TAG, prometheus_name
from launch.record.metrics import METRICS

_KEY = re.compile(r"<([^<>]+)>")


@dataclass(frozen=True, slots=True)
class Query:
    """One line of a panel."""

    legend: str
    template: str
    """PromQL in which `<key>` is a metric."""

    def __post_init__(self) -> None:
        """Check that every metric exists and that there is one."""
        if not self.keys:
            raise ValueError(f"a query must name a metric as <package/quantity>: {self.template}")
        for key in self.keys:
            if key not in METRICS:
                raise ValueError(f"a query names {key!r}, which launch.record.metrics lacks")

    @property
    def keys(self) -> list[str]:
        """Return the metrics it needs."""
        return _KEY.findall(self.template)

    def expression(self, run: str) -> str:
        """Return PromQL for the runs whose name matches the regular expression `run`."""
        return _KEY.sub(
            lambda found: f'{prometheus_name(found[1])}{{{RUN_TAG}=~"{run}"}}', self.template
        )


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot."""

    title: str
    unit: str
    """As Grafana names it."""
    queries: tuple[Query, ...]

    @property
    def description(self) -> str:
        """Return the meaning of every metric in it."""
        keys = dict.fromkeys(key for query in self.queries for key in query.keys)
        return "\n\n".join(f"`{key}`: {METRICS[key]}" for key in keys)


def _metrics(title: str, unit: str, **keys: str) -> Panel:
    """Make a panel of metrics as they are, by legend."""
    queries = [Query(name.replace("_", " "), f"<{key}>") for name, key in keys.items()]
    return Panel(title, unit, tuple(queries))


PANELS = (
    _metrics("Reward", "none", mean_reward="rollout/reward_mean", pass_rate="rollout/pass_rate"),
    Panel(
        "Throughput, tokens per second",
        "none",
        (
            Query("engines, at work", "<loop/generated_tokens> / <loop/generate_seconds>"),
            Query("learners, at work", "<cost/step_trained_tokens> / <loop/update_seconds>"),
            Query(
                "generated, of the whole loop",
                "<loop/generated_tokens> / "
                "(<loop/wait_seconds> + <loop/update_seconds> + <loop/publish_seconds>)",
            ),
        ),
    ),
    _metrics(
        "Seconds of a step",
        "s",
        waiting="loop/wait_seconds",
        learning="loop/update_seconds",
        publishing_and_parity="loop/publish_seconds",
        generating_meanwhile="loop/generate_seconds",
    ),
    _metrics("Queue depth, tickets", "none", in_flight="rollout/tickets_in_flight"),
    _metrics(
        "Staleness, versions",
        "none",
        largest_of_a_group="loop/staleness",
        mean_of_tokens="learner/token_staleness",
    ),
    _metrics(
        "Response length, tokens",
        "none",
        mean="rollout/length_mean_tokens",
        p95="rollout/length_p95_tokens",
    ),
    _metrics("Responses cut at the limit", "percentunit", share="rollout/truncated_share"),
    _metrics(
        "Saving",
        "percentunit",
        not_trained_on_this_step="cost/step_saved_share",
        estimated_of_thinning="cost/thinning_saving_estimated",
        estimated_of_draws="cost/draw_saving_estimated",
    ),
    _metrics(
        "Tokens since the start",
        "short",
        generated="cost/generated_tokens",
        selectable="cost/selectable_tokens",
        trained_on="cost/trained_tokens",
    ),
    _metrics("Publish time", "s", all_engines="publish/seconds"),
    _metrics(
        "Seconds of a checkpoint",
        "s",
        run_stands_still="checkpoint/pause_seconds",
        until_it_is_whole="checkpoint/seconds",
    ),
    _metrics("Publish speed", "Bps", all_engines="publish/bytes_per_second"),
    _metrics(
        "Errors since the start",
        "none",
        retried_tickets="rollout/retries",
        replaced_rollout_actors="rollout/replaced_actors",
        failed_tickets="cost/failed_tickets",
        timed_out_rewards="cost/timed_out_rewards",
        crashed_rewards="cost/crashed_rewards",
        restarts="loop/restarts",
    ),
    _metrics(
        "Engine and learner, difference of log-probabilities",
        "none",
        largest_in_training="learner/max_logprob_difference",
    ),
    _metrics("Gradient norm", "none", before_clipping="learner/grad_norm"),
    _metrics("Entropy, nats", "none", of_trained_tokens="learner/entropy"),
    _metrics("Learner from rollout policy, KL per token", "none", kl="learner/kl_rollout"),
)
"""In reading order, left to right and down."""
