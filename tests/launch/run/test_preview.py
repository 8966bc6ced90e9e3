import json
from dataclasses import replace

import pytest

from conf.programs import register
from launch.cli.previewed import is_asked
from launch.program import compose_run
from launch.run.inputs import read_inputs
from launch.run.preview import preview


@pytest.fixture
def read(tmp_path):
    """Reads a quickstart on these rows, as `python -m launch.train` does."""

    def read(*rows):
        path = tmp_path / "mine.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        chosen = ["task=dataset", "task@held_out=dataset_held_out", f"task.path={path}"]
        chosen += ["task.split=all", "held_out.split=all", "task.preview=true"]
        register()
        config = compose_run(["experiment=quickstart", *chosen, f"run_dir={tmp_path}/run"])
        assert is_asked(config)
        return read_inputs(config)

    return read


def test_three_prompts_and_the_best_writing_of_an_answer_are_shown(read, tmp_path):
    text = preview(read(*({"prompt": f"a1 b+{i}", "answer": i + 1, "level": i} for i in range(7))))
    assert [line for line in text.splitlines() if line.startswith("prompt ")] == [
        f"prompt {i}: 9 tokens, source mine, columns answer, level" for i in (0, 2, 4)
    ]
    assert "  | <|user|>a1 b+2<|end|><|assistant|>\n  answer: 3" in text
    assert "reward: '#### 1' gets 1 (correct 1, format 1); 'I do not know.' gets 0" in text
    assert not (tmp_path / "run").exists()


def test_answers_that_the_reward_never_meets_are_told(read):
    read_in = read({"prompt": "a1 b+2", "answer": "3"})
    never = replace(read_in, prompts=[replace(read_in.prompts[0], answer="9" * 18 + " of 10")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("launch.run.preview.WRITINGS", ("it is {}",))
        assert "no writing of prompt 0's own answer gets more" in preview(never)


def test_what_the_reward_itself_holds_for_right_is_tried_too(read):
    read_in = read({"prompt": "a1 b+2", "answer": "3"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("launch.run.preview.WRITINGS", ("it is {}",))
        patch.setattr("launch.run.preview.example_of", lambda reward: "so #### {}".format)
        assert "reward: 'so #### 3' gets 1" in preview(read_in)
        patch.setattr("launch.run.preview.example_of", lambda reward: lambda answer: "")
        assert "no writing of prompt 0's own answer gets more" in preview(read_in)
