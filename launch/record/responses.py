"""What a policy answered in an evaluation, to be read by a person: a line per response.

    {"set": "held_out", "index": 3, "greedy": false, "prompt": ..., "response": ..., "reward": 1.0,
     "answer": "7", "expected": "7", ...}

Lines come as prompts are finished; `index` is the prompt's place in its set, from 0.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray.exceptions import RayError

from cost.types import RewardStatus
from launch.record.atomic_files import AtomicLines
from launch.record.json_file import json_ready
from launch.record.notices import tell, why
from launch.record.samples import turns_of
from rollout.rewards.by_set import own_answer
from rollout.stopping import Stopping
from rollout.types import Group


class Responses:
    """The file of one evaluation; what an earlier one left there is replaced.

    A write that fails is told of once, and ends the file and nothing else.

    Args:
        path: The file; its folder is made.
        tokenizer: Makes text of tokens.
        stopping: What ends a response.
    """

    def __init__(self, path: Path, tokenizer: Any, stopping: Stopping) -> None:
        self._path = path
        self._tokenizer = tokenizer
        self._stopping = stopping
        self._turn = asyncio.Lock()
        self._lines: AtomicLines | None = None
        self._gave_up = False

    async def add(self, place: Mapping[str, object], data: Any) -> None:
        """Write the responses to one prompt.

        Args:
            place: What its lines begin with: set, index, and whether they are greedy.
            data: Ray's reference of the group; None for one that came to nothing.
        """
        if data is None or self._gave_up:
            return
        try:
            group: Group = await data
            async with self._turn:
                # Of long responses that takes a while, in which others are to be asked.
                await asyncio.to_thread(self._write, place, group)
        except (OSError, RayError) as error:
            if not self._gave_up:
                tell(f"{self._path.name} could not be written ({why(error)}); it has a part only")
            self._gave_up = True

    def close(self) -> None:
        """Let go of the file."""
        if self._lines is not None:
            self._lines.close()

    def _write(self, place: Mapping[str, object], group: Group) -> None:
        if self._lines is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.unlink(missing_ok=True)
            self._lines = AtomicLines(self._path)
        texts = [
            self._stopping.text(self._tokenizer, trajectory.token_ids.tolist())
            for trajectory in group.trajectories
        ]
        rows = rows_of(group, texts, self._tokenizer.decode)
        lines = [json.dumps(json_ready({**place, **row}), ensure_ascii=False) for row in rows]
        self._lines.append("".join(f"{line}\n" for line in lines).encode(errors="replace"))


def rows_of(
    group: Group, texts: list[str], decode: Callable[[Any], str]
) -> list[dict[str, object]]:
    """Return what was asked, answered and made of it, one row a response.

    Args:
        group: n responses to one prompt.
        texts: [n] the responses, decoded.
        decode: Makes text of a turn's tokens.
    """
    return [
        {
            "prompt": group.prompt.text,
            "response": text,
            "reward": float(reward),
            "answer": answer,
            "expected": own_answer(group.prompt.answer),
            "scoring": RewardStatus(int(status)).name.lower(),
            "length_tokens": len(trajectory.token_ids),
            "truncated": bool(trajectory.truncated),
            "end": trajectory.end.name.lower(),
            "failure": trajectory.failure,
            "turns": [asdict(turn) for turn in turns_of(trajectory, decode)],
        }
        for text, reward, answer, status, trajectory in zip(
            texts,
            group.rewards,
            group.answers,
            group.reward_status,
            group.trajectories,
            strict=True,
        )
    ]
