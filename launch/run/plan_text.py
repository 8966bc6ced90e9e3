"""What a run says of itself before it starts."""

import unicodedata
from collections.abc import Sequence

from conf.schema import RunConfig
from launch.run.inputs import Inputs
from launch.run.memory_plan import plan_memory
from rollout.types import Prompt


def objective_text(config: RunConfig) -> str:
    """Say in words what the run optimises."""
    control = config.scheduler.entropy_control
    if config.scheduler.objective_preserving:
        text = "uniform over prompts: weights correct for draws and thinning"
    elif control is not None:
        text = (
            "reweighted: exploring tickets at other temperatures add a term that holds the entropy "
            f"near {control.target:g} nats"
        )
    else:
        text = (
            "reweighted: the draws, thinning, clipping or aggregation chosen change the uniform "
            "objective"
        )
    if config.rollout.branching is not None:
        text += "; reweighted by rollout.branching, as plays branch where the policy was unsure"
    if config.scheduler.reuse is not None:
        age = config.scheduler.reuse.max_age
        again = f"up to {age} earlier batches" if age else "each batch a second time"
        text += f"; also trained on {again}, which is biased where the objective clips the ratio"
    if config.learner.curvature.masks:
        text += "; biased by learner.curvature, whose mask depends on what was drawn"
    return text


def sizes_text(config: RunConfig) -> str:
    """Say how many tickets and responses a step has, and what may become of them."""
    scheduler = config.scheduler
    tickets = f"{scheduler.tickets_per_step} tickets"
    if scheduler.num_exploring:
        tickets = f"({tickets} + {scheduler.num_exploring} exploring)"
    tokens = config.responses_per_step * config.model.max_model_len
    least, most = scheduler.bounds
    later = (
        ""
        if least == most
        else f"; then {most.tickets} to {least.tickets} tickets "
        f"x {least.group_size} to {most.group_size} responses"
    )
    return (
        f"{tickets} x {scheduler.group_size} responses = {config.responses_per_step} responses, "
        f"at most {tokens:,} tokens{later}"
    )


def measured_text(inputs: Inputs) -> str:
    """Say how many prompts each set has, and how many of them are no measure of anything new."""
    trained = {prompt.token_ids.tobytes() for prompt in inputs.prompts}
    others = {
        name: [prompt for prompt in prompts if prompt.token_ids.tobytes() not in trained]
        for name, prompts in inputs.sets.items()
    }
    spelled = _spelled_otherwise(inputs, [p for prompts in others.values() for p in prompts])
    sets = []
    for name, prompts in inputs.sets.items():
        known = len(prompts) - len(others[name])
        known += sum(prompt.token_ids.tobytes() in spelled for prompt in others[name])
        sets.append(f"{len(prompts)} {name}" + (f" ({known} also in training)" if known else ""))
    return ", ".join(sets)


def _spelled_otherwise(inputs: Inputs, prompts: Sequence[Prompt]) -> set[bytes]:
    """Token ids of the prompts that are trained on but for case, white space and Unicode's forms.

    Whole conversations are compared. Their last messages, which need no decoding, say which.
    """
    texts = {_plain(prompt.text) for prompt in prompts}
    trained = [prompt for prompt in inputs.prompts if _plain(prompt.text) in texts]
    last = {_plain(prompt.text) for prompt in trained}
    whole = {_plain(inputs.tokenizer.decode(prompt.token_ids)) for prompt in trained}
    return {
        prompt.token_ids.tobytes()
        for prompt in prompts
        if _plain(prompt.text) in last
        and _plain(inputs.tokenizer.decode(prompt.token_ids)) in whole
    }


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def derived_plan(inputs: Inputs) -> dict[str, object]:
    """Return what follows from the configuration, a label and a text for each row to show."""
    config = inputs.config
    resources, learner = config.resources, config.learner
    return {
        "objective": objective_text(config),
        "prompts": f"{len(inputs.prompts)} for training; evaluated on {measured_text(inputs)}",
        "one step": sizes_text(config),
        "learning": f"{learner.num_epochs} pass(es) of {learner.num_minibatches} optimiser "
        f"step(s), at most {config.num_rows_at_most} rows of {learner.row_tokens} tokens per "
        "learner",
        "run": f"{config.loop.num_steps} steps, staleness at most {config.loop.max_staleness}",
        "placement": f"{resources.num_engines} engine(s) of {resources.tensor_parallel_size} "
        f"worker(s), {resources.num_learners} learner(s), ZeRO {learner.zero_stage}, "
        f"{config.model.dtype}",
        **plan_memory(config),
        "run folder": config.run_dir,
    }
