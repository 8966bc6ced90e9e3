"""Random ragged batches, our losses of them, and the process that asks another library."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cost.advantages.types import GroupBatch
from cost.aggregations import Aggregation
from learner.corrections import Correction
from learner.objectives.types import LossInputs, Objective
from learner.reference import kl_estimates
from tests.places import PROJECT

INSTALLED = PROJECT / ".oracles"
NOT_IMPORTABLE = 77
"""The same as in oracle_program.py, which runs elsewhere."""
TIMEOUT_SECONDS = 180

Ask = Callable[[str, Sequence[dict[str, Any]]], list[Any]]


@dataclass(frozen=True, slots=True)
class Batch:
    """B responses of at most L tokens, right-padded, group after group."""

    sizes: tuple[int, ...]
    """Responses of each group."""
    mask: np.ndarray
    """[B, L] bool, True on tokens that the policy wrote; with holes, as of several turns."""
    learner_logprobs: np.ndarray
    """[B, L] float64, as the others."""
    rollout_logprobs: np.ndarray
    ref_logprobs: np.ndarray
    advantages: np.ndarray
    """[B] float64."""

    def as_job(self) -> dict[str, Any]:
        """Return nested lists for JSON."""
        return {
            "mask": self.mask.astype(int).tolist(),
            "learner_logprobs": self.learner_logprobs.tolist(),
            "rollout_logprobs": self.rollout_logprobs.tolist(),
            "ref_logprobs": self.ref_logprobs.tolist(),
            "advantages": self.advantages.tolist(),
        }


@dataclass(frozen=True, slots=True)
class Loss:
    """Our loss of a batch."""

    loss: float
    gradient: np.ndarray
    """[B, L] with respect to the learner's log-probabilities."""
    clipped: dict[tuple[bool, bool], int]
    """(ratio above 1, advantage above 0) -> tokens whose clip was active."""


def random_batch(seed: int, sizes: Sequence[int]) -> Batch:
    """Draw a batch whose ratios leave every clip's bounds on both sides."""
    rng = np.random.default_rng(seed)
    num_responses, limit = sum(sizes), 23
    lengths = rng.integers(1, limit + 1, num_responses)
    mask = np.arange(limit) < lengths[:, None]
    mask[:, 1:] &= rng.random((num_responses, limit - 1)) < 0.8
    rollout = np.log(rng.uniform(0.05, 0.9, mask.shape))
    # Every response as a whole is shifted, up and down, and either with advantages of both signs:
    # so every clip is active, those of a response's mean ratio included.
    places = np.arange(num_responses)
    shifts = np.where(places % 2, 1, -1) * rng.uniform(0.3, 0.9, num_responses)
    signs = np.where(places // 2 % 2, 1, -1)
    drift = rng.normal(0, 0.6, mask.shape) + shifts[:, None]
    return Batch(
        sizes=tuple(sizes),
        mask=mask,
        learner_logprobs=rollout + drift,
        rollout_logprobs=rollout,
        ref_logprobs=rollout + rng.uniform(-0.5, 0.5, mask.shape),
        advantages=signs * rng.uniform(0.1, 2.0, num_responses),
    )


def our_loss(
    batch: Batch, objective: Objective, aggregation: Aggregation, kl_weight: float = 0.0
) -> Loss:
    """Pack a batch into one row, with a prompt token before each response, and take the loss."""
    num_tokens = batch.mask.sum(1)
    groups = np.split(num_tokens, np.cumsum(batch.sizes)[:-1])
    factors = aggregation.factors(groups, [group > 0 for group in groups], 1.0)
    weights = np.concatenate([factor / (len(groups) * len(factor)) for factor in factors])

    def packed(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.pad(values, ((0, 0), (1, 0))).reshape(-1))

    learner = torch.from_numpy(batch.learner_logprobs * batch.mask).requires_grad_()
    row = torch.nn.functional.pad(learner, (1, 0)).reshape(-1)
    per_response = (len(batch.mask), batch.mask.shape[1] + 1)
    advantages = np.broadcast_to(batch.advantages[:, None], per_response).reshape(-1)
    segment_ids = np.broadcast_to(np.arange(len(batch.mask))[:, None], per_response).reshape(-1)
    loss_weights = np.broadcast_to(weights[:, None], per_response).reshape(-1)
    mask = packed(batch.mask)
    inputs = LossInputs(
        learner_logprobs=row,
        rollout_logprobs=packed(batch.rollout_logprobs * batch.mask),
        advantages=torch.tensor(advantages),
        segment_ids=torch.tensor(segment_ids),
        loss_mask=mask,
    )
    output = objective.token_losses(inputs)
    divergences = kl_estimates("k3", row, packed(batch.ref_logprobs * batch.mask))
    token_losses = output.token_losses + torch.where(mask, kl_weight * divergences, 0.0)
    loss = (torch.tensor(loss_weights) * token_losses).sum()
    (gradient,) = torch.autograd.grad(loss, learner)
    clipped = {}
    if "clip_fraction" in output.metrics:
        active = (output.metrics["clip_fraction"] > 0).numpy() & mask.numpy()
        above = output.metrics["ratio"].numpy() > 1
        clipped = {
            (high, positive): int((active & (above == high) & ((advantages > 0) == positive)).sum())
            for high in (False, True)
            for positive in (False, True)
        }
    return Loss(loss=loss.item(), gradient=gradient.numpy(), clipped=clipped)


@pytest.fixture(scope="session")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """ask(library, jobs) -> answers, from a process of its own that sees `.oracles`."""

    def ask_library(library: str, jobs: Sequence[dict[str, Any]]) -> list[Any]:
        if not INSTALLED.is_dir():
            pytest.skip(f"{library} is not installed: `make oracles` does it")
        folder = tmp_path_factory.mktemp(library)
        (folder / "jobs.json").write_text(json.dumps(list(jobs)))
        program = Path(__file__).with_name(f"ask_{library}.py")
        environment = {
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(INSTALLED),
        }
        done = subprocess.run(
            [sys.executable, str(program), str(folder / "jobs.json"), str(folder / "answers.json")],
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        if done.returncode == NOT_IMPORTABLE:
            pytest.skip(f"{library} cannot be imported: {done.stderr.strip().splitlines()[-1]}")
        assert done.returncode == 0, done.stderr[-4000:]
        answers: list[Any] = json.loads((folder / "answers.json").read_text())
        return answers

    return ask_library


@pytest.fixture(scope="session")
def compare() -> Callable[..., None]:
    """compare(answer, batch, objective, aggregation, ...): value and gradient to 1e-6."""

    def compare_losses(
        answer: dict[str, Any],
        batch: Batch,
        objective: Objective,
        aggregation: Aggregation,
        *,
        kl_weight: float = 0.0,
        clips: Sequence[tuple[bool, bool]] = (),
    ) -> None:
        ours = our_loss(batch, objective, aggregation, kl_weight)
        for clip in clips:
            assert ours.clipped[clip] > 0, f"no clip is active at (above 1, A > 0) = {clip}"
        assert ours.loss == pytest.approx(answer["loss"], rel=1e-6, abs=1e-6)
        theirs = np.array(answer["gradient"])
        assert np.abs(theirs).max() > 1e-3
        np.testing.assert_allclose(ours.gradient, theirs * batch.mask, rtol=1e-6, atol=1e-6)

    return compare_losses


def rewarded_groups(seed: int, sizes: Sequence[int]) -> GroupBatch:
    """Draw usable rewards for groups of these sizes."""
    total = sum(sizes)
    return GroupBatch(
        rewards=np.random.default_rng(seed).normal(0.4, 0.7, total),
        usable=np.ones(total, dtype=bool),
        lengths=np.ones(total, dtype=np.int64),
        answer_codes=np.zeros(total, dtype=np.int64),
        sizes=np.array(sizes),
        prompt_indices=np.arange(len(sizes)),
        folded=np.zeros(len(sizes), dtype=bool),
        max_tokens=1,
    )


@pytest.fixture(scope="session")
def compare_factors() -> Callable[..., None]:
    """compare_factors(answer, batch, correction): our factors of all tokens to 1e-6."""

    def compare_corrections(answer: Any, batch: Batch, correction: Correction) -> None:
        trainer = torch.from_numpy(batch.learner_logprobs).reshape(-1)
        rollout = torch.from_numpy(batch.rollout_logprobs).reshape(-1)
        inputs = LossInputs(
            learner_logprobs=trainer,
            rollout_logprobs=rollout,
            advantages=torch.zeros(len(trainer)),
            segment_ids=torch.zeros(len(trainer), dtype=torch.int64),
            loss_mask=torch.ones(len(trainer), dtype=torch.bool),
        )
        ours = correction.factors(inputs)
        changed = ours != (trainer - rollout).exp()
        assert changed.any()
        assert not changed.all()
        np.testing.assert_allclose(ours.numpy(), np.array(answer).reshape(-1), 1e-6, 1e-6)

    return compare_corrections


@pytest.fixture(scope="session")
def rewarded() -> Callable[[int, Sequence[int]], GroupBatch]:
    """rewarded(seed, sizes) -> groups of random rewards."""
    return rewarded_groups


@pytest.fixture(scope="session")
def batches() -> Callable[[int, Sequence[int]], Batch]:
    """batches(seed, sizes) -> a random batch of groups of these sizes."""
    return random_batch
