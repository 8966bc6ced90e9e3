import numpy as np
import pytest

from cost.prompts import by_occurrence, prompt_pool, visit_means


def test_sources_are_coded_by_first_appearance():
    pool = prompt_pool(np.array([3, 4, 5]), ["b", "a", "b"], 10)
    assert pool.source_names == ("b", "a")
    assert pool.source_codes.tolist() == [0, 1, 0]
    assert pool.num_prompts == 3


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


def test_features_take_16_bits_each():
    pool = prompt_pool(np.array([3, 4]), ["a", "a"], 10, features=np.array([[0.5, -1], [2, 3]]))
    assert pool.features.dtype == np.float16 and pool.features.tolist() == [[0.5, -1], [2, 3]]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((1, 2)), r"up to 64 numbers for each of the 2 prompts, got shape \(1, 2\)"),
        (np.zeros((2, 65)), r"got shape \(2, 65\)"),
        (np.zeros(2), r"got shape \(2,\)"),
        (np.array([[1.0], [1e6]]), "must be finite in 16 bits; scale .* got 1 that are not"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_features_that_are_no_table_are_refused(features, message):
    with pytest.raises(ValueError, match=message):
        prompt_pool(np.array([3, 4]), ["a", "a"], 10, features=features)


def test_visit_means_count_what_they_are_told(make_visit):
    visits = [make_visit(0, [4, 6]), make_visit(1, [9]), make_visit(0, [1, 2, 6])]
    values = np.array([4, 6, 9, 1, 2, 6])
    counts, means = visit_means(visits, values)
    assert counts.tolist() == [2, 1, 3] and means.tolist() == [5, 9, 3]
    counted = np.array([False, True, False, True, True, False])
    counts, means = visit_means(visits, np.where(counted, values, np.nan), counted)
    assert counts.tolist() == [1, 0, 2] and means.tolist() == [6, 0, 1.5]


def test_visits_are_split_into_the_first_of_each_prompt_the_second_and_so_on():
    parts = by_occurrence(np.array([4, 7, 4, 4, 7, 1]))
    assert [part.tolist() for part in parts] == [[5, 0, 1], [2, 4], [3]]
    assert by_occurrence(np.zeros(0, dtype=np.int64)) == []
