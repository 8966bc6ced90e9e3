"""Settings of the scheduler: its plugs and the few numbers they share.

A hydra structured config, therefore not frozen. Plug fields are `Any` because hydra refuses
protocols as field types; each names the plug point whose contract its module states.
"""

from dataclasses import dataclass
from typing import Any

from cost.advantages.types import Advantage
from cost.aggregations import Aggregation
from cost.draws.allocators.types import Allocator
from cost.draws.entropy_control import Explores
from cost.draws.sizing import Sizes, Sizing
from cost.prices.types import GeneratingPrice, Price
from cost.ranges import Range, amount, positive, require_ranges
from cost.thinning.clipping import Clipping
from cost.thinning.proxies import FittedProxy, Proxy
from cost.thinning.reuse import Reuse
from cost.thinning.thinning import ThinningRule
from cost.worth.lengths import LengthEstimator
from cost.worth.utilities import Utility

MOST_RESPONSES = 2**14
"""Responses to one prompt; four times what any method asks for."""
PROTOCOLS: dict[str, tuple[type, str]] = {
    "length": (LengthEstimator, "estimate"),
    "price": (Price, "of_training"),
    "utility": (Utility, "value"),
    "allocator": (Allocator, "next_round"),
    "thinning": (ThinningRule, "thin"),
    "proxy": (Proxy, "score"),
    "advantage": (Advantage, "advantages"),
    "aggregation": (Aggregation, "factors"),
}
"""Plug to its contract, and the method that tells a member of it."""


@dataclass(kw_only=True, slots=True)
class SchedulerConfig:
    """What to draw, what it costs and what to keep; keys are `scheduler.*`."""

    length: Any
    """Expected response length per prompt (cost/worth/lengths.py)."""
    price: Any
    """Cost of a response from its length (cost/prices/types.py)."""
    utility: Any
    """Worth of a draw per prompt (cost/worth/utilities.py)."""
    allocator: Any
    """Probabilities, weights and group sizes, and the way of drawing (cost/draws/allocators/)."""
    thinning: Any
    """Which finished responses to train on (cost/thinning/thinning.py)."""
    proxy: Any
    """Gradient-norm guess per response (cost/thinning/proxies.py)."""
    advantage: Any
    """Advantages of the responses (cost/advantages/)."""
    aggregation: Any
    """Factor of each response in the loss (cost/aggregations.py)."""
    entropy_control: Any = None
    """Exploring tickets that hold the policy's entropy (cost/draws/entropy_control.py), or None."""
    clipping: Any = None
    """Bounds a single response's share of a step (cost/thinning/clipping.py), or None."""
    reuse: Any = None
    """Trains on batches once more (cost/thinning/reuse.py), or None."""
    sizing: Any = None
    """Adapts tickets_per_step and group_size during the run (cost/draws/sizing.py), or None, which
    leaves them as they are."""
    tickets_per_step: int = 16
    """P: prompts (groups) per step, unless the allocator decides otherwise; with scheduler.sizing,
    of the first batch."""
    group_size: int = 8
    """Responses per prompt, at least 2; their average if the allocator varies it; with
    scheduler.sizing, of the first batch."""
    pass_rate_decay: float = 0.9
    """How much an older visit counts for a prompt's pass rate, per newer visit, in [0, 1]."""
    pass_rate_prior_responses: float = 8.0
    """Number of responses at which a prompt's own pass rate counts as much as the prediction."""
    prompt_features: bool = False
    """Whether predictions of length, pass rate and worth use the features that the task gives its
    prompts (rollout/tasks/features.py)."""
    gradient_norm_layer: str = "lm_head"
    """Layer whose gradient is measured per response, for pilots that ask for it and calibrations:
    "lm_head" (no backward pass) or "embedding" (one a packed row)."""
    calibrate_every: int = 0
    """Measure gradient norms every so many batches and fit the proxy's exponents to them; 0 for
    never."""
    calibrated_proxy: bool = False
    """Whether the proxy uses the fitted exponents, from the next selection on."""
    accelerator_hour_price: float | None = None
    """Price of one accelerator hour, in any currency, for the metric `cost/spent_currency`; None
    for no such metric."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for key, (protocol, method) in PROTOCOLS.items():
            _require_plug(key, getattr(self, key), protocol, method)
        self._check_optional_plugs()
        self._check_sizing()
        if self.group_size < 2:
            raise ValueError(
                "scheduler.group_size must be at least 2, since advantages compare the responses "
                f"of a group, got {self.group_size!r}"
            )
        if self.gradient_norm_layer not in ("lm_head", "embedding"):
            raise ValueError(
                "scheduler.gradient_norm_layer must be lm_head or embedding, "
                f"got {self.gradient_norm_layer!r}"
            )
        if self.calibrated_proxy and not (
            self.calibrate_every and isinstance(self.proxy, FittedProxy)
        ):
            raise ValueError(
                "scheduler.calibrated_proxy needs scheduler.calibrate_every and a proxy with "
                f"exponents for surprise, got {self.calibrate_every!r} and {self.proxy!r}"
            )
        ranges = {
            "tickets_per_step": positive(1e7),
            "group_size": Range(2, MOST_RESPONSES),
            "pass_rate_decay": amount(1),
            "pass_rate_prior_responses": positive(),
            "calibrate_every": amount(),
            "accelerator_hour_price": positive(),
        }
        require_ranges("scheduler.", self, ranges)

    def _check_optional_plugs(self) -> None:
        if getattr(self.thinning, "needs_generating_costs", False) and not isinstance(
            self.price, GeneratingPrice
        ):
            raise ValueError(
                "scheduler.price must be a plug with the method of_generating for a thinning that "
                f"weighs generating against learning, got {self.price!r}"
            )
        control, clipping = self.entropy_control, self.clipping
        if control is not None and not isinstance(control, Explores):
            raise ValueError(
                "scheduler.entropy_control must be a plug with the method temperature_factor, or "
                f"null, got {control!r}"
            )
        if control is not None and getattr(self.thinning, "thins_tokens", False):
            raise ValueError(
                "scheduler.entropy_control must be null with a thinning of tokens, which would "
                "leave out tokens of exploring tickets; choose another thinning, or set its "
                f"token shares to 1, got {self.thinning!r}"
            )
        if clipping is not None:
            _require_plug("clipping", clipping, Clipping, "scales", ", or null")
        self._check_reuse()

    def _check_reuse(self) -> None:
        if self.reuse is None:
            return
        _require_plug("reuse", self.reuse, Reuse, "opens", ", or null")
        if not self.thinning.objective_preserving:
            raise ValueError(
                "scheduler.thinning must undo its probabilities with scheduler.reuse, or the two "
                "batches of a step would follow different objectives; take another thinning or "
                f"scheduler.reuse=null, got {self.thinning!r}"
            )

    def _check_sizing(self) -> None:
        sizing = self.sizing
        if sizing is None:
            return
        _require_plug("sizing", sizing, Sizing, "updated", ", or null")
        if not isinstance(self.price, GeneratingPrice):
            raise ValueError(
                "scheduler.price must be a plug with the method of_generating for a sizing, which "
                f"goes by what a group costs, got {self.price!r}"
            )
        if self.entropy_control is not None:
            raise ValueError(
                "scheduler.entropy_control must be null with scheduler.sizing: exploring tickets "
                f"are no part of its variance, got {self.entropy_control!r}"
            )
        if self.allocator.varies_group_sizes:
            raise ValueError(
                "scheduler.allocator must ask for groups of one size with scheduler.sizing, which "
                "chooses it; take another allocator or scheduler.sizing=null, "
                f"got {self.allocator!r}"
            )
        if not (self.advantage.size_free and self.aggregation.size_free):
            raise ValueError(
                "scheduler.advantage and scheduler.aggregation must mean the same for every group "
                "size with scheduler.sizing: set advantage@scheduler.advantage=leave_one_out, got "
                f"{self.advantage!r}, {self.aggregation!r}"
            )
        least, most = (sizes.group_size for sizes in sizing.bounds(self.first_sizes))
        if not least <= self.group_size <= most:
            raise ValueError(
                f"scheduler.group_size must lie in the range of scheduler.sizing, {least} to "
                f"{most}, where it begins, got {self.group_size!r}"
            )

    @property
    def first_sizes(self) -> Sizes:
        """Of the first batch; of all where nothing moves them."""
        return Sizes(tickets=self.tickets_per_step, group_size=self.group_size)

    @property
    def bounds(self) -> tuple[Sizes, Sizes]:
        """The smallest and the largest that a batch may have."""
        first = self.first_sizes
        return (first, first) if self.sizing is None else self.sizing.bounds(first)

    @property
    def num_exploring(self) -> int:
        """Exploring tickets in one learned batch, once the entropy is known."""
        control = self.entropy_control
        return 0 if control is None else int(control.num_tickets(self.tickets_per_step))

    @property
    def objective_preserving(self) -> bool:
        """Whether the expected gradient is that of uniform draws without thinning."""
        control = self.entropy_control
        if control is not None and not control.objective_preserving:
            return False
        if self.clipping is not None and not self.clipping.objective_preserving:
            return False
        of_group, allocator = (self.advantage, self.aggregation), self.allocator
        draws_keep_it = bool(allocator.objective_preserving)
        groups_stand_alone = all(plug.objective_preserving for plug in of_group)
        sizes_keep_it = all(plug.size_free for plug in of_group)
        thinning_keeps_it = bool(self.thinning.objective_preserving)
        return (
            draws_keep_it
            and (groups_stand_alone or bool(allocator.uniform))
            and (sizes_keep_it or not allocator.varies_group_sizes)
            and thinning_keeps_it
        )


def _require_plug(key: str, plug: object, contract: type, method: str, others: str = "") -> None:
    """Raise a ValueError that names what a plug lacks, a flag such as objective_preserving too.

    Args:
        key: Where it stands below `scheduler`.
        plug: What hydra built.
        contract: A protocol that `isinstance` can check.
        method: The one that tells a member of it.
        others: What else the key takes, as the sentence goes on.
    """
    if isinstance(plug, contract):
        return
    members = [
        name
        for each in contract.__mro__
        for name in (*vars(each).get("__annotations__", {}), *vars(each))
        if not name.startswith("_") and not hasattr(plug, name)
    ]
    raise ValueError(
        f"scheduler.{key} must be a plug with the method {method} and all else of "
        f"{contract.__module__}.{contract.__name__}{others}; it lacks {', '.join(members)}, "
        f"got {plug!r}"
    )
