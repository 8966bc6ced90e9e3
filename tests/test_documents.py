"""What the documents show works, and what they link to is there."""

import asyncio
import re
import sys
from types import ModuleType

import numpy as np
import pytest
from hydra import compose, initialize_config_module

from conf.programs import register
from launch.program import build
from rollout.types import Completion, Prompt, VersionSpan
from tests.places import PROJECT

README = (PROJECT / "README.md").read_text(encoding="utf-8")


class LetterTokenizer:
    """One token a character, without a template's words."""

    chat_template = "..."
    bos_token_id = None

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        return messages[-1]["content"]

    def encode(self, text, add_special_tokens):
        return [ord(letter) for letter in text]


@pytest.fixture
def my_task(monkeypatch):
    """The module of the README's example."""
    module = ModuleType("my_task")
    monkeypatch.setitem(sys.modules, "my_task", module)
    exec(block("python"), module.__dict__)
    return module


def block(language):
    """The README's only code block in a language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return found


def test_task_and_reward_of_the_readme_fit_together(my_task):
    reward = my_task.LastDigit()
    splits = [
        my_task.Sums(split).prompts(LetterTokenizer(), max_tokens=256, check=reward.check)
        for split in ("train", "held_out")
    ]
    texts = [{prompt.text for prompt in prompts} for prompts in splits]
    assert len(texts[0]) == len(texts[1]) == 64
    assert not texts[0] & texts[1]
    prompt = splits[0][0]
    assert reward.score(prompt.text, f"b7 #### {prompt.answer} ", prompt.answer).reward == 1.0
    assert reward.score(prompt.text, "b7 ####", prompt.answer).reward == 0.0


def test_environment_of_the_readme_gives_longer_prompts_more_room(my_task):
    asked = []

    async def generate(token_ids, max_tokens):
        asked.append(max_tokens)
        return Completion(
            np.array([4], np.int32),
            np.array([-0.5], np.float32),
            "stop",
            (VersionSpan(0, 1, 0),),
            0,
        )

    for length in (3, 5, 100):
        prompt = Prompt(0, np.arange(length, dtype=np.int32), "5", "sums", "a3")
        asyncio.run(my_task.Proportional().play(generate, prompt, 16))
    assert asked == [6, 10, 16]


def test_recipe_of_the_readme_composes(my_task, tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "sums.yaml").write_text(block("yaml"), encoding="utf-8")
    register()
    with initialize_config_module("conf", version_base="1.3"):
        composed = compose(
            "train",
            overrides=[
                f"hydra.searchpath=[file://{tmp_path}]",
                "experiment=sums",
                "run_dir=runs/x",
            ],
        )
    run = build(composed)
    assert isinstance(run.task, my_task.Sums)
    assert run.held_out.split == "held_out"
    assert isinstance(run.reward, my_task.LastDigit)
    assert isinstance(run.environment, my_task.Proportional)


@pytest.mark.parametrize(
    "document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "launch/study/RESULTS.md"]
)
def test_links_lead_somewhere(document):
    text = (PROJECT / document).read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", text):
        path = (PROJECT / document).parent / target if target else PROJECT / document
        assert path.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles]
            assert anchor in anchors, anchor
