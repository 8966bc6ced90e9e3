import random
import re
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

import rollout.tasks.chain
from rollout.rewards.chain import ChainReward
from rollout.tasks.chain import HELD_OUT_ONE_IN, Chain, ChainTask, Teacher, apply_step, draw_chain
from rollout.tasks.prompts import is_held_out

MODEL = Path(rollout.tasks.chain.__file__).parent / "chain_model"
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
