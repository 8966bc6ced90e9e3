"""Groups of plays that branch where a tool's answer leaves the policy unsure: agentic AEPO's.

    one play -> how many are played from the prompt -> these -> branches, wave by wave -> n plays

"Agentic entropy-balanced policy optimisation" (arXiv:2510.14545), its rollout side. Of a group of k
plays, pre-monitoring gives m to the prompt, the rest to branches at tool steps:

    m = k sigmoid(beta (H_root - H_tool))         H_root of the first turn, H_tool of the later ones
    P_t = (alpha + gamma dH_t) (1 - penalty l)    dH_t = H_t - H_root, l branches in a row before it
    branch before turn t if P_t > threshold

The formulas are read second-hand. Ours are the constants, which are not known; the entropy, which
is the mean of -log p over the first tokens that a turn sampled, an estimate without bias that costs
nothing; and the waves: what branches is decided when all plays of a wave are over, in their order,
so that a group does not depend on which of them was faster. A branch takes over what was said
before its turn, samples from there on, and may branch later. What no branch is found for is played
from the prompt. Plays of a group share beginnings, chosen by how unsure the policy was after them:
the objective is one of its own.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cost.ranges import Range, amount, count, require_ranges
from rollout.types import Trajectory

Play = Callable[[int, Any, list[Any]], Awaitable[Trajectory]]
"""Plays response `position` on from a node, None for the prompt, and lists the nodes it passes: one
before each turn of its own, None where the game cannot go on twice."""


@dataclass(frozen=True, slots=True)
class Branch:
    """A place at which a play is to be played on once more.

    Example: Branch(play=2, turn=1, in_a_row=1)
    """

    play: int
    """Position of the play in its group."""
    turn: int
    """The turn that is sampled anew, from 1."""
    in_a_row: int
    """Branches at this and the tool steps right before it."""


@dataclass(frozen=True, slots=True)
class Played:
    """What is known of a play when it is over.

    Example: a play from the prompt that was unsure after its second tool answer.

        Played(entropies=(0.4, 0.3, 1.9), first_turn=0, in_a_row=0)
    """

    entropies: tuple[float, ...]
    """Of each turn, nats a token."""
    first_turn: int = 0
    """The first that it sampled itself."""
    in_a_row: int = 0
    """Branches right before its first turn, its own included."""


@dataclass(frozen=True, slots=True)
class EntropyBranching:
    """The plug `branching`: how many plays are from the prompt, and where others begin.

    Raises:
        ValueError: If a setting is out of range.
    """

    alpha: float = 0.5
    """The score of a turn as unsure as the first."""
    gamma: float = 0.2
    """What a nat a token more adds to it, not negative."""
    penalty: float = 0.2
    """What each branch in a row takes of it, in [0, 1]."""
    threshold: float = 0.5
    """The score beyond which a branch begins."""
    beta: float = 1.0
    """How much a nat between first and later turns moves the share of plays from the prompt."""
    entropy_tokens: int = 20
    """First tokens of a turn whose surprise is averaged."""

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        ranges = {name: amount(1e6) for name in ("alpha", "gamma", "threshold", "beta")}
        ranges |= {"penalty": Range(0, 1), "entropy_tokens": count(1e6)}
        require_ranges("rollout.branching.", self, ranges)

    def num_from_prompt(self, num_samples: int, entropies: Sequence[float]) -> int:
        """Return m in [1, num_samples], from the turns of the play that was made first.

        One without a tool step gives all to the prompt: there is nothing to branch at.
        """
        if len(entropies) < 2:
            return num_samples
        gap = entropies[0] - float(np.mean(entropies[1:]))
        share = 1 / (1 + math.exp(min(-self.beta * gap, 700.0)))
        return min(max(round(num_samples * share), 1), num_samples)

    def score(self, change: float, in_a_row: int) -> float:
        """Return P_t of a turn whose entropy is `change` above the first one's."""
        return (self.alpha + self.gamma * change) * (1 - self.penalty * in_a_row)

    def branches(self, plays: Sequence[tuple[int, Played]]) -> list[Branch]:
        """Return where a wave of plays branches, in the order of plays and turns.

        Args:
            plays: Position and record of each.
        """
        found: list[Branch] = []
        for position, played in plays:
            in_a_row = played.in_a_row
            # The turn that a branch begins with stands where its origin branched already.
            for turn in range(played.first_turn + 1, len(played.entropies)):
                change = played.entropies[turn] - played.entropies[0]
                if self.score(change, in_a_row) <= self.threshold:
                    in_a_row = 0
                    continue
                in_a_row += 1
                found.append(Branch(position, turn, in_a_row))
        return found

    def entropies(self, trajectory: Trajectory) -> tuple[float, ...]:
        """Return the entropy of each turn, nats a token; 0 of an empty one."""
        return tuple(
            mean_surprisal(trajectory, turn.start, min(turn.end, turn.start + self.entropy_tokens))
            for turn in trajectory.turns
        )


@dataclass
class _Group:
    """The plays of a group so far, with the places at which they can be played on."""

    rule: EntropyBranching
    play: Play
    trajectories: list[Trajectory] = field(default_factory=list)
    records: list[Played] = field(default_factory=list)
    nodes: list[list[Any]] = field(default_factory=list)

    async def wave(self, branches: Sequence[Branch | None]) -> list[int]:
        """Play on from each branch, or from the prompt, all at once; return their positions."""
        first = len(self.trajectories)
        places: list[list[Any]] = [[] for _ in branches]
        starts = [None if each is None else self._node(each) for each in branches]
        played = [
            asyncio.ensure_future(self.play(first + k, start, places[k]))
            for k, start in enumerate(starts)
        ]
        try:
            self.trajectories += await asyncio.gather(*played)
        finally:
            # Where one failed, nobody wants the others.
            for each in played:
                each.cancel()
        self.nodes += places
        for k, branch in enumerate(branches):
            entropies = self.rule.entropies(self.trajectories[first + k])
            begins = (0, 0) if branch is None else (branch.turn, branch.in_a_row)
            self.records.append(Played(entropies, *begins))
        return list(range(first, len(self.trajectories)))

    def found(self, positions: Sequence[int], most: int) -> list[Branch]:
        """Return the branches of plays, at places where the game can go on."""
        wave = [(position, self.records[position]) for position in positions]
        return [each for each in self.rule.branches(wave) if self._node(each) is not None][:most]

    def _node(self, branch: Branch) -> Any:
        return self.nodes[branch.play][branch.turn - self.records[branch.play].first_turn]


async def play_branching(rule: EntropyBranching, play: Play, num_samples: int) -> list[Trajectory]:
    """Play a group of `num_samples`, at least 1; their order is that in which they begin.

    Args:
        rule: Where it branches.
        play: Plays one response; see `Play`.
        num_samples: Plays of the group.
    """
    group = _Group(rule, play)
    await group.wave([None])
    from_prompt = rule.num_from_prompt(num_samples, group.records[0].entropies)
    await group.wave([None] * (from_prompt - 1))
    new = list(range(from_prompt))
    while left := num_samples - len(group.trajectories):
        branches = group.found(new, left)
        new = await group.wave(branches or [None] * left)
    return group.trajectories


def mean_surprisal(trajectory: Trajectory, start: int, end: int) -> float:
    """Return the mean of -log p over tokens [start, end), nats; 0 for none."""
    logprobs = trajectory.rollout_logprobs[start:end]
    return float(-np.mean(logprobs, dtype=np.float64)) if len(logprobs) else 0.0


def entropy_change(trajectory: Trajectory) -> float:
    """Return how much more unsure a response was after tools than before, nats a token.

    It is the mean of -log p over the policy's tokens of later turns less that of the first turn; 0
    of one turn.
    """
    if len(trajectory.turns) < 2:
        return 0.0
    first_end = trajectory.turns[0].end
    later = trajectory.rollout_logprobs[first_end:][trajectory.loss_mask[first_end:]]
    if not len(later):
        return 0.0
    return float(-np.mean(later, dtype=np.float64)) - mean_surprisal(trajectory, 0, first_end)
