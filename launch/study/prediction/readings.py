"""What predictors may read of a prompt: tables of features, [N, F] float16 or None each."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from cost.prompts import Features
from cost.types import FloatArray
from launch.study.prediction.collection import Collected
from rollout.tasks.features import feature_table, standardised
from rollout.types import Prompt

NUM_COMPONENTS = 16
NUM_BUCKETS = 1024
LONGEST_NGRAM = 2


def tables(prompts: Sequence[Prompt], data: Collected) -> dict[str, Features | None]:
    """Return every choice by name; "length" is the prompt's length alone, which all have."""
    found: dict[str, Features | None] = {"length": None}
    offered = feature_table(prompts)
    if offered is not None:
        found["task"] = offered
    found["hidden states"] = components(data.states)
    found["first-token entropy"] = standardised(data.entropies[:, None])
    found["n-grams"] = components(hashed_ngrams([prompt.token_ids for prompt in prompts]))
    return {name: table for name, table in found.items() if table is not None or name == "length"}


def components(table: FloatArray) -> Features | None:
    """Project columns [N, C] on their first principal components, the first of variance 1."""
    centred = table - table.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    if not sizes[0] > 0:
        return None
    scaled: Features = (left * sizes / sizes[0])[:, :NUM_COMPONENTS] * np.sqrt(len(table))
    return scaled.astype(np.float16)


def hashed_ngrams(token_ids: Sequence[Any]) -> FloatArray:
    """Count tokens and pairs of tokens in buckets, with signs by hash: [N, buckets]."""
    table = np.zeros((len(token_ids), NUM_BUCKETS))
    for row, tokens in zip(table, token_ids, strict=True):
        for size in range(1, LONGEST_NGRAM + 1):
            for start in range(len(tokens) - size + 1):
                code = zlib.crc32(np.asarray(tokens[start : start + size], np.int64).tobytes())
                row[code % NUM_BUCKETS] += 1 - 2 * (code >> 31)
    return table
