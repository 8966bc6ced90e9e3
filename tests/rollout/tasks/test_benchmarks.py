"""Evaluation sets of public benchmarks read rows as these have them; the rows are invented."""

import json

import pytest

from launch.models.warmstart import build_tokenizer
from launch.program import build
from tests.composing import composed

ROWS = {
    "math_500": {
        "problem": "What is $1 + \\frac{1}{2}$?", "solution": "It is $\\boxed{\\frac{3}{2}}$.",
        "answer": "\\frac{3}{2}", "subject": "Prealgebra", "level": 1,
        "unique_id": "test/prealgebra/1.json",
    },
    "aime_2024": {
        "id": 60, "problem": "Find $1 + 1$.", "solution": "2", "answer": "002",
        "url": "https://example.org", "year": "2024",
    },
    "aime_2025": {"problem": "Find $1 + 1$.", "answer": "2", "id": "0"},
}  # fmt: skip
RIGHT = {"math_500": "\\boxed{1.5}", "aime_2024": "\\boxed{2}", "aime_2025": "Answer: 2"}


@pytest.mark.parametrize("name", ROWS)
def test_a_file_in_a_benchmarks_layout_is_measured(tmp_path, name):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROWS[name]) + "\n")
    config = build(
        composed(
            "train",
            "experiment=quickstart",
            f"+evaluation_set@evaluation.sets.mine={name}",
            f"evaluation.sets.mine.task.path={path}",
            "evaluation.sets.mine.task.hub_split=null",
        )
    )
    chosen = config.evaluation.sets["mine"]
    [prompt] = chosen.task.prompts(build_tokenizer(), check=chosen.reward.check)
    assert prompt.text.startswith(ROWS[name]["problem"] + "\n")
    assert prompt.text.endswith("within \\boxed{}.")
    assert chosen.reward.score(prompt.text, RIGHT[name], prompt.answer).reward == 1.0
    assert chosen.reward.score(prompt.text, "\\boxed{7}", prompt.answer).reward == 0.0
