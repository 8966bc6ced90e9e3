"""Functions and classes named by their path score as they were written to."""

import asyncio
import inspect
import os
import pickle
import re
import sys

import pytest

from cost.types import RewardStatus
from rollout.rewards import function
from rollout.rewards.function import FunctionReward, adapted, scores_responses
from rollout.rewards.pool import RewardPool
from rollout.rewards.types import Score

QUESTION, RESPONSE, ANSWER = "2+3", "it is 5", "5"


def ours(prompt_text, response_text, answer):
    return float((prompt_text, response_text, answer) == (QUESTION, RESPONSE, ANSWER))


def response_alone(response):
    return float(response == RESPONSE)


def reordered(*, answer, completion, prompt):
    return ours(prompt, completion, answer)


def with_default(response_text, answer, limit=3):
    return limit if response_alone(response_text) and answer == ANSWER else 0


def any_names(**named):
    return ours(**named)


def response_and_any(solution_str, **named):
    return ours(named["prompt_text"], solution_str, named["answer"]) and len(named) == 2


def verl(data_source, solution_str, ground_truth, extra_info=None):
    assert data_source == "" and extra_info is None
    return {"score": ours(QUESTION, solution_str, ground_truth), "acc": True, "pred": "5"}


def verl_required(data_source, solution_str, ground_truth, extra_info):
    return ours(QUESTION, solution_str, ground_truth) and extra_info == {}


def trl(completions, **kwargs):
    prompts, answers = kwargs["prompts"], kwargs["answer"]
    return [ours(*one) for one in zip(prompts, completions, answers, strict=True)]


def trl_column(prompts, completions, solution, **kwargs):
    return [ours(*one) for one in zip(prompts, completions, solution, strict=True)]


def of_settings(response, limit, *, strict):
    return limit if strict and response_alone(response) else 0


@pytest.mark.parametrize(
    "function",
    [
        ours, response_alone, reordered, any_names, response_and_any, verl_required, trl,
        trl_column,
    ],
    ids=lambda function: function.__name__,
)  # fmt: skip
def test_a_function_gets_what_it_declares_by_name(function):
    assert scores_responses(function) or function is any_names
    assert adapted(function, {})(QUESTION, RESPONSE, ANSWER) in (1.0, True)
    assert adapted(function, {})(QUESTION, "no", ANSWER) in (0.0, False)


def test_what_has_a_default_keeps_it_unless_it_is_set():
    assert adapted(with_default, {})(QUESTION, RESPONSE, ANSWER) == 3
    assert adapted(with_default, {"limit": 4})(QUESTION, RESPONSE, ANSWER) == 4
    both = {"limit": 2, "strict": True}
    assert adapted(of_settings, both)(QUESTION, RESPONSE, ANSWER) == 2
    assert adapted(verl, {})(QUESTION, RESPONSE, ANSWER)["score"] == 1.0


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda a, b, c: 1.0, "takes no response"),
        (lambda answer: 1.0, "takes no response"),
        (lambda: 1.0, "takes no response"),
        (lambda response, /: 1.0, "cannot be passed by name"),
    ],
)
def test_a_function_that_cannot_be_called_is_refused(function, told):
    with pytest.raises(ValueError, match=told):
        adapted(function, {})


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda response, a: 1.0, "a parameter a that nobody gives: it may take prompt_text, resp"),
        (lambda response, a: 1.0, "further columns of the task's rows, here level, tests$"),
        (lambda completions, token_ids: [1.0], "may take prompts, completions, answer"),
    ],
)
def test_a_parameter_that_no_column_gives_is_named(function, told):
    with pytest.raises(ValueError, match=told):
        adapted(function, {})(QUESTION, RESPONSE, ANSWER, {"tests": [], "level": 3})


ROW = {"level": 3, "extra_info": {"n": 1}, "answer": "not this", "tests": ["a"]}


def test_columns_of_the_row_are_arguments_by_name():
    def optional(response, level=1, hint="none"):
        return (level, hint)

    def needed(solution_str, extra_info, data_source, *, level, answer):
        return (extra_info, data_source, level, answer)

    def all_of_them(response, level, limit, **others):
        return (level, limit, sorted(others))

    def listed(completions, level, extra_info):
        return [(completions, level, extra_info)]

    texts = (QUESTION, RESPONSE, ANSWER)
    assert adapted(optional, {})(*texts, ROW) == (3, "none")
    assert adapted(optional, {"level": 5})(*texts, ROW) == (5, "none")
    assert adapted(optional, {})(*texts) == (1, "none")
    assert adapted(needed, {})(*texts, ROW) == ({"n": 1}, "", 3, ANSWER)
    names = ["answer", "extra_info", "prompt_text", "tests"]
    assert adapted(all_of_them, {"limit": 2})(*texts, ROW) == (3, 2, names)
    assert adapted(listed, {})(*texts, ROW) == ([RESPONSE], [3], [{"n": 1}])


def first_of(*names):
    """A function with these parameters that returns the first."""

    def returns(**named):
        return named[names[0]]

    kind = inspect.Parameter.KEYWORD_ONLY
    returns.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in names])
    return returns


@pytest.mark.parametrize("returned", [1.0, [1.0, 2.0], [], None])
def test_a_function_of_lists_returns_a_list_of_one(returned):
    def wrong(completions):
        return returned

    with pytest.raises(ValueError, match=r"must return a list with a number for each, got .* one"):
        adapted(wrong, {})(QUESTION, RESPONSE, ANSWER)


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes files into a folder of its own, and forgets what was imported from there."""
    before, path = set(sys.modules), [*sys.path]

    def make(name, text):
        file = tmp_path / "some where" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        return file

    yield make
    sys.path[:] = path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def scored(reward, *responses):
    async def main():
        pool = RewardPool(reward)
        try:
            return await pool.score([(QUESTION, response, ANSWER) for response in responses])
        finally:
            pool.close()

    return asyncio.run(main())


FILE = """
from dataclasses import dataclass

import beside_it

def function(response_text, answer):
    return beside_it.last(response_text) == answer

@dataclass
class Checked:
    ending: str

    def score(self, prompt_text, response_text, answer):
        if response_text == "where":
            return {}
        return {"reward": response_text.endswith(self.ending), "extracted": answer}

    def check(self, answer):
        if answer == "six":
            raise ValueError("six it is not")

class Nothing:
    pass

NUMBER = 5
"""


def test_columns_reach_the_reward_processes(write):
    text = "def f(response, level, tests=()):\n    return level + len(tests)\n"
    text += "class C:\n    def score(self, prompt_text, response_text, answer):\n        return 9\n"
    file = write("of_columns.py", text)
    item = (QUESTION, RESPONSE, ANSWER)

    async def main(reward):
        pool = RewardPool(reward)
        try:
            return await pool.score([(*item, {"level": 3, "tests": ["a", "b"]}), item])
        finally:
            pool.close()

    found = asyncio.run(main(FunctionReward(f"{file}:f")))
    assert found[0].score == Score(5.0)
    assert found[1].summary.startswith(f"{file}:1: the reward has a parameter level that nobody")
    found = asyncio.run(main(FunctionReward(f"{file}:C")))
    assert [each.score for each in found] == [Score(9.0)] * 2


@pytest.mark.parametrize("name", ["my_own_rewards.py", "json.py", "with-dash.py"])
def test_a_file_is_found_in_the_reward_processes_with_its_neighbours(write, name):
    write("beside_it.py", "def last(text):\n    return text.split()[-1]\n")
    file = write(name, FILE)
    reward = FunctionReward(f"{file}:function")
    assert pickle.loads(pickle.dumps(reward)) == reward
    found = scored(reward, RESPONSE, "it is 6", "")
    assert [s.score and s.score.reward for s in found] == [1.0, 0.0, None]
    assert found[2].status == RewardStatus.CRASHED
    assert (
        found[2].summary == f"{file.parent / 'beside_it.py'}:2: IndexError: list index out of range"
    )
    assert sys.modules["json"].__name__ == "json"


def test_a_class_is_made_once_with_its_settings_and_checks_answers(write):
    write("beside_it.py", "")
    file = write("of_class.py", FILE)
    reward = FunctionReward(f"{file}:Checked", {"ending": "5"})
    found = scored(reward, RESPONSE, "it is 6", "where")
    assert [s.score for s in found[:2]] == [Score(1.0, {}, "5"), Score(0.0, {}, "5")]
    line = FILE.splitlines().index("    def score(self, prompt_text, response_text, answer):") + 1
    assert found[2].summary.startswith(f"{file}:{line}: a reward must return a number")
    reward.check("5")
    FunctionReward(f"{file}:function").check("six")
    with pytest.raises(ValueError, match="six it is not"):
        reward.check("six")


def test_a_path_is_of_the_folder_in_which_it_was_written(write, monkeypatch):
    file = write("relative.py", "def f(response):\n    return 1\n")
    monkeypatch.chdir(file.parent)
    reward = FunctionReward("relative.py:f")
    monkeypatch.chdir(os.sep)
    assert reward.path == f"{file}:f"
    assert scored(reward, RESPONSE)[0].score == Score(1.0)


def test_a_module_is_found_by_its_name():
    module = FunctionReward("tests.rollout.rewards.test_function:ours")
    assert module.score(QUESTION, RESPONSE, ANSWER) == Score(1.0)


@pytest.mark.parametrize(
    ("path", "settings", "told"),
    [
        ("of_errors.py", {}, "must be FILE.py:NAME or MODULE:NAME"),
        ("nowhere.py:f", {}, "must name a file that can be read"),
        ("no_such_module_here:f", {}, "cannot be imported .ModuleNotFoundError"),
        ("of_errors.py:missing", {}, "must name a function or class that is there, not missing"),
        ("of_errors.py:NUMBER", {}, "must name a function or a class, not int"),
        ("of_errors.py:Nothing", {}, "names a class without the method score"),
        ("of_errors.py:Checked", {}, "names a class that cannot be made .*ending"),
        ("of_errors.py:function", {"other": 1}, "has no parameter other"),
        ("broken.py:f", {}, r"cannot be imported .SyntaxError.*broken\.py, line 1"),
        ("exits.py:f", {}, "cannot be imported .SystemExit: 3"),
    ],
)
def test_what_is_not_there_is_refused_with_the_key_and_the_path(
    write, monkeypatch, path, settings, told
):
    write("beside_it.py", "")
    write("of_errors.py", FILE)
    write("broken.py", "def f(:\n")
    monkeypatch.chdir(write("exits.py", "raise SystemExit(3)\n").parent)
    with pytest.raises(ValueError, match=rf"^reward\.path .*{told}.*, got '.*{path}'$") as refusal:
        FunctionReward(path, settings)
    assert "\n" not in str(refusal.value)


def test_the_documented_names_are_those_that_are_given():
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", function.__doc__, re.MULTILINE)[2:]
    named = {what: re.findall(r"`(\w+)`", names) for what, names in rows}
    roles = ("the user's message", "the response", "the task's answer")
    texts = (QUESTION, RESPONSE, ANSWER)
    for what, text in zip(roles, texts, strict=True):
        for name in named.pop(what):
            names = [name] if what == "the response" else [name, "response"]
            assert adapted(first_of(*names), {})(*texts) == text
    (given,) = filter(None, named.values())
    assert given == ["data_source", "extra_info"]
