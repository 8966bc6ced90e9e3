"""The best policy of a run so far, by its pass rate on one held-out set.

metrics of an evaluation -> BestPolicy.look -> RUN/policy-best-STEP, RUN/best.json
back to a checkpoint -> BestPolicy.go_back -> the best of the steps until then
"""

from __future__ import annotations

import asyncio
import json
import math
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from conf.loop import LoopConfig
from launch.record.checkpoint import steps_of_checkpoints
from launch.record.hub import push_policy
from launch.record.json_file import write_json
from launch.record.notices import Unwritten, tell, why
from launch.record.run_folder import BEST

PREFIX = "policy-best-"
EARLIER = "earlier"
"""Key of those before the best one, to which a run may go back."""


class BestPolicy:
    """Saves whatever is better than all before.

    An earlier best policy is kept as long as there is a checkpoint from before the present best: a
    run that goes back there may come to other policies than the first time. A run that continues
    reads from its folder which policies are kept.

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
        # By step, each better than those before.
        self._found = _found_before(run_dir, of_set)

    @property
    def path(self) -> Path | None:
        """Where the best policy is, None until there is one."""
        return Path(self._found[-1]["policy"]) if self._found else None

    async def look(self, step: int, metrics: Mapping[str, float]) -> None:
        """Save the policy if an evaluation found it better than all before.

        Args:
            step: The step that made the policy, which the learners still hold.
            metrics: Of the evaluation, or of a step without one.
        """
        rate = metrics.get(f"evaluation/{self._of_set}/pass_rate", math.nan)
        best = self._found[-1]["pass_rate"] if self._found else -math.inf
        if self._of_set is None or not rate > best:
            return
        try:
            path = await self._save(f"{PREFIX}{step}")
            found = {"set": self._of_set, "pass_rate": rate, "step": step, "policy": str(path)}
            self._keep([*self._needed(), found])
        except OSError as error:
            # The learners still hold it, and the next one may find room.
            tell(f"the best policy could not be saved ({why(error)}); the run goes on")

    def go_back(self, step: int) -> None:
        """Forget policies of steps after the one from which the run goes on."""
        stay = [each for each in self._found if each["step"] <= step]
        if len(stay) < len(self._found):
            try:
                self._keep(stay)
            except OSError as error:
                tell(f"{BEST} still names a policy of a lost step ({why(error)})")
                self._found = stay

    async def finish(self, kept: Path | None, loop: LoopConfig, unwritten: Unwritten) -> None:
        """Keep the best policy alone, and upload it, or the one kept at the end, if asked to.

        Args:
            kept: Where the policy was saved at the end.
            loop: Says whether the run is to upload one, and where to.
            unwritten: Notes a failure.
        """
        if len(self._found) > 1:
            with unwritten.noted(BEST):
                self._keep(self._found[-1:])
        if loop.push_to_hub is not None and kept is not None:
            with unwritten.noted(f"{loop.push_to_hub} at the hub"):
                folder, private = self.path or kept, loop.push_private
                told = asyncio.to_thread(push_policy, folder, loop.push_to_hub, private=private)
                tell(f"the policy is at {await told}")

    def _needed(self) -> list[dict[str, Any]]:
        """Those that are the best in the past of a checkpoint."""
        best = {
            max((each["step"] for each in self._found if each["step"] <= step), default=-1)
            for step in steps_of_checkpoints(self._run_dir)
        }
        return [each for each in self._found if each["step"] in best]

    def _keep(self, found: Sequence[dict[str, Any]]) -> None:
        """Write down these alone, and remove all others; OSError if they cannot be written."""
        if found:
            *earlier, best = found
            write_json(self._run_dir / BEST, best | ({EARLIER: earlier} if earlier else {}))
        else:
            (self._run_dir / BEST).unlink(missing_ok=True)
        self._found = list(found)
        names = {Path(each["policy"]).name for each in found}
        for other in self._run_dir.glob(f"{PREFIX}*"):
            if other.name not in names:
                shutil.rmtree(other, ignore_errors=True)


def _found_before(run_dir: Path, of_set: str | None) -> list[dict[str, Any]]:
    """The best policies of a run when it stopped, by step; those that are gone are left out."""
    try:
        best = json.loads((run_dir / BEST).read_text(encoding="utf-8"))
        found = [
            {
                "set": each["set"],
                "pass_rate": float(each["pass_rate"]),
                "step": int(each["step"]),
                "policy": _place_now(run_dir, Path(each["policy"])),
            }
            for each in (*best.pop(EARLIER, ()), best)
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    return [each for each in found if each["set"] == of_set and Path(each["policy"]).is_dir()]


def _place_now(run_dir: Path, written: Path) -> str:
    """Where a policy is: in the run folder, wherever that was, or where there was room instead."""
    here = run_dir / written.name
    return str(here if here.is_dir() else written)
