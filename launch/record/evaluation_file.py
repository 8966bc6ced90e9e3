"""`evaluation.json`: every evaluation of a run that is finished, written anew with each."""

from pathlib import Path
from typing import Any

from launch.record.evaluation import Evaluation
from launch.record.run_folder import EVALUATION, read_evaluations
from launch.record.summary import write_json
from launch.record.told import tell, why


class EvaluationFile:
    """Gathers evaluations; a run that goes on goes on with those that its folder has.

    A write that fails is told of once and ends nothing: the next one writes all.

    Args:
        run_dir: The run folder, cut back to the step that the run goes on from.

    Raises:
        UserError: If the folder has an `evaluation.json` that is none.
    """

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / EVALUATION
        self._finished: list[dict[str, Any]] = read_evaluations(run_dir)
        self._told = False

    def add(self, when: str, found: Evaluation) -> None:
        """Add one; `when` is "before", "on the way" or "after"."""
        self._finished.append({"when": when} | found.to_json())
        try:
            write_json(self._path, {"evaluations": self._finished})
        except OSError as error:
            if not self._told:
                tell(
                    f"{EVALUATION} could not be written ({why(error)}); the run goes on, and the "
                    "next evaluation writes it with all before"
                )
            self._told = True
