"""What a run reads before any actor starts: tokenizer and prompts, with every refusal up front."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from conf.checks import require_path
from conf.evaluation import HELD_OUT
from conf.schema import EvaluateConfig, RunConfig
from conf.secrets import recorded
from conf.targets import foreign_code
from launch.cli.refusals import UserError, refusing
from launch.cli.visible import visible
from launch.program import build, prepare_run_dir
from launch.record.checkpoint import Checkpoint, remove_unfinished
from launch.record.hub import require_token
from launch.record.restarts import cut_back
from launch.run.compute import compute_of
from launch.run.kept_paths import keep_paths
from launch.run.memory_plan import plan_memory
from launch.run.model_folder import (
    check_context,
    check_model,
    check_tokens,
    load_tokenizer,
    resolve_model,
    resolve_reference,
)
from launch.run.rehearsal import rehearse
from launch.run.resume import about, changes, check_goes_on, check_stays, find_checkpoint
from launch.run.rewards import try_rewards
from rollout.environments import for_policy, prompt_tokenizer
from rollout.own_code import PROJECT
from rollout.rewards.by_set import address
from rollout.rewards.checking import GENEROUS, limited
from rollout.rewards.types import check_of
from rollout.sandbox.run import SandboxError
from rollout.stopping import stopping_of
from rollout.tasks.features import feature_table
from rollout.tasks.prompts import EmptySplitError
from rollout.types import Prompt

Sets = Mapping[str, Sequence[Prompt]]
"""Prompts by name of the set, `HELD_OUT` first."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a training run starts from, checked."""

    config: RunConfig
    resolved: dict[str, Any]
    """The configuration as plain values, as in `config.yaml`."""
    tokenizer: Any
    """The policy's Hugging Face tokenizer."""
    prompts: list[Prompt]
    """What the policy is trained on."""
    sets: Sets
    """What the policy is measured on."""
    about: Mapping[str, Any]
    """What its checkpoints say of it; see `launch.run.resume.about`."""
    saved: Checkpoint | None = None
    """What it goes on from; None for its start."""
    changed: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    """By key, the old and the new value of settings that are others than in `saved`."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was read and checked of a training before its run folder is made."""

    config: RunConfig
    tokenizer: Any
    """The policy's Hugging Face tokenizer."""
    prompts: list[Prompt]
    sets: Sets


def say_whose_code(*composed: DictConfig) -> None:
    """Print a line on the code of others that configurations name, before any of it runs.

    It is the plan's first line, and there is none where everything is this project's. A second one
    says what the other nodes of a cluster need of it.
    """
    found: dict[str, str] = {}
    for each in composed:
        found |= foreign_code(each)
    if not found:
        return
    told = ", ".join(f"{name} ({file})" for name, file in found.items())
    print(f"runs code from outside this project: {visible(told)}", flush=True)
    address = composed[0].resources.address or os.environ.get("RAY_ADDRESS")
    # What came with a job is on every node, beside the project.
    if address and any(not Path(file).is_relative_to(PROJECT) for file in found.values()):
        print(
            "every node of the cluster must find these files, and what they import, in the same "
            "places; `launch.submit` takes them along for a training"
        )


def read_inputs(composed: DictConfig) -> Prepared:
    """Read model, prompts and rewards of a training and check them; nothing is written.

    Raises:
        UserError: With one sentence on what to change.
    """
    reference = composed.learner.reference
    if reference.path is not None:
        reference.path = resolve_reference(reference.path)
    config: RunConfig = _build(composed)
    require_token(config.loop.push_to_hub)
    check_model(config.model.path, config.rollout.engine, config.learner.lora)
    compute_of(config)
    tokenizer = load_tokenizer(config.model.path, config.model.chat_template_kwargs)
    asking = check_environment(config, tokenizer)
    prompts = load_prompts(
        config.task,
        asking,
        config.reward,
        config.max_prompt_tokens,
        reward_seconds=config.rollout.reward_timeout_seconds,
    )
    sets = load_sets(config, asking)
    say_trained_on(prompts, sets)
    plan_memory(config)
    asked, most = config.scheduler.tickets_per_step, max(1000, 10 * len(prompts))
    if asked > most:
        raise UserError(
            f"scheduler.tickets_per_step must be at most {most} for the {len(prompts)} prompts of "
            f"task, ten of each prompt in a step; lower it or add prompts, got {asked}"
        )
    check_tokens(config.model.path, [prompts, *sets.values()])
    if config.scheduler.prompt_features:
        check_features(prompts)
    try_rewards(config, prompts[0], sets)
    if any(name.startswith("scheduler.") for name in foreign_code(composed)):
        rehearse(config, prompts)
    return Prepared(config, tokenizer, prompts, sets)


def say_trained_on(prompts: Sequence[Prompt], sets: Sets) -> None:
    """Print a line for each set with prompts of the training: what it measures is also memory."""
    for name, measured in sets.items():
        asked = {prompt.token_ids.tobytes() for prompt in measured}
        # Those of the training may be too many to keep twice.
        shared = {each for prompt in prompts if (each := prompt.token_ids.tobytes()) in asked}
        if shared:
            key = name if name == HELD_OUT else f"evaluation.sets.{name}"
            print(f"{key}: {len(shared)} of its {len(asked)} prompts are trained on too")


def prepare(composed: DictConfig) -> Inputs:
    """Check everything of a training that can be checked without a cluster; make the run folder.

    Raises:
        UserError: With one sentence on what to change.
        NothingToDoError: If it goes on, and is at its end.
    """
    check_stays(composed)
    read = read_inputs(composed)
    config = read.config
    resolved = recorded(composed)
    described, run_dir, saved = about(resolved, read.prompts), Path(config.run_dir), None
    changed: Mapping[str, tuple[Any, Any]] = {}
    if config.resume is not None:
        saved = find_checkpoint(config.resume, run_dir)
    if saved is not None:
        changed = changes(saved, described)
        check_goes_on(config, saved, changed)
    prepare_run_dir(run_dir, composed, "train", again=config.resume is not None)
    if config.resume is not None:
        remove_unfinished(run_dir)
        if saved is None:
            # What a run left that ended before its first checkpoint.
            cut_back(run_dir, -1)
    return Inputs(
        config, resolved, read.tokenizer, read.prompts, read.sets, described, saved, changed
    )


def prepare_evaluation(composed: DictConfig) -> tuple[EvaluateConfig, Sets]:
    """Check everything of an evaluation likewise, and return its configuration and prompts.

    Raises:
        UserError: With one sentence on what to change.
    """
    config: EvaluateConfig = _build(composed)
    check_model(config.model.path, config.rollout.engine)
    sets = load_sets(
        config,
        check_environment(
            config, load_tokenizer(config.model.path, config.model.chat_template_kwargs)
        ),
    )
    check_tokens(config.model.path, sets.values())
    try_rewards(config, sets[HELD_OUT][0], sets)
    prepare_run_dir(Path(config.run_dir), composed, "evaluate")
    return config, sets


def _build(composed: DictConfig) -> Any:
    composed.model.path = resolve_model(composed.model.path)
    with refusing():
        # What is made absolute looks like a path whatever it was.
        require_path("run_dir", str(composed.run_dir))
    composed.run_dir = str(Path(composed.run_dir).resolve())
    config = build(composed)
    keep_paths(composed, config.model.path)
    check_context(config.model.path, config.model.max_model_len)
    return config


def check_features(prompts: Sequence[Prompt]) -> None:
    """Refuse prompts that predictors are told to read the features of, and that have none.

    Raises:
        UserError: With what to change.
    """
    with refusing():
        table = feature_table(prompts)
    if table is None:
        raise UserError(
            "scheduler.prompt_features needs a task that gives its prompts features which differ "
            "(Prompt.features); choose such a task or set it to false, got true"
        )


def check_environment(config: RunConfig | EvaluateConfig, tokenizer: Any) -> Any:
    """Return the tokenizer that prompts are made with: an environment may have to tell of tools.

    Raises:
        UserError: If the policy cannot play the environment, or this machine not run its tools.
    """
    with refusing((ValueError, SandboxError)):
        stopping = stopping_of(config.model.path, tokenizer, config.model.stop_strings)
        for_policy(config.environment, tokenizer, stopping)
        return prompt_tokenizer(config.environment, tokenizer)


def load_prompts(
    task: Any,
    tokenizer: Any,
    reward: Any,
    max_prompt_tokens: int,
    key: str = "task",
    reward_seconds: float = 10.0,
) -> list[Prompt]:
    """Make a task's prompts and check that the reward can use every answer.

    Args:
        task: The plug that makes the prompts.
        tokenizer: The policy's tokenizer.
        reward: The plug that will score the responses.
        max_prompt_tokens: Tokens of the longest prompt that leaves room for a response.
        key: Where the configuration holds the task, such as "task" or "held_out".
        reward_seconds: Limit of scoring one response; checking an answer may take `GENEROUS` times
            that long.

    Raises:
        UserError: With the place of the first prompt or answer that cannot be used, or the sandbox
            that a reward's check needs.
    """
    from jinja2 import TemplateError

    if max_prompt_tokens < 1:
        raise UserError(
            "rollout.max_tokens must leave room for a prompt in model.max_model_len, "
            f"got {max_prompt_tokens} tokens for prompts"
        )
    try:
        check = limited(check_of(reward), GENEROUS * reward_seconds)
        return list(task.prompts(tokenizer, max_tokens=max_prompt_tokens, check=check))
    except TemplateError as error:
        raise UserError(
            f"{key}: the chat template of model.path refuses a conversation; change the messages "
            f"or choose another model, got {str(error)!r}"
        ) from error
    except SandboxError as error:
        raise UserError(str(error)) from error
    except EmptySplitError as error:
        raise UserError(f"{key}: {error}") from error
    except (ValueError, OSError) as error:
        # Tasks call themselves "task", wherever the configuration holds them.
        reason = " ".join(str(error).split()).replace("task.", f"{key}.")
        raise UserError(reason if reason.startswith(key) else f"{key}: {reason}") from error


def load_sets(config: RunConfig | EvaluateConfig, tokenizer: Any) -> dict[str, list[Prompt]]:
    """Load every set and check its answers with the reward that will score it.

    Raises:
        UserError: With the key of the set and the first prompt or answer that cannot be used.
    """
    load = partial(
        load_prompts,
        tokenizer=tokenizer,
        max_prompt_tokens=config.max_prompt_tokens,
        reward_seconds=config.rollout.reward_timeout_seconds,
    )
    sets = {HELD_OUT: load(config.held_out, reward=config.reward, key=HELD_OUT)}
    for name, chosen in config.evaluation.sets.items():
        key = f"evaluation.sets.{name}.task"
        if chosen.reward is None:
            sets[name] = load(chosen.task, reward=config.reward, key=key)
        else:
            prompts = load(chosen.task, reward=chosen.reward, key=key)
            sets[name] = [address(prompt, name) for prompt in prompts]
    return sets
