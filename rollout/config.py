"""The settings of everything that generates."""

from dataclasses import dataclass, field
from typing import Any

from cost.ranges import SECONDS, Range, amount, count, positive, require_ranges

UPDATE_MODES = ("recompute", "keep_kv", "drain")
PACKED_BYTES = 2**28
"""Of weights that are sent together over NCCL; both ends have two such buckets at a time, each with
one weight more. vLLM would take four times as much."""
ADAPTER_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM makes room for; an adapter of a smaller one fits."""

SET_BY = {
    "model": "model.path",
    "tokenizer": "model.path",
    "dtype": "model.dtype",
    "max_model_len": "model.max_model_len",
    "seed": "seed",
    "tensor_parallel_size": "resources.tensor_parallel_size",
    "enable_sleep_mode": "resources.engines_sleep",
    "max_num_seqs": "rollout.engine.max_num_seqs",
    "max_num_batched_tokens": "rollout.engine.max_num_batched_tokens",
    "enforce_eager": "rollout.engine.enforce_eager",
    "gpu_memory_utilization": "rollout.engine.gpu_memory_utilization",
    "enable_prefix_caching": "rollout.engine.prefix_caching",
    "kv_cache_memory_bytes": "rollout.engine.kv_cache_gib",
    "enable_lora": "learner.lora",
    "max_loras": "learner.lora",
    "max_lora_rank": "learner.lora",
    "logprobs_mode": "what the learner computes",
    "generation_config": "what the learner computes",
    "weight_transfer_config": "how weights are sent",
    "hf_overrides": "how weights are sent",
    "distributed_executor_backend": "how engines are placed",
    "data_parallel_size": "how engines are placed",
    "pipeline_parallel_size": "how engines are placed",
    "worker_cls": "how engines are placed",
    "trust_remote_code": "the rule that no model brings code or pickles",
    "load_format": "the rule that no model brings code or pickles",
    "disable_log_stats": "where metrics are read",
}
"""Arguments of vLLM that are set already, and by what."""


@dataclass(kw_only=True, slots=True)
class EngineConfig:
    """How one vLLM engine works; what it may use of the machine is in `resources`."""

    max_num_seqs: int = 128
    """How many sequences run at the same time."""
    max_num_batched_tokens: int = 4096
    """Tokens of one engine step, prompts included."""
    kv_cache_gib: float | None = None
    """KV cache size; None for what is left of `gpu_memory_utilization`, or 4 GiB on CPUs."""
    gpu_memory_utilization: float = 0.85
    """Share of the GPU that vLLM may take when `kv_cache_gib` is None."""
    enforce_eager: bool = False
    """Skip CUDA graphs and compilation: faster start, slower steps on GPUs."""
    prefix_caching: bool = True
    """Compute a prompt shared by several requests once, in whole cache blocks."""
    num_threads: int = 1
    """CPU threads of the engine worker; no effect on GPUs. Its main thread stays on as many cores
    that no other engine uses, if there are such, for as long as it gets them (`rollout.cores`)."""

    vllm: dict[str, Any] = field(default_factory=dict)
    """Further arguments of vLLM's `AsyncEngineArgs`, e.g. {kv_cache_dtype: fp8}; those that follow
    from settings here are refused. Parity judges the log-probabilities that come of them, and the
    plan of memory knows nothing of them."""

    def __post_init__(self) -> None:
        for name, what in SET_BY.items():
            if name in self.vllm:
                raise ValueError(
                    f"rollout.engine.vllm.{name} must not be set: it follows from {what}; "
                    f"got {self.vllm[name]!r}"
                )
        ranges = {
            "max_num_seqs": count(1e6),
            "max_num_batched_tokens": count(1e8),
            "num_threads": count(10_000),
            "kv_cache_gib": positive(100_000),
            "gpu_memory_utilization": positive(1),
        }
        require_ranges("rollout.engine.", self, ranges)


@dataclass(kw_only=True, slots=True)
class OverlongConfig:
    """Penalty of long responses in training; see `rollout.shaping`."""

    buffer_share: float = 0.0
    """Last share of `rollout.max_tokens` over which the penalty grows from 0 to its full size, in
    [0, 1]; 0 for no penalty. DAPO: 0.2, 4096 of 20480 tokens."""
    penalty: float = 1.0
    """Penalty of a full-length response, positive; DAPO: 1."""
    filter_truncated: bool = False
    """Give truncated responses no reward at all, as if their scoring had failed: they are left out
    of their group's mean and deviation, and have weight 0."""
    mask_truncated: bool = False
    """Leave truncated responses out of the loss alone: their rewards count in their group's mean
    and deviation (DAPO's overlong filtering)."""

    def __post_init__(self) -> None:
        ranges = {"buffer_share": amount(1), "penalty": positive()}
        require_ranges("rollout.overlong.", self, ranges)
        if self.filter_truncated and self.mask_truncated:
            raise ValueError(
                "rollout.overlong.mask_truncated must be false with filter_truncated=true, which "
                "leaves truncated responses out of more, got True"
            )


@dataclass(kw_only=True, slots=True)
class RolloutConfig:
    """How tickets become groups."""

    max_tokens: int = 256
    """Largest number of tokens in a response."""
    temperature: float = 1.0
    """Sampling temperature; the learner divides its logits by it too."""
    top_p: float = 1.0
    """Fixed at 1: see `__post_init__`."""
    top_k: int = 0
    """Fixed at 0, which is off: the learner could not compute these log-probabilities."""
    repetition_penalty: float = 1.0
    """Fixed at 1: see `__post_init__`."""
    seeded: bool = True
    """Give every request its own seed, derived from the run's seed, the ticket, the position in the
    group and the turn."""
    permute_rewards: bool = False
    """Control experiment: shuffle rewards within each group, so that nothing can be learned."""
    update_mode: str = "recompute"
    """What happens to running requests when new weights arrive: `recompute` preempts them and
    recomputes their KV cache, `keep_kv` keeps it, `drain` lets them finish first."""
    reward_processes: int = 1
    """Processes per rollout actor that score responses."""
    reward_concurrency: int = 16
    """Responses that such a process scores at the same time where the reward is asynchronous; one
    that does not wait is done before the next begins."""
    reward_timeout_seconds: float = 10.0
    """Time limit for scoring one response; beyond it the process is killed, or the one response
    given up where the process scores others too."""
    reward_max_crashed_share: float = 0.5
    """The run ends if the reward crashes for a larger share of a batch's responses, in [0, 1]; 1
    for never. Responses whose play or scoring crashed are left out of their group, counted and
    reported."""
    reward_max_timed_out_share: float = 0.5
    """The same for responses whose scoring takes longer than `reward_timeout_seconds`."""
    environment_timeout_seconds: float = 600.0
    """Longest time that an environment may take before, between or after its calls of the engine,
    not counting waits for a thread or a sandbox; beyond it the ticket fails and is retried."""
    max_queued_responses: int = 32
    """Responses that may queue in an engine beyond the `rollout.engine.max_num_seqs` that it works
    on, so that it never idles; further tickets wait in the driver, in ticket order."""
    ticket_deadline_seconds: float = 600.0
    """Longest silence of a ticket; it then fails and is retried. It is silent if one of its
    responses gets no token from the engine for this long, nor any response that came before it, or
    if its actor does not report for this long. However slow, what gets tokens is alive. Waiting
    for room, behind others in the engine, for new weights, environments or rewards is not
    silence."""
    max_retries: int = 2
    """Retries of a ticket after a crash or a silence, with the same probability and seeds."""
    start_deadline_seconds: float = 600.0
    """Longest time for an engine to start."""
    branching: Any = None
    """How the plays of a group share beginnings, in training in environments of several turns
    (rollout/environments/branching.py); None for independent plays."""
    overlong: OverlongConfig = field(default_factory=OverlongConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        ranges = {
            "max_tokens": count(1e8),
            "temperature": positive(100),
            "reward_processes": count(512),
            "reward_concurrency": count(10_000),
            "max_retries": amount(1000),
            "reward_timeout_seconds": SECONDS,
            "reward_max_crashed_share": Range(0, 1),
            "reward_max_timed_out_share": Range(0, 1),
            "environment_timeout_seconds": SECONDS,
            "max_queued_responses": amount(1e6),
            "ticket_deadline_seconds": SECONDS,
            "start_deadline_seconds": SECONDS,
        }
        require_ranges("rollout.", self, ranges)
        if self.branching is not None and not hasattr(self.branching, "branches"):
            raise ValueError(
                "rollout.branching must be a plug with the methods of "
                f"rollout.environments.branching.EntropyBranching, or null, got {self.branching!r}"
            )
        neutral = {"top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0}
        for key, value in neutral.items():
            if getattr(self, key) != value:
                raise ValueError(
                    f"rollout.{key} must be {value} for training: the learner would compute other "
                    f"log-probabilities than the ones sampled from, got {getattr(self, key)!r}"
                )
        if self.update_mode not in UPDATE_MODES:
            raise ValueError(
                f"rollout.update_mode must be one of {', '.join(UPDATE_MODES)}, "
                f"got {self.update_mode!r}"
            )

    @property
    def reward_max_dead_in_a_row(self) -> int | None:
        """Processes that scoring ends in a row after which an actor stops; None for never.

        Each takes a moment to replace: whole batches would hold up what can be said at once.
        """
        return None if self.reward_max_crashed_share == 1 else 16

    @property
    def reward_max_late_in_a_row(self) -> int | None:
        """Time-outs in a row after which an actor stops scoring; None for never.

        As many as half of a ticket's deadline has room for: a reward that always hangs would hold
        up its whole batch before the batch could say why.
        """
        if self.reward_max_timed_out_share == 1:
            return None
        each = self.reward_timeout_seconds / self.reward_processes
        return max(16, int(self.ticket_deadline_seconds / 2 / each))
