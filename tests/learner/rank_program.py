"""Run by test_deepspeed_engine.py: `python rank_program.py FOLDER`.

Reads FOLDER/task.pt and starts two ranks. They take three optimiser steps in every ZeRO stage (one
good, one that the last rank spoils, one good), and leave what they saw in FOLDER/rank{rank}.pt.
"""

import os
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from deepspeed.utils import safe_get_full_grad

from learner import deepspeed_engine
from learner.config import LearnerConfig
from learner.curvature_config import RejectedShares
from learner.deepspeed_engine import DeepSpeedEngine
from learner.deepspeed_head import DeepSpeedHead
from learner.deepspeed_settings import deepspeed_settings
from learner.gradient_norms import LAYERS
from learner.lora import LoraConfig
from learner.loss import Loss
from learner.numerics import Numerics
from learner.objectives.clipped_surrogate import ClippedSurrogate
from learner.optimizers import AdamW
from learner.reference_config import ReferenceConfig
from learner.token_masks import WithinCurvature
from learner.update import Updater
from tests.learner.ranks import import_all, on_ranks

NUM_RANKS = 2
OFFLOADED = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}


class WatchedEngine(DeepSpeedEngine):
    """Keeps the gradient that a step is about to use.

    Asks for gradient norms while a step's gradient is half accumulated, in the first step, and
    before every step how the head is going to change.
    """

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.norms, self.gathered, self.foreseen = [], set(), []
        self.head = DeepSpeedHead(self, self.config.chosen_optimizer)

    def logprobs(self, row, **settings):
        self.row = row
        return super().logprobs(row, **settings)

    def backward(self, loss, *, boundary):
        super().backward(loss, boundary=boundary)
        if not hasattr(self, "gradients"):
            self.norms.append({layer: self.gradient_norms(self.row, layer) for layer in LAYERS})
            self.gathered |= {
                str(getattr(parameter, "ds_status", None)) for parameter in self.model.parameters()
            }

    def step(self):
        self.gradients = {
            name: safe_get_full_grad(parameter).cpu().clone()
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad
        }
        if self.config.curvature.masks:
            # Each rank's part of it, as it were.
            part = self.gradients["lm_head.weight"].float() / self.num_ranks
            self.foreseen.append(self.head.change(part))
        return super().step()


def shared_out(config, dtype):
    """Our settings, but ZeRO-3 shares out even weights as small as the test model's."""
    settings = deepspeed_settings(config, dtype)
    settings["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    return settings


def train(folder: Path, task) -> None:
    """Train as one rank and write the results."""
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    rows = task["rows"][rank]
    spoilt = rows
    if rank == world_size - 1:
        spoilt = [replace(rows[0], loss_weights=rows[0].loss_weights * torch.nan), *rows[1:]]
    results = {}
    masked = {
        "curvature": RejectedShares(low=0.1, high=0.05, shift=0.1),
        # The mask does not know what clipping does.
        "max_grad_norm": 1e9,
    }
    for run in task["runs"]:
        stage, tied, dtype, checkpointing, kind = run
        config = LearnerConfig(
            zero_stage=stage,
            lr=1e-3,
            optimizer=AdamW(eps=1e-4, weight_decay=0.01),
            gradient_checkpointing=checkpointing,
            # Fewer than the loss tokens of a row.
            logits_chunk_tokens=16,
            lora=LoraConfig(
                rank=4 if kind == "lora" else 0,
                publish="adapters" if kind == "lora" and stage >= 2 else "merged",
            ),
            deepspeed=OFFLOADED if kind == "offloaded" else {},
            chunk_tokens=7 if "chunked" in kind else None,
            **masked if "masked" in kind else {},
            # The reference is the policy without its adapters.
            reference=ReferenceConfig(kl_coefficient=0.1 if kind == "lora" else 0.0),
        )
        torch.manual_seed(stage)
        engine = WatchedEngine(
            config,
            task["models"][tied],
            Numerics(dtype=dtype, temperature=0.9, float32_head=kind == "float32 head"),
        )
        hooks = []
        if config.curvature.masks:
            hooks = [WithinCurvature(engine, engine.head, config.curvature)]
        start = engine.weights.adapter_tensors()
        gradients, outcomes, losses, weights, token_sums = [], [], [], [], []
        for step_rows in (rows, spoilt, rows):
            sums = Updater(engine, Loss(ClippedSurrogate())).step(step_rows, hooks=hooks)
            gradients.append(engine.gradients)
            outcomes.append(sums.outcome)
            losses.append(sums.loss)
            token_sums.append(sums.token_sums)
            weights.append({n: t.float().clone() for n, t in engine.weights.full()})
        path = folder / "-".join(["checkpoint", *map(str, run)])
        # A rank that cannot write leaves nobody waiting: the next one is saved.
        (path.parent / "a file").touch()
        with nullcontext() if rank else pytest.raises(OSError):
            engine.weights.save(path.parent / "a file" / "policy")
        engine.weights.save(path, task["tokenizer"])
        row = rows[0].to(engine.device)
        with torch.no_grad():
            logprobs = engine.logprobs(row)[0]
        references = []
        if kind == "lora":
            references = [engine.reference_logprobs(row), engine.logprobs(row)[0].detach()]
        files, disturbed_files = {}, {}
        if kind == "lora":
            files = engine.weights.adapter_files()
        engine.weights.disturb()
        with torch.no_grad():
            disturbed = engine.logprobs(row)[0]
        published = {n: t.float().clone() for n, t in engine.weights.full()}
        with torch.no_grad():
            disturbed_again = engine.logprobs(row)[0]
        if kind == "lora":
            disturbed_files = engine.weights.adapter_files()
        engine.weights.restore()
        with torch.no_grad():
            restored = engine.logprobs(row)[0]
        results[run] = {
            "device": engine.device.type,
            "files": files,
            "disturbed_files": disturbed_files,
            "disturbed": disturbed,
            "disturbed_again": disturbed_again,
            "disturbed_weights": published,
            "restored": restored,
            "start": start,
            "adapters": engine.weights.adapter_tensors(),
            "logprobs": logprobs,
            "references": references,
            "gradients": gradients,
            "outcomes": outcomes,
            "norms": engine.norms,
            "gathered": engine.gathered,
            "losses": losses,
            "token_sums": token_sums,
            "foreseen": engine.foreseen,
            "weights": weights,
            "metadata": engine.weights.metadata(),
            "checkpoint": str(path),
        }
    torch.save(results, folder / f"rank{rank}.pt")


def main(folder: Path) -> None:
    """Let all ranks train."""
    deepspeed_engine.deepspeed_settings = shared_out
    # Offloading is refused where there is no other memory; it computes the same.
    deepspeed_engine.check_device = lambda *_, **__: None
    task = torch.load(folder / "task.pt", weights_only=False)
    import_all(task["models"][False])
    on_ranks(NUM_RANKS, train, folder, task)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
