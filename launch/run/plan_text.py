"""What a run says of itself before it starts."""

import unicodedata
from collections.abc import Sequence

from conf.schema import RunConfig
from launch.run.inputs import Inputs
from launch.run.memory_plan import plan_memory
from rollout.types import Prompt

MOST_DECODED = 20_000
"""Training prompts that are decoded to be compared with measured ones: a second or two."""


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
    again = []
    if config.learner.num_epochs > 1:
        again.append(f"each batch {config.learner.num_epochs} times")
    if config.scheduler.reuse is not None:
        age = config.scheduler.reuse.max_age
        again.append(f"up to {age} earlier batches" if age else "each batch once more")
    if again:
        text += (
            f"; also trained on {' and '.join(again)}, which is biased where the objective clips "
            "the ratio"
        )
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
    measured = [prompt for prompts in inputs.sets.values() for prompt in prompts]
    asked = {prompt.token_ids.tobytes() for prompt in measured}
    known = {ids for prompt in inputs.prompts if (ids := prompt.token_ids.tobytes()) in asked}
    others = [prompt for prompt in measured if prompt.token_ids.tobytes() not in known]
    spelled, num_alike = _spelled_otherwise(inputs, others)
    known |= spelled
    sets = []
    for name, prompts in inputs.sets.items():
        count = sum(prompt.token_ids.tobytes() in known for prompt in prompts)
        sets.append(f"{len(prompts)} {name}" + (f" ({count} also in training)" if count else ""))
    text = ", ".join(sets)
    if num_alike > MOST_DECODED:
        text += (
            f"; only {MOST_DECODED:,} of the {num_alike:,} training prompts that end like one of "
            "these were compared in full"
        )
    return text


def _spelled_otherwise(inputs: Inputs, prompts: Sequence[Prompt]) -> tuple[set[bytes], int]:
    """Find prompts that are trained on but for case, white space and Unicode's forms.

    Whole conversations are compared. Their last messages, which need no decoding, say which.

    Returns:
        The token ids of those found, and the number of training prompts with the last message of
        one of `prompts`, of which the first `MOST_DECODED` are compared.
    """
    texts = {_plain(prompt.text) for prompt in prompts}
    alike = [prompt for prompt in inputs.prompts if _plain(prompt.text) in texts] if texts else []
    compared = alike[:MOST_DECODED]
    last = {_plain(prompt.text) for prompt in compared}
    whole = {_plain(inputs.tokenizer.decode(prompt.token_ids)) for prompt in compared}
    found = {
        prompt.token_ids.tobytes()
        for prompt in prompts
        if _plain(prompt.text) in last
        and _plain(inputs.tokenizer.decode(prompt.token_ids)) in whole
    }
    return found, len(alike)


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
