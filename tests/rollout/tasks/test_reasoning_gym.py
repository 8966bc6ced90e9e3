import pytest

from launch.models.warmstart import build_tokenizer
from rollout.rewards.reasoning_gym import FULL_MARKS, ReasoningGymReward
from rollout.tasks.reasoning_gym import DATASETS, ReasoningGymTask, open_dataset

ONE_DIGIT = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def texts(tokenizer, **settings):
    task = ReasoningGymTask(dataset="chain_sum", instruction="", config=ONE_DIGIT, **settings)
    return [p.text for p in task.prompts(tokenizer)]


def test_a_seed_names_a_set_without_repeats(tokenizer):
    first = texts(tokenizer, num_prompts=50)
    assert first == texts(tokenizer, num_prompts=50)
    assert first != texts(tokenizer, num_prompts=50, seed=1)
    assert len(set(first)) == 50


def test_splits_of_a_small_generator_share_no_question(tokenizer):
    # One-digit sums and differences of two terms: 200 questions at most.
    train = texts(tokenizer, num_prompts=120, seed=0)
    held_out = texts(tokenizer, num_prompts=12, seed=5, split="held_out")
    assert not set(train) & set(held_out)


def test_what_is_for_a_warm_start_is_in_no_other_split_of_its_kind(tokenizer):
    kinds = ("warm_start", "after_warm_start", "held_out", "train")
    taught, after, held_out, train = (
        set(texts(tokenizer, num_prompts=10, seed=seed, split=split, held_out_one_in=3))
        for seed, split in enumerate(kinds)
    )
    assert not taught & after and not (taught | after | train) & held_out
    assert set(texts(tokenizer, num_prompts=120, held_out_one_in=3)) & taught


def test_asking_for_more_than_there_is_is_refused(tokenizer):
    with pytest.raises(
        ValueError, match=r"task.num_prompts is more than chain_sum offers.*got 400"
    ):
        texts(tokenizer, num_prompts=400)


def test_the_instruction_follows_the_question(tokenizer):
    task = ReasoningGymTask(dataset="gcd", num_prompts=2, instruction="Be brief.")
    prompts = task.prompts(tokenizer, check=ReasoningGymReward("gcd").check)
    assert all(p.text.endswith(" Be brief.") for p in prompts)
    assert {p.source for p in prompts} == {"gcd"}


@pytest.mark.parametrize("dataset", sorted(DATASETS))
def test_every_offered_generator_scores_as_promised(dataset):
    reward = ReasoningGymReward(dataset)
    generator = open_dataset(dataset, seed=3, config={}, num_entries=5)
    for index in range(5):
        entry = generator[index]
        answer = entry["answer"].strip()
        reward.check(answer)
        right = reward.score(entry["question"], f"So <answer> {answer} </answer>", answer)
        assert right.reward == 1.0
        for wrong in ("definitely wrong", answer + "1", "-999983", ""):
            response = f"<answer>{wrong}</answer>"
            assert reward.score(entry["question"], response, answer).reward == 0.0
    assert FULL_MARKS > 0.9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset": "game_of_life_halting"}, "task.dataset must be one of .*game_of_life_halting"),
        (
            {"dataset": "gcd", "split": "all"},
            "task.split must be one of train, held_out, warm_start, after_warm_start, got",
        ),
        ({"dataset": "gcd", "num_prompts": 0}, "task.num_prompts must be at least 1, got 0"),
        ({"dataset": "gcd", "held_out_one_in": 1}, "task.held_out_one_in must be at least 2"),
        ({"dataset": "gcd", "long_prompts": "cut"}, "task.long_prompts must be refuse or skip"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ReasoningGymTask(**settings)


@pytest.mark.parametrize("config", [{"min_turms": 2}, {"min_terms": 5, "max_terms": 2}])
def test_settings_that_the_generator_refuses_are_named(tokenizer, config):
    with pytest.raises(ValueError, match=r"task.config does not fit chain_sum"):
        ReasoningGymTask(dataset="chain_sum", config=config).prompts(tokenizer)
