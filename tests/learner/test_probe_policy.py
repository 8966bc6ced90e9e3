"""Per-response gradients that add up, and sampling that is the model's."""

import numpy as np
import pytest
import torch

from learner.probe_policy import ProbePolicy, top_token_factors

PROMPT = np.array([5, 9, 200])


@pytest.fixture(scope="module")
def policy(model_paths):
    return ProbePolicy(str(model_paths[True]), temperature=0.7, stop_token_ids=[2, 17])


def test_gradients_of_responses_add_up_to_that_of_their_sum(policy):
    responses = [np.array([3, 7, 17]), np.array([250, 1])]
    total = policy.zeros()
    for response, advantage in zip(responses, (1.5, -0.5), strict=True):
        total += advantage * policy.gradient(PROMPT, response)
    model = policy._model
    loss = sum(
        advantage * policy._forward(PROMPT, response)[0].sum()
        for response, advantage in zip(responses, (1.5, -0.5), strict=True)
    )
    parameters = list(model.parameters())
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
    assert len(expected) == policy.num_parameters
    assert (total - expected).abs().max() < 1e-5 * expected.abs().max()


def test_token_weights_split_a_gradient(policy):
    response = np.array([3, 7, 17, 4])
    whole = policy.gradient(PROMPT, response)
    first = policy.gradient(PROMPT, response, [1, 1, 0, 0])
    rest = policy.gradient(PROMPT, response, [0, 0, 2, 2])
    assert (first + rest / 2 - whole).abs().max() < 1e-5 * whole.abs().max()


def test_the_norm_by_the_head_is_that_of_its_own_part_of_the_gradient(model_paths):
    untied = ProbePolicy(str(model_paths[False]), temperature=0.7, stop_token_ids=[2])
    response = np.array([3, 7, 17, 7])
    logprobs, _ = untied._forward(PROMPT, response)
    head = untied._model.get_output_embeddings().weight
    (gradient,) = torch.autograd.grad(logprobs.sum(), [head])
    assert untied.head_norm(PROMPT, response) == pytest.approx(float(gradient.norm()), rel=1e-5)


def test_scores_are_those_of_one_softmax(policy):
    response = np.array([3, 7, 17])
    scores = policy.token_scores(PROMPT, response)
    with torch.no_grad():
        ids = torch.tensor([[*PROMPT, *response]])
        logits = policy._model(ids).logits[0, 2:-1].double() / 0.7
    expected = logits.log_softmax(dim=-1)
    picked = expected[range(3), response]
    np.testing.assert_allclose(scores.logprobs, picked.numpy(), atol=1e-5)
    entropies = -(expected.exp() * expected).sum(dim=-1)
    np.testing.assert_allclose(scores.entropies, entropies.numpy(), atol=1e-4)


def test_sampling_is_the_softmax_of_each_prompt_in_a_batch_of_several_lengths(policy):
    """First tokens over many samples against the exact distribution: padding changes nothing."""
    prompts = [PROMPT, np.array([8]), np.array([1, 2, 3, 4, 5, 6])]
    sampled = policy.sample(prompts, num_samples=2000, max_tokens=1, seed=0)
    for prompt, group in zip(prompts, sampled, strict=True):
        counts = np.bincount([int(response[0]) for response in group], minlength=261)
        with torch.no_grad():
            logits = policy._model(torch.tensor(prompt[None])).logits[0, -1].double() / 0.7
        exact = logits.softmax(dim=-1).numpy()
        # Pearson's statistic has mean 260 and deviation 23.
        statistic = ((counts - 2000 * exact) ** 2 / (2000 * exact)).sum()
        assert statistic < 260 + 6 * 23


def test_responses_end_with_the_stop_token_and_repeat_with_the_seed(policy):
    first = policy.sample([PROMPT], num_samples=40, max_tokens=60, seed=1)
    again = policy.sample([PROMPT], num_samples=40, max_tokens=60, seed=1)
    other = policy.sample([PROMPT], num_samples=40, max_tokens=60, seed=2)
    assert [r.tolist() for r in first[0]] == [r.tolist() for r in again[0]]
    assert [r.tolist() for r in first[0]] != [r.tolist() for r in other[0]]
    for response in first[0]:
        assert not {2, 17} & set(response[:-1].tolist())
        assert response[-1] in (2, 17) or len(response) == 60


def test_top_token_factors_keep_the_total_weight():
    rng = np.random.default_rng(0)
    scores, weights = rng.random(50), rng.random(50)
    factors = top_token_factors(scores, weights, 0.3)
    assert (factors > 0).sum() == 15
    assert scores[factors > 0].min() > scores[factors == 0].max()
    assert (factors * weights).sum() == pytest.approx(weights.sum())
