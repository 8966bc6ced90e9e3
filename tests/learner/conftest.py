"""A small Llama, groups to train on, and an engine of a few lines to compare DeepSpeed with."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from cost.types import Selection, Ticket
from learner.batch import MicroBatch, collate, segment_of
from learner.engine import StepOutcome
from learner.logprobs import PackedPolicy
from learner.output_head import head_inputs
from learner.partition import plan_rows
from rollout.types import Group, Prompt, Trajectory, VersionSpan

VOCABULARY = 261


@pytest.fixture(scope="session")
def model_paths(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Folders of two small Llamas, by whether their embeddings are tied."""
    from transformers import LlamaConfig, LlamaForCausalLM

    paths = {}
    for tied in (False, True):
        torch.manual_seed(7)
        config = LlamaConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            vocab_size=VOCABULARY,
            max_position_embeddings=256,
            tie_word_embeddings=tied,
        )
        model = LlamaForCausalLM(config)
        # The default initialisation is so narrow that all distributions are nearly uniform.
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, 0.08)
        paths[tied] = tmp_path_factory.mktemp("model") / ("tied" if tied else "untied")
        model.save_pretrained(paths[tied])
    return paths


class PlainEngine:
    """A learner.engine.Engine for one rank in plain torch: AdamW and a clipped gradient."""

    num_ranks = 1
    device = torch.device("cpu")

    def __init__(
        self,
        path: Path,
        temperature: float = 1.0,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        max_grad_norm: float = 1.0,
    ) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        self.policy = PackedPolicy(self.model, temperature)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=lr, eps=1e-4, weight_decay=weight_decay
        )
        self.lr = lr
        self.max_grad_norm = max_grad_norm
        self.reference: PackedPolicy | None = None
        self.gradients: dict[str, torch.Tensor] = {}
        """The latest step's gradient before clipping."""

    def logprobs(
        self, row: MicroBatch, *, entropy_gradient: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.policy(row.token_ids, row.position_ids, row.loss_mask, entropy_gradient)

    def reference_logprobs(self, row: MicroBatch) -> torch.Tensor:
        assert self.reference is not None
        with torch.no_grad():
            logprobs: torch.Tensor = self.reference(row.token_ids, row.position_ids, row.loss_mask)[
                0
            ]
        return logprobs

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        return values

    def agree(self, value: bool) -> bool:
        return value

    def backward(self, loss: torch.Tensor, *, boundary: bool) -> None:
        loss.backward()

    def step(self) -> StepOutcome:
        named = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        self.gradients = {name: parameter.grad.clone() for name, parameter in named}
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
        if norm.isfinite():
            self.optimizer.step()
        self.optimizer.zero_grad()
        return StepOutcome(applied=bool(norm.isfinite()), grad_norm=norm.item(), lr=self.lr)


class PlainHead:
    """A learner.token_masks.OutputHead of a PlainEngine."""

    def __init__(self, engine: PlainEngine) -> None:
        self.engine = engine
        self.temperature = engine.policy.temperature

    def hidden_states(self, row: MicroBatch) -> torch.Tensor:
        with torch.no_grad(), head_inputs(self.engine.model) as seen:
            self.engine.logprobs(row)
        return torch.cat(seen, dim=1)[0]

    def weight(self) -> torch.Tensor:
        return self.engine.model.lm_head.weight.detach().clone()

    def change(self, gradient: torch.Tensor) -> torch.Tensor:
        """What a copy of the optimiser does, decay apart, to a head that is zero to be exact."""
        weight = torch.nn.Parameter(torch.zeros_like(gradient))
        trained = self.engine.optimizer
        settings = trained.param_groups[0] | {"params": [weight], "weight_decay": 0.0}
        optimizer = torch.optim.AdamW([settings])
        optimizer.state[weight] = copy.deepcopy(trained.state[self.engine.model.lm_head.weight])
        weight.grad = gradient
        optimizer.step()
        return weight.detach()


@pytest.fixture(scope="session")
def plain_head() -> Callable[[PlainEngine], PlainHead]:
    """Look at a PlainEngine's output head: plain_head(engine)."""
    return PlainHead


@pytest.fixture(scope="session")
def plain_engine(model_paths: dict[bool, Path]) -> Callable[..., PlainEngine]:
    """Build a fresh PlainEngine on the untied model: plain_engine(temperature=1.0)."""
    return lambda **settings: PlainEngine(model_paths[False], **settings)


def make_group(ticket_id: int, lengths: list[int], *, num_samples: int, seed: int) -> Group:
    """A group of random responses; `rollout_logprobs` are plausible but not the model's."""
    rng = np.random.default_rng([seed, ticket_id])
    n = len(lengths)
    prompt = Prompt(
        index=ticket_id,
        token_ids=rng.integers(0, VOCABULARY, rng.integers(2, 9)).astype(np.int32),
        answer="",
        source="test",
        text="",
    )
    return Group(
        ticket=Ticket(ticket_id, ticket_id, num_samples, 1.0, 1.0, 64),
        prompt=prompt,
        trajectories=tuple(
            Trajectory(
                token_ids=rng.integers(0, VOCABULARY, length).astype(np.int32),
                loss_mask=np.ones(length, np.bool_),
                rollout_logprobs=rng.normal(-5.6, 0.3, length).astype(np.float32),
                version_spans=(VersionSpan(0, length, 0),),
                truncated=False,
                prefill_tokens=0,
            )
            for length in lengths
        ),
        rewards=np.zeros(n),
        reward_components={},
        reward_status=np.zeros(n, np.int64),
        answers=("",) * n,
        seconds=0.0,
    )


def make_selection(group: Group, *, seed: int = 0) -> Selection:
    """Keep everything: random advantages, sequence-mean factors, weights of exactly 1."""
    rng = np.random.default_rng([seed, group.ticket.ticket_id, 1])
    n = len(group.trajectories)
    lengths = np.array([len(trajectory.token_ids) for trajectory in group.trajectories], float)
    return Selection(
        ticket_id=group.ticket.ticket_id,
        keep=np.ones(n, np.bool_),
        weight=np.ones(n),
        advantages=rng.normal(size=n),
        factors=1 / lengths,
    )


Batch = tuple[list[Group], list[Selection]]


@pytest.fixture(scope="session")
def batch() -> Batch:
    """Five groups of up to four responses, one of them empty, one short of a response."""
    lengths = [[5, 17, 3, 11], [8, 8, 2, 23], [], [30, 1, 4], [6, 9, 12, 7]]
    groups = [make_group(k, n, num_samples=4, seed=3) for k, n in enumerate(lengths)]
    return groups, [make_selection(group) for group in groups]


@pytest.fixture(scope="session")
def pack() -> Callable[..., list[list[MicroBatch]]]:
    """Pack a whole batch into one step: pack(groups, selections, num_ranks=1, row_tokens=64)."""

    def pack_batch(
        groups: Sequence[Group],
        selections: Sequence[Selection],
        num_ranks: int = 1,
        row_tokens: int = 64,
    ) -> list[list[MicroBatch]]:
        segments = [
            segment_of(group, selection, int(j), num_groups=len(groups))
            for group, selection in zip(groups, selections, strict=True)
            for j in np.flatnonzero(selection.keep)
        ]
        lengths = [len(segment.token_ids) for segment in segments]
        plan = plan_rows(lengths, num_ranks, row_tokens)
        return [[collate([segments[i] for i in row]) for row in rows] for rows in plan]

    return pack_batch
