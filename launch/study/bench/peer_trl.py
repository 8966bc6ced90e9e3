"""Train with TRL's GRPOTrainer what a configuration of ours describes.

    python -m launch.study.bench.peer_trl CONFIG_FOLDER OUT_FOLDER

CONFIG_FOLDER holds the `config.yaml` of a run of plain GRPO; OUT_FOLDER gets the trained policy and
`FIGURES`. TRL comes from `.oracles`, which only this process sees. The optimiser's steps have the
learning rates of our schedule: the warm-up of transformers would begin with a step of rate 0.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from conf.programs import register
from conf.schema import RunConfig
from launch.cli.refusals import UserError
from launch.program import build
from launch.run.inputs import load_prompts
from launch.run.model_folder import load_tokenizer, resolve_model
from launch.study.bench import PROCESS_START
from launch.study.bench.peer_settings import require_matched, settings
from learner.schedule import learning_rate
from rollout.rewards.awaited import finished
from rollout.rewards.returned import as_score
from rollout.rewards.types import score_with
from rollout.stopping import stopping_of
from rollout.types import Prompt

FIGURES = "figures.json"
"""File of what a side took, see `launch.study.bench.peer.Figures`."""


class Rewards:
    """Our reward as TRL calls it; it also counts what there is to be counted.

    Args:
        score: From a prompt and the tokens of a response to its reward.
        prompts: By index.
    """

    __name__ = "reward"

    def __init__(
        self, score: Callable[[Prompt, list[int]], float], prompts: Sequence[Prompt]
    ) -> None:
        self._score, self._prompts = score, prompts
        self.generated_tokens = 0
        """Of responses."""
        self.trained_tokens = 0
        """Of responses, each with its prompt: all of them are trained on."""

    def __call__(self, completion_ids: list[list[int]], index: list[int], **_: Any) -> list[float]:
        """Return the rewards of a step's responses."""
        asked = [self._prompts[each] for each in index]
        self.generated_tokens += (generated := sum(map(len, completion_ids)))
        self.trained_tokens += generated + sum(len(prompt.token_ids) for prompt in asked)
        return [self._score(*each) for each in zip(asked, completion_ids, strict=True)]


def read_config(folder: Path) -> RunConfig:
    """Build the configuration of a run from its `config.yaml`."""
    register()
    with initialize_config_dir(str(folder.resolve()), version_base="1.3"):
        composed = compose("config")
    composed.model.path = resolve_model(composed.model.path)
    config: RunConfig = build(composed)
    require_matched(config)
    return config


def messages_of(prompts: Sequence[Prompt], tokenizer: Any) -> list[list[dict[str, str]]]:
    """Return conversations that TRL turns into the tokens that our prompts have.

    Raises:
        UserError: If the tokens of one are others.
    """
    found = [[{"role": "user", "content": prompt.text}] for prompt in prompts]
    tokens = tokenizer.apply_chat_template(found, add_generation_prompt=True, return_dict=True)
    for prompt, theirs in zip(prompts, tokens["input_ids"], strict=True):
        if prompt.token_ids.tolist() != list(theirs):
            raise UserError(
                "task must give single messages of a user beside TRL, which makes other tokens of "
                f"the rest, got {prompt.text[:80]!r}"
            )
    return found


def train(config: RunConfig, folder: Path) -> dict[str, Any]:
    """Train, save the policy under `folder`, and return what it took."""
    import pyarrow
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    tokenizer = load_tokenizer(config.model.path, config.model.chat_template_kwargs)
    prompts = load_prompts(config.task, tokenizer, config.reward, config.max_prompt_tokens)
    conversations = messages_of(prompts, tokenizer)
    rows = [{"prompt": each, "index": index} for index, each in enumerate(conversations)]
    stopping = stopping_of(config.model.path, tokenizer, config.model.stop_strings)

    def score(prompt: Prompt, token_ids: list[int]) -> float:
        text = stopping.text(tokenizer, token_ids)
        given = score_with(config.reward, prompt.text, text, prompt.answer, prompt.columns)
        return as_score(finished(given)).reward

    class Clock(TrainerCallback):  # type: ignore[misc]
        """Takes down when training begins and ends."""

        began = ended = 0.0

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.monotonic()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.ended = time.monotonic()

    # Mixed precision, where there is any, keeps the weights themselves in float32.
    model = AutoModelForCausalLM.from_pretrained(
        config.model.path, dtype="float32", use_safetensors=True, trust_remote_code=False
    )
    generating = timed_generate(model)
    rewards, clock = Rewards(score, prompts), Clock()
    trainer = GRPOTrainer(
        model,
        rewards,
        GRPOConfig(str(folder), **settings(config)),
        # A fingerprint of its own would be of pickled pyarrow, which dill cannot do.
        Dataset(pyarrow.Table.from_pylist(rows), fingerprint="prompts"),
        processing_class=tokenizer,
        callbacks=[clock],
    )
    trainer.lr_scheduler = our_schedule(config, trainer.create_optimizer())
    trainer.train()
    trainer.save_model(str(folder / "policy"))
    return {
        "num_steps": trainer.state.global_step,
        "startup_seconds": clock.began - PROCESS_START,
        "loop_seconds": clock.ended - clock.began,
        "generate_seconds": sum(generating),
        "generated_tokens": rewards.generated_tokens,
        "trained_tokens": rewards.trained_tokens,
    }


def timed_generate(model: Any) -> list[float]:
    """Let a model take down the seconds of each call of its `generate`, and return them."""
    seconds: list[float] = []
    generate = model.generate

    def timed(*arguments: Any, **named: Any) -> Any:
        began = time.monotonic()
        try:
            return generate(*arguments, **named)
        finally:
            seconds.append(time.monotonic() - began)

    model.generate = timed
    return seconds


def our_schedule(config: RunConfig, optimizer: Any) -> Any:
    """Return a scheduler of torch's with the learning rates of `learner.schedule`."""
    from torch.optim.lr_scheduler import LambdaLR

    learner = config.learner
    rate = partial(
        learning_rate,
        lr=1.0,
        schedule=learner.schedule,
        warmup=learner.warmup_steps,
        num_steps=learner.schedule_steps,
        minimum=learner.min_lr_share,
        stable=learner.stable_share,
    )
    return LambdaLR(optimizer, lambda step: rate(step, min(step / config.loop.num_steps, 1.0)))


def main() -> None:
    """Train as `sys.argv` says."""
    source, folder = map(Path, sys.argv[1:])
    found = train(read_config(source), folder)
    (folder / FIGURES).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except UserError as refused:
        print(f"error: {refused}", file=sys.stderr)
        sys.exit(2)
