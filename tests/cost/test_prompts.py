import numpy as np
import pytest

from cost.prompts import prompt_pool


def test_sources_are_coded_by_first_appearance():
    pool = prompt_pool(np.array([3, 4, 5]), ["b", "a", "b"], 10)
    assert pool.source_names == ("b", "a")
    assert pool.source_codes.tolist() == [0, 1, 0]
    larger = pool.extended(np.array([6, 7]), ["c", "a"])
    assert larger.source_codes.tolist() == [0, 1, 0, 2, 1]
    assert larger.num_prompts == 5 and pool.num_prompts == 3


@pytest.mark.parametrize(
    ("tokens", "sources", "limit", "message"),
    [
        ([], [], 10, "prompt_tokens must hold at least one prompt, got 0"),
        ([0], ["a"], 10, "prompt_tokens must be positive, got 0"),
        ([1, 2], ["a"], 10, "prompt_tokens must hold one number for each"),
        ([1], ["a"], 0, "max_tokens must be positive, got 0"),
    ],
)
def test_refuses(tokens, sources, limit, message):
    with pytest.raises(ValueError, match=message):
        prompt_pool(np.array(tokens, dtype=int), sources, limit)
