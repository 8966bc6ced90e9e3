"""An objective named by where it stands: a function of tensors, or a class with `token_losses`.

    objective=my_file.py:losses

    def losses(ratio, advantages, clip=0.2):       # clip: objective.settings.clip=0.3
        return -torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)

A function gets what it declares by name, each [T] for a packed row of T tokens: the fields of
`learner.objectives.types.LossInputs`, and `ratio`, that of learner to rollout probability with
gradient. It returns the token losses [T], which count on the loss mask alone, or an
`ObjectiveOutput`. The contract of objectives stands in `learner/objectives/types.py`.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rollout.own_code import OwnCode, accepted

if TYPE_CHECKING:
    from learner.objectives.types import LossInputs, ObjectiveOutput

GIVEN = (
    "ratio", "learner_logprobs", "rollout_logprobs", "advantages", "segment_ids", "loss_mask",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FunctionObjective(OwnCode):
    """Computes token losses with a function, or a class that has `token_losses`, found by its path.

    Torch is imported where losses are computed, in the learner's workers.
    """

    kind: ClassVar[str] = "objective"
    method: ClassVar[str] = "token_losses"

    @property
    def needs_sequence_mean(self) -> bool:
        """Whether a class says that its formula holds for the sequence mean only."""
        return bool(getattr(self.made(), "needs_sequence_mean", False))

    def adapted(self, function: Callable[..., Any]) -> Any:
        """Return the function, which must be able to take what losses are made from.

        Raises:
            ValueError: If it cannot.
        """
        try:
            given = accepted(function, dict.fromkeys(GIVEN))
            inspect.signature(function).bind(**{**given, **self.settings})
        except TypeError as error:
            raise ValueError(
                f"names a function that cannot be called ({error}): it may take "
                f"{', '.join(GIVEN)}, or others by objective.settings"
            ) from error
        if not {"ratio", "learner_logprobs"} & set(given):
            raise ValueError(
                "names a function whose losses have no gradient: let it take ratio or "
                "learner_logprobs"
            )
        return function

    def token_losses(self, inputs: "LossInputs") -> "ObjectiveOutput":
        """See `learner.objectives.types.Objective`.

        Raises:
            ValueError: If the function returns no tensor of shape [T].
        """
        import torch

        from learner.objectives.ratios import token_ratios
        from learner.objectives.types import ObjectiveOutput

        made = self.made()
        if hasattr(made, "token_losses"):
            output: ObjectiveOutput = made.token_losses(inputs)
            return output
        ratio = token_ratios(inputs.learner_logprobs, inputs.rollout_logprobs)
        values = {name: getattr(inputs, name) for name in GIVEN[1:]} | {"ratio": ratio}
        returned = made(**{**accepted(made, values), **self.settings})
        if isinstance(returned, ObjectiveOutput):
            return returned
        if not isinstance(returned, torch.Tensor) or returned.shape != ratio.shape:
            shape = getattr(returned, "shape", None)
            raise ValueError(
                f"an objective must return a loss for each of {len(ratio)} tokens, got "
                f"{type(returned).__name__} {tuple(shape) if shape is not None else ''} from "
                f"{self.path}"
            )
        losses = torch.where(inputs.loss_mask, returned.float(), torch.zeros_like(ratio))
        return ObjectiveOutput(losses, {"ratio": ratio.detach()})
