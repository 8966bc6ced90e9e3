"""What the programs that ask an oracle share: jobs and answers as JSON, arrays as nested lists.

    python ask_<library>.py JOBS ANSWERS

JOBS is a list of objects; ANSWERS becomes a list of as many answers. The exit status is
`NOT_IMPORTABLE`, with a line on stderr, when the library cannot be imported. JSON writes float64 so
that it reads back as the same number.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

NOT_IMPORTABLE = 77


def tensor(values: Any) -> Tensor:
    """Return floats as float64 and integers as int64."""
    array = torch.tensor(values)
    return torch.tensor(values, dtype=torch.float64) if array.is_floating_point() else array


def serve(load: Callable[[], Callable[[dict[str, Any]], Any]]) -> None:
    """Answer all jobs; `load` imports the library and returns what answers one job."""
    jobs, answers = map(Path, sys.argv[1:])
    try:
        answer = load()
    except ImportError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(NOT_IMPORTABLE)
    answers.write_text(json.dumps([answer(job) for job in json.loads(jobs.read_text())]))


def loss_and_gradient(loss: Callable[[Tensor], Tensor], learner_logprobs: Any) -> dict[str, Any]:
    """Return the loss and its gradient with respect to the learner's log-probabilities."""
    logprobs = tensor(learner_logprobs).requires_grad_()
    value = loss(logprobs)
    (gradient,) = torch.autograd.grad(value, logprobs)
    return {"loss": value.item(), "gradient": gradient.tolist()}
