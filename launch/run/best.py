"""The best policy of a run so far, by its pass rate on one held-out set.

metrics of an evaluation -> BestPolicy.look -> RUN/policy-best-STEP, RUN/best.json
"""

from __future__ import annotations

import asyncio
import json
import math
import shutil
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from conf.schema import LoopConfig
from launch.record.hub import push_policy
from launch.record.json_file import write_json
from launch.record.notices import Unwritten, tell, why
from launch.record.run_folder import BEST

PREFIX = "policy-best-"


class BestPolicy:
    """Saves whatever is better than all before; the one before goes when the new one is there.

    A run that goes on knows its best from the run folder.

    Args:
        of_set: Name of the set that decides; None keeps no best policy.
        run_dir: The run folder.
        save: Saves the policy under a name in the run folder, and returns where it is.
    """

    def __init__(
        self, of_set: str | None, run_dir: Path, save: Callable[[str], Awaitable[Path]]
    ) -> None:
        self._of_set = of_set
        self._run_dir = run_dir
        self._save = save
        self.path, self._rate = _best_before(run_dir / BEST, of_set)
        """Where the best policy is, None until there is one."""

    async def look(self, step: int, metrics: Mapping[str, float]) -> None:
        """Save the policy if an evaluation found it better than all before.

        Args:
            step: The step that made the policy, which the learners still hold.
            metrics: Of the evaluation, or of a step without one.
        """
        rate = metrics.get(f"evaluation/{self._of_set}/pass_rate", math.nan)
        if self._of_set is None or not rate > self._rate:
            return
        try:
            path = await self._save(f"{PREFIX}{step}")
            found = {"set": self._of_set, "pass_rate": rate, "step": step, "policy": str(path)}
            write_json(self._run_dir / BEST, found)
        except OSError as error:
            # The learners still hold it, and the next one may find room.
            tell(f"the best policy could not be saved ({why(error)}); the run goes on")
            return
        self.path, self._rate = path, rate
        for older in self._run_dir.glob(f"{PREFIX}*"):
            if older.name != path.name:
                shutil.rmtree(older, ignore_errors=True)

    async def upload(self, kept: Path | None, loop: LoopConfig, unwritten: Unwritten) -> None:
        """Upload the best policy, or the one kept at the end, if the run is to upload one.

        Args:
            kept: Where the policy was saved at the end.
            loop: Says where to.
            unwritten: Notes a failure.
        """
        if loop.push_to_hub is not None and kept is not None:
            with unwritten.noted(f"{loop.push_to_hub} at the hub"):
                folder, private = self.path or kept, loop.push_private
                told = asyncio.to_thread(push_policy, folder, loop.push_to_hub, private=private)
                tell(f"the policy is at {await told}")


def _best_before(file: Path, of_set: str | None) -> tuple[Path | None, float]:
    """Where a run's best policy was when it stopped, and its pass rate; None, -inf without one."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        path, rate = Path(found["policy"]), float(found["pass_rate"])
        if found["set"] == of_set and path.is_dir():
            return path, rate
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None, -math.inf
