"""Members of the plug `objective`; the contract is in `learner.objectives.types`."""

from learner.objectives.clipped_surrogate import ClippedSurrogate as ClippedSurrogate
from learner.objectives.types import LossInputs as LossInputs
from learner.objectives.types import Objective as Objective
from learner.objectives.types import ObjectiveOutput as ObjectiveOutput
