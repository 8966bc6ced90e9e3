"""What was answered in an evaluation, a line per response."""

import asyncio
import json
from dataclasses import replace

import numpy as np
import pytest
from ray.exceptions import RayError

from cost.types import PlayEnd, RewardStatus, Ticket
from launch.record.responses import Responses
from rollout.rewards.by_set import address
from rollout.stopping import Stopping
from rollout.types import Group, Prompt, Trajectory, Turn, VersionSpan

PLACE = {"set": "mine", "index": 3, "greedy": False}


class Letters:
    """A tokenizer of letters."""

    def decode(self, ids, **_):
        return "".join(map(chr, ids))


def trajectory(text, **fields):
    ids = np.array([ord(letter) for letter in text], dtype=np.int32)
    return Trajectory(
        ids, np.ones(len(ids), bool), np.zeros(len(ids), np.float32),
        (VersionSpan(0, len(ids), 0),), **{"truncated": False, "prefill_tokens": 3, **fields},
    )  # fmt: skip


def group(*trajectories, answer="5", rewards=(1.0,), status=(RewardStatus.OK,), says=("5",)):
    prompt = Prompt(0, np.arange(3, dtype=np.int32), answer, "mine", "2+3")
    return Group(
        Ticket(7, 0, 1, 1.0, 1.0, 8), prompt, trajectories, np.array(rewards), {},
        np.array(status), says, 0.1,
    )  # fmt: skip


async def ready(what):
    if isinstance(what, Exception):
        raise what
    return what


def written(path, *groups):
    async def write():
        file = Responses(path, Letters(), Stopping(()))
        await asyncio.gather(
            *(file.add(PLACE, one and asyncio.ensure_future(ready(one))) for one in groups)
        )
        file.close()

    asyncio.run(write())
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else None


def test_a_line_has_the_place_the_texts_and_what_was_made_of_them(tmp_path):
    failed = trajectory("wh\N{SNOWMAN}", ending=PlayEnd.FAILURE, failure="no route")
    both = group(
        trajectory("it is 5", truncated=True),
        failed,
        rewards=(1.0, np.nan),
        status=(RewardStatus.OK, RewardStatus.CRASHED),
        says=("5", ""),
    )
    first, second = written(tmp_path / "new" / "responses.jsonl", both)
    assert first == PLACE | {
        "prompt": "2+3", "response": "it is 5", "reward": 1.0, "answer": "5", "expected": "5",
        "scoring": "ok", "length_tokens": 7, "truncated": True, "end": first["end"],
        "failure": "", "turns": [],
    }  # fmt: skip
    assert (second["reward"], second["scoring"], second["failure"]) == (None, "crashed", "no route")
    assert second["response"] == "wh\N{SNOWMAN}" and second["end"] == "failure"


def test_several_turns_are_told_apart_and_a_set_is_not_part_of_an_answer(tmp_path):
    turns = (Turn(0, 3, 3), Turn(5, 7, 2))
    played = group(trajectory("6*7=42ok", turns=turns))
    played = replace(played, prompt=address(played.prompt, "mine"))
    (row,) = written(tmp_path / "responses.jsonl", played)
    assert [turn["text"] for turn in row["turns"]] == ["6*7", "=4", "2o"]
    assert [turn["trained"] for turn in row["turns"]] == [True, False, True]
    assert row["expected"] == "5"


def test_prompts_that_come_to_nothing_have_no_line_and_a_new_file_replaces_the_old(tmp_path):
    path = tmp_path / "responses.jsonl"
    assert len(written(path, *[group(trajectory(f"{i}")) for i in range(20)], None)) == 20
    assert len(written(path, group(trajectory("again")))) == 1
    assert written(tmp_path / "none.jsonl", None) is None


@pytest.mark.parametrize("lost", [True, False])
def test_a_failure_is_told_of_once_and_ends_the_file_alone(tmp_path, capsys, lost):
    path, one = tmp_path / "responses.jsonl", group(trajectory("5"))
    if not lost:
        path.mkdir()
    written_groups = [RayError("the node is gone\nsince then")] * 2 if lost else [one] * 2
    try:
        written(path, *written_groups)
    except IsADirectoryError:
        assert not lost
    told = capsys.readouterr()
    assert (told.out + told.err).count("responses.jsonl could not be written") == 1
