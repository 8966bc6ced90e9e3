"""FLOPs that the learners compute, for what was really laid out.

    rows of a pass, settings -> LearnerCompute.update      forward, backward and what is beside
    responses                -> gradient_norms, scores     prompts repeated

The backward pass takes twice the forward pass: one product for the gradient of what went in, one
for that of the weights. Adapters (LoRA) leave out the second for the weights they sit on, so that a
token takes 4 instead of 6 a weight, and 6 a weight of their own. Attention has no weights and takes
twice its forward pass always. A prompt that responses share in a row is computed once.

Padding, optimiser steps and second tries in float16 are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cost.prices.compute import scoring
from cost.prices.shape import ModelShape
from cost.types import LengthReport
from learner.batch_plan import MinibatchPlan, Row
from learner.config import LearnerConfig
from learner.lora import ALL_LINEAR
from learner.partition import Work

CURVATURE_PRODUCTS = 5
"""Products with the output head that CAPO's mask takes for a token."""


@dataclass(frozen=True, slots=True)
class LearnerCompute:
    """Counts FLOPs of all ranks together."""

    shape: ModelShape
    config: LearnerConfig

    @property
    def adapters(self) -> float:
        """FLOPs of a token's forward pass through the adapters alone."""
        shape, lora = self.shape, self.config.lora
        hidden, mlp = shape.hidden_size, shape.intermediate_size
        queries = shape.num_heads * shape.head_dim
        keys = shape.num_kv_heads * shape.head_dim
        # Rows and columns of each matrix of a layer, by the ends of their names.
        sides = {
            "q_proj": hidden + queries,
            "k_proj": hidden + keys,
            "v_proj": hidden + keys,
            "o_proj": queries + hidden,
            "up_proj": hidden + mlp,
            "down_proj": mlp + hidden,
        }
        if shape.mlp_matrices > 2:
            sides["gate_proj"] = hidden + mlp
        named = sides if lora.target_modules == ALL_LINEAR else lora.target_modules
        ends = [str(name).rsplit(".", 1)[-1] for name in named]
        total = sum(sides.get(end, 0) for end in ends)
        return 2.0 * shape.num_layers * lora.rank * total

    def training_work(self, token_share: float = 1.0) -> Work:
        """Say what a token, its logits and a pair cost in a whole pass, in FLOPs.

        Args:
            token_share: Of a selection; below 1 there is a pass to find entropies.
        """
        shape, config = self.shape, self.config
        curvature = config.curvature.masks
        again = float(config.gradient_checkpointing)
        reference = float(config.reference.kl_in_loss > 0)
        forward = 1.0 + (config.behaviour == "recomputed") + (token_share < 1) + curvature
        of_weights = 0.0 if config.lora.rank else 1.0
        return Work(
            token=shape.token * (forward + again + reference + 1 + of_weights)
            + self.adapters * (forward + again + 2),
            loss_token=shape.head
            * (forward + reference + 1 + of_weights + CURVATURE_PRODUCTS * curvature),
            pair=shape.pair * (forward + again + reference + 2),
        )

    def update(
        self,
        plans: Sequence[Sequence[MinibatchPlan]],
        reports: Sequence[LengthReport],
        token_share: float = 1.0,
    ) -> float:
        """Return FLOPs of one pass over a batch.

        Args:
            plans: Per optimiser step, the plan of every rank.
            reports: Of the batch's groups, which rows name by their position.
            token_share: As for `training_work`.
        """
        work = self.training_work(token_share)
        rows = [row for ranks in plans for plan in ranks for row in plan.rows]
        return sum(self._row(row, reports, work) for row in rows)

    def _row(self, row: Row, reports: Sequence[LengthReport], work: Work) -> float:
        config, forward = self.config, Work.of_shape(self.shape)
        prompts = (
            dict.fromkeys(k for k, _ in row) if config.shares_prefixes else [k for k, _ in row]
        )
        lengths = [(reports[k].prompt_tokens, int(reports[k].lengths[j])) for k, j in row]
        environment = sum(int(reports[k].environment_tokens[j]) for k, j in row)
        sizes = [reports[k].prompt_tokens for k in prompts]

        def taken(each: Work) -> float:
            whole = sum(each.of_prompt(size) for size in sizes)
            responses = sum(each.of_response(prompt, length) for prompt, length in lengths)
            # No logits are computed of what an environment wrote.
            return whole + responses - each.loss_token * environment

        tokens = sum(length for _, length in lengths)
        scored = tokens - environment
        total = taken(work)
        if config.chunk_tokens is not None and sum(sizes) + tokens > config.chunk_tokens:
            total += taken(forward)
        # In the backward pass the logits of all chunks but the last are computed again.
        again = max(-(-scored // config.logits_chunk_tokens) - 1, 0) * config.logits_chunk_tokens
        return total + self.shape.head * again

    def gradient_norms(self, reports: Sequence[LengthReport], layer: str) -> float:
        """Return FLOPs of measuring all responses' norms; see `learner.gradient_norms`."""
        return sum(self._norms(report, layer) for report in reports)

    def _norms(self, report: LengthReport, layer: str) -> float:
        shape, total = self.shape, self.scores([report])
        if layer == "embedding":
            # The gradient of what goes in, of no weight.
            prompt, lengths = report.prompt_tokens, report.lengths.astype(float)
            tokens = prompt + lengths
            pairs = float((tokens * (tokens + 1) / 2).sum())
            return total + self.scores([report]) + shape.pair * pairs
        for length in report.own_lengths.tolist():
            if length <= shape.hidden_size:
                total += 2.0 * length**2 * (shape.vocab_size + shape.hidden_size)
            else:
                total += shape.head * length
        return total

    def scores(self, reports: Sequence[LengthReport]) -> float:
        """Return FLOPs of one forward pass over all responses."""
        return sum(
            float(
                scoring(self.shape, report.prompt_tokens, report.lengths, report.own_lengths).sum()
            )
            for report in reports
        )
