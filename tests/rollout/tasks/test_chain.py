import hashlib
import random
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from transformers import AutoTokenizer

import rollout.tasks.chain
from rollout.rewards.chain import ChainReward
from rollout.tasks.chain import (
    HARD_STEPS,
    HELD_OUT_ONE_IN,
    Chain,
    ChainTask,
    Teacher,
    apply_step,
    draw_chain,
    draw_easy_chain,
    draw_hard_chain,
)
from rollout.tasks.prompts import is_held_out
from tests.places import CONF

MODEL = Path(rollout.tasks.chain.__file__).parent / "chain_model"
CONF = CONF / "task"
EXACT = Teacher(plus_error=0.0, minus_error=0.0, times_error=0.0)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL)


def test_the_example_of_the_module_is_what_the_code_writes():
    chain = Chain(start=3, steps=(("+", 4), ("-", 2), ("*", 3)))
    assert chain.question == "a3 b+4 c-2 d*3"
    assert chain.answer == "5"
    verbose = Teacher(verbose_share=1.0, plus_error=0.0, minus_error=0.0, times_error=0.0)
    terse = Teacher(verbose_share=0.0, plus_error=0.0, minus_error=0.0, times_error=0.0)
    assert verbose.solve(chain, random.Random(0)) == "b+4=7 c-2=5 d*3=5 #### 5"
    assert terse.solve(chain, random.Random(0)) == "b7 c5 d5 #### 5"


def test_a_seed_names_a_set(tokenizer):
    first = ChainTask(num_prompts=40).prompts(tokenizer)
    again = ChainTask(num_prompts=40).prompts(tokenizer)
    other = ChainTask(num_prompts=40, seed=1).prompts(tokenizer)
    assert [p.text for p in first] == [p.text for p in again]
    assert {p.text for p in first} != {p.text for p in other}
    assert [p.index for p in first] == list(range(40))
    assert {p.source for p in first} == {"chain"}


def test_the_first_training_question_does_not_change(tokenizer):
    # Published figures belong to these very questions.
    prompts = ChainTask(num_prompts=1).prompts(tokenizer)
    assert (prompts[0].text, prompts[0].answer) == ("a3 b-3 c-2 d-9 e-8 f-3", "8")


@pytest.mark.parametrize(
    ("settings", "digest"),
    [
        ({"num_prompts": 192}, "49efd54b9c1a5120"),
        ({"split": "held_out", "num_prompts": 200}, "5aef18d0be24d768"),
        ({"seed": 3, "max_steps": 6, "num_prompts": 100}, "60ae7eafe51d49fd"),
    ],
)
def test_without_shares_the_questions_do_not_change(tokenizer, settings, digest):
    prompts = ChainTask(**settings).prompts(tokenizer)
    lines = "\n".join(f"{p.text}={p.answer}@chain {p.index}" for p in prompts)
    assert hashlib.sha256(lines.encode()).hexdigest()[:16] == digest


def test_two_digits_at_the_start_make_a_chain_modulo_100():
    chain = Chain(start=37, steps=(("*", 4), ("-", 9), ("+", 8)))
    assert chain.question == "a37 b*4 c-9 d+8"
    assert chain.answer == "47"
    assert Chain(start=37, steps=(("*", 9), ("*", 3), ("+", 2))).answer == "1"
    verbose = Teacher(verbose_share=1.0, plus_error=0.0, minus_error=0.0, times_error=0.0)
    assert verbose.solve(chain, random.Random(0)) == "b*4=48 c-9=39 d+8=47 #### 47"


def part(text):
    """Which end a question belongs to, by its text alone."""
    start, *steps = text.split()
    if len(start) == 3:
        return "hard"
    return "easy" if len(steps) <= 3 and all(step[1] == "+" for step in steps) else "rest"


@pytest.mark.parametrize("split", ["train", "held_out"])
@pytest.mark.parametrize(
    ("easy", "hard"), [(0.15, 0.2), (0.0, 0.5), (0.5, 0.0), (0.3, 0.7), (0.7, 0.3), (0.0, 1.0)]
)
def test_every_prefix_of_a_mix_has_its_shares(tokenizer, split, easy, hard):
    task = ChainTask(split=split, num_prompts=120, easy_share=easy, hard_share=hard)
    parts = [part(p.text) for p in task.prompts(tokenizer)]
    for n in range(1, 121):
        # draw_chain makes a short sum about once in 50 questions, so "easy" may hold a few more.
        assert -3 <= parts[:n].count("easy") - easy * n <= 3 + 0.1 * (1 - easy - hard) * n
        assert abs(parts[:n].count("hard") - hard * n) <= 3


def test_the_shipped_mix_can_be_drawn_and_its_splits_follow_it_alike(tokenizer):
    settings = {}
    for name in ("chain_two_ends", "chain_two_ends_held_out"):
        settings[name] = yaml.safe_load((CONF / f"{name}.yaml").read_text())
        assert settings[name].pop("_target_") == "rollout.tasks.chain.ChainTask"
    train = ChainTask(**settings["chain_two_ends"])
    held_out = ChainTask(**settings["chain_two_ends_held_out"])
    assert (train.split, held_out.split) == ("train", "held_out")
    assert (train.easy_share, train.hard_share) == (0.15, 0.2)
    assert (held_out.easy_share, held_out.hard_share) == (0.15, 0.2)
    assert train.max_steps == held_out.max_steps
    trained = [p.text for p in train.prompts(tokenizer)]
    held = [p.text for p in held_out.prompts(tokenizer)]
    assert trained == [p.text for p in train.prompts(tokenizer)]
    assert len(set(trained)) == train.num_prompts
    assert len(set(held)) == held_out.num_prompts
    assert not any(is_held_out(text, HELD_OUT_ONE_IN) for text in trained)
    assert all(is_held_out(text, HELD_OUT_ONE_IN) for text in held)
    other = ChainTask(**settings["chain_two_ends"] | {"seed": 1}).prompts(tokenizer)
    assert trained != [p.text for p in other]


def test_easy_chains_are_short_sums_and_hard_ones_long_with_two_digits():
    rng = random.Random(0)
    for _ in range(300):
        easy, hard = draw_easy_chain(rng), draw_hard_chain(rng)
        assert len(easy.steps) in (2, 3)
        assert {op for op, _ in easy.steps} == {"+"}
        assert easy.modulus == 10
        assert len(hard.steps) >= HARD_STEPS[0]
        assert hard.modulus == 100
        assert 10 <= int(hard.answer) <= 99
        for chain in (easy, hard):
            solution = EXACT.solve(chain, rng)
            assert ChainReward().score(chain.question, solution, chain.answer).reward == 1.0


def test_max_steps_bounds_both_ends(tokenizer):
    task = ChainTask(num_prompts=60, max_steps=16, easy_share=0.4, hard_share=0.4)
    assert max(len(p.text.split()) - 1 for p in task.prompts(tokenizer)) == 16


def test_a_mix_larger_than_its_questions_is_refused(tokenizer):
    task = ChainTask(split="held_out", num_prompts=400, easy_share=1.0)
    with pytest.raises(ValueError, match=r"task.num_prompts must not exceed .* got 400"):
        task.prompts(tokenizer)


def test_splits_share_no_question_and_repeat_none(tokenizer):
    train = [p.text for p in ChainTask(num_prompts=300).prompts(tokenizer)]
    held_out = [p.text for p in ChainTask(split="held_out", num_prompts=60).prompts(tokenizer)]
    assert len(set(train)) == 300
    assert len(set(held_out)) == 60
    assert not any(is_held_out(text, HELD_OUT_ONE_IN) for text in train)
    assert all(is_held_out(text, HELD_OUT_ONE_IN) for text in held_out)


def test_max_steps_bounds_the_chains(tokenizer):
    prompts = ChainTask(num_prompts=50, max_steps=4).prompts(tokenizer)
    assert max(len(p.text.split()) - 1 for p in prompts) == 4


def test_prompts_carry_the_chat_template(tokenizer):
    prompt = ChainTask(num_prompts=1).prompts(tokenizer)[0]
    assert prompt.token_ids.dtype == np.int32
    text = tokenizer.decode(prompt.token_ids)
    assert text == f"<|user|>{prompt.text}<|end|><|assistant|>"
    assert len(prompt.token_ids) == len(prompt.text) + 3


def test_an_exact_teacher_always_earns_the_reward():
    rng = random.Random(0)
    for _ in range(200):
        chain = draw_chain(rng)
        solution = EXACT.solve(chain, rng)
        assert ChainReward().score(chain.question, solution, chain.answer).reward == 1.0


def test_the_teacher_errs_as_often_as_it_should():
    rng = random.Random(0)
    teacher = Teacher(verbose_share=1.0)
    steps = {"+": [0, 0], "-": [0, 0], "*": [0, 0]}
    for _ in range(3000):
        chain = draw_chain(rng)
        value = chain.start
        for word in teacher.solve(chain, rng).split(" ####")[0].split():
            _, op, operand, result = re.fullmatch(r"(\w)([-+*])(\d)=(\d)", word).groups()
            right = apply_step(value, op, int(operand))
            value = int(result)
            assert (value - right) % 10 in (0, 1, 9)
            steps[op][0] += value != right
            steps[op][1] += 1
    for op, rate in (("+", 0.02), ("-", 0.06), ("*", 0.18)):
        wrong, total = steps[op]
        assert abs(wrong / total - rate) < 4 * (rate * (1 - rate) / total) ** 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "test"}, "task.split .* got 'test'"),
        ({"num_prompts": 0}, "task.num_prompts .* got 0"),
        ({"max_steps": 1}, "task.max_steps .* got 1"),
        ({"max_steps": 26}, "task.max_steps .* got 26"),
        ({"easy_share": -0.1}, "task.easy_share must lie .* got -0.1"),
        ({"hard_share": float("nan")}, "task.hard_share must lie .* got nan"),
        ({"easy_share": 0.7, "hard_share": 0.4}, "task.easy_share and .* got 0.7 and 0.4"),
        ({"hard_share": 0.1, "max_steps": 13}, "task.max_steps must be at least 14 .* got 13"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ChainTask(**settings)


def test_a_teacher_must_hold_probabilities():
    with pytest.raises(ValueError, match=r"teacher.times_error must lie in \[0, 1\], got 1.5"):
        Teacher(times_error=1.5)


@pytest.mark.parametrize("text", ["a3 b+4 #### 5", "snow \N{SNOWMAN}", "  two  spaces\n\ttab"])
def test_the_tokenizer_gives_back_every_text(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert len(ids) == len(text.encode())
    assert tokenizer.decode(ids) == text


def test_special_tokens_have_the_ids_that_the_model_expects(tokenizer):
    names = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    assert tokenizer.convert_tokens_to_ids(names) == [0, 1, 2, 3, 4]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)
    assert len(tokenizer) == 261


def test_the_shipped_model_loads_and_fits_its_tokenizer(tokenizer):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(MODEL)
    config = model.config
    assert model.dtype == torch.float32
    assert sum(p.numel() for p in model.parameters()) == 624_128
    assert config.vocab_size == len(tokenizer)
    assert config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert config.bos_token_id is None


def test_the_shipped_model_is_able_but_not_perfect(tokenizer):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(MODEL)
    prompts = ChainTask(split="held_out", num_prompts=12, max_steps=6).prompts(tokenizer)
    right = 0.0
    for prompt in prompts:
        ids = torch.tensor(prompt.token_ids.astype(np.int64))[None]
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=60
        )
        text = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        right += ChainReward().score(prompt.text, text, prompt.answer).reward
    assert right >= 6
