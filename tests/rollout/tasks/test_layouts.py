"""Files in the layouts of well-known data sets work by naming the preset.

The rows are invented; names, nesting and ways of writing are the data sets' own.
"""

import json

import pytest

from launch.models.warmstart import build_tokenizer
from launch.program import build
from rollout.rewards.code import CodeReward
from rollout.rewards.code_tests import read_tests
from rollout.rewards.countdown import CountdownReward
from rollout.rewards.math_answer import MathReward
from tests.composing import composed

GSM8K = [
    {
        "question": f"Ann has {i} apples and buys 1,000 more. How many has she?",
        "answer": f"She has {i} + 1000 = <<{i}+1000={i + 1000}>>{i + 1000} apples.\n#### 1,{i:03}",
    }
    for i in range(4)
]
MATH = [
    {
        "problem": f"What is $\\frac{{{i}}}{{7}} + \\frac{{1}}{{7}}$?",
        "level": f"Level {i}",
        "type": "Prealgebra",
        "solution": f"Adding, we get $\\boxed{{\\frac{{{i + 1}}}{{7}}}}$.",
    }
    for i in range(1, 5)
]
DAPO = [
    {
        "data_source": "math_dapo",
        "prompt": [
            {
                "content": "Solve the following math problem step by step. The last line of your "
                "response should be of the form Answer: $Answer (without quotes) where $Answer is "
                f"the answer to the problem.\n\nWhat is {i} + 1?\n\nRemember to put your answer on "
                'its own line after "Answer:".',
                "role": "user",
            }
        ],
        "ability": "MATH",
        "reward_model": {"ground_truth": str(i + 1), "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": f"id-{i}"},
    }
    for i in [*range(4), 0]
]
COUNTDOWN = [{"target": 98 + i, "nums": [44, 19, 35 + i]} for i in range(4)]
BIG_MATH = [
    {
        "problem": f"Find $x$ if $x - {i} = 1$.",
        "answer": str(i + 1),
        "source": "orca_math",
        "domain": ["Mathematics -> Algebra"],
        "llama8b_solve_rate": i / 4,
    }
    for i in range(4)
]
MBPP = [
    {
        "task_id": 601 + i,
        "text": f"Write a function to add {i} to a number.",
        "code": f"def add_{i}(n):\r\n  return n + {i}",
        "test_list": [f"assert add_{i}({n}) == {n + i}" for n in range(3)],
        "test_setup_code": "",
        "challenge_test_list": [],
    }
    for i in range(4)
]
DEEPCODER = [
    {
        "problem": f"Read a number and print it plus {i}.",
        "solutions": [f"print(int(input()) + {i})"],
        "tests": json.dumps(
            [{"type": "stdin_stdout", "input": f"{n}\n", "output": f"{n + i}\n"} for n in (1, 2)]
        ),
    }
    for i in range(4)
]
CASES = {
    "gsm8k": (GSM8K, "1,000", "openai/gsm8k", "so #### 1000"),
    "math": (MATH, r"\frac{2}{7}", "Prealgebra", r"\boxed{2/7}"),
    "dapo_17k": (DAPO, "1", "math_dapo", "I add.\nAnswer: 1"),
    "countdown": (
        COUNTDOWN,
        '{"target": 98, "nums": [44, 19, 35]}',
        "rows",
        "<think>hm</think> <answer> 44 + 19 + 35 </answer>",
    ),
    "big_math": (BIG_MATH, "1", "orca_math", r"\boxed{1}"),
}


def made(name, *overrides, key="task"):
    chosen = [f"task={name}", f"task@held_out={name}_held_out", *overrides]
    return getattr(build(composed("train", "experiment=quickstart", *chosen)), key)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [*((name, "jsonl") for name in CASES), ("big_math", "json"), ("dapo_17k", "parquet")],
)
def test_a_file_works_by_naming_the_preset(tmp_path, name, suffix):
    rows, answer, source, right = CASES[name]
    path = tmp_path / f"rows.{suffix}"
    if suffix == "parquet":
        arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra hub)")
        pytest.importorskip("pyarrow.parquet").write_table(arrow.Table.from_pylist(rows), path)
    elif suffix == "json":
        path.write_text(json.dumps({"data": rows, "version": 1}))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = made(name, f"task.path={path}", "task.split=all")
    reward = CountdownReward() if name == "countdown" else MathReward()
    prompts = task.prompts(build_tokenizer(), check=reward.check)
    assert len(prompts) == 4
    assert prompts[0].answer == answer
    assert prompts[0].source == (path.stem if source in ("rows", "openai/gsm8k") else source)
    assert reward.score(prompts[0].text, right, answer).reward == 1.0
    assert reward.score(prompts[0].text, "I do not know", answer).reward == 0.0


@pytest.mark.parametrize(
    ("name", "rows", "count", "reference"),
    [
        ("mbpp", MBPP, 3, "def add_0(n):\r\n  return n + 0"),
        ("deepcoder", DEEPCODER, 2, "print(int(input()) + 0)"),
    ],
)
def test_a_file_of_programming_tasks_works_by_naming_the_preset(
    tmp_path, name, rows, count, reference
):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = made(name, f"task.path={path}", "task.split=all")
    prompts = task.prompts(build_tokenizer(), check=CodeReward(references="unchecked").check)
    assert len(prompts) == 4
    tests = read_tests(prompts[0].answer)
    assert (tests.count, tests.references) == (count, (reference,))
    assert prompts[0].text.endswith("\nAnswer with one block of Python code.")


def test_what_the_prompts_ask_is_in_them(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in COUNTDOWN))
    task = made("countdown", f"task.path={path}", "task.split=all")
    text = task.prompts(build_tokenizer())[0].text
    assert text.startswith("Using the numbers [44, 19, 35], create an equation that equals 98.")
    assert "<answer> (1 + 2) / 3 </answer>" in text
    path.write_text("".join(json.dumps(row) + "\n" for row in GSM8K))
    text = made("gsm8k", f"task.path={path}").prompts(build_tokenizer())[0].text
    assert text.endswith(
        "has she?\nPlease reason step by step, and put your final answer within \\boxed{}."
    )


def test_rows_of_other_levels_and_rates_can_be_left_out(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in MATH))
    task = made("math", f"task.path={path}", "+task.where.level=[Level 3,Level 4]")
    assert [p.columns["level"] for p in task.prompts(build_tokenizer())] == ["Level 3", "Level 4"]
    path.write_text("".join(json.dumps(row) + "\n" for row in BIG_MATH))
    wish = "+task.where.llama8b_solve_rate={min: 0.02, max: 0.6}"
    task = made("big_math", f"task.path={path}", wish, "task.split=all")
    assert [p.answer for p in task.prompts(build_tokenizer())] == ["2", "3"]


def test_a_training_file_is_not_taken_for_the_test_split(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(GSM8K[0]) + "\n")
    with pytest.raises(
        ValueError, match=r"task\.hub_split = test cannot be chosen from a lone file"
    ):
        made("gsm8k", f"task.path={path}", key="held_out").prompts(build_tokenizer())
    test = tmp_path / "test.jsonl"
    test.write_text(json.dumps(GSM8K[1]) + "\n")
    held_out = made("gsm8k", f"task.path={path}", f"held_out.path={test}", key="held_out")
    assert [prompt.answer for prompt in held_out.prompts(build_tokenizer())] == ["1,001"]
