import numpy as np
import pytest

from cost.prices import TokenPrice


def test_counts_every_token_the_machine_processes():
    prompt_tokens, lengths = np.array([10, 20]), np.array([5, 0])
    assert TokenPrice().price(prompt_tokens, lengths).tolist() == [15, 20]
    shared = TokenPrice(overhead_tokens=3.0, prompt_share=0.5)
    assert shared.price(prompt_tokens, lengths).tolist() == [13, 13]


def test_an_empty_response_is_not_free():
    assert TokenPrice(prompt_share=0.0).price(np.array([9]), np.array([0])).tolist() == [1]


@pytest.mark.parametrize("changes", [{"overhead_tokens": -1.0}, {"prompt_share": 1.5}])
def test_refuses(changes):
    with pytest.raises(ValueError, match=rf"price\.{next(iter(changes))} must .* got"):
        TokenPrice(**changes)
