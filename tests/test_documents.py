"""What the documents show works, and what they link to is there."""

import ast
import asyncio
import importlib.util
import json
import re
import shlex
import sys
import threading
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType

import numpy as np
import pytest

from conf.programs import register
from conf.reference import groups, keys_of, members_of, programs
from cost.draws.allocators.types import Allocator, Estimates
from launch.cli.previewed import KEY as PREVIEW
from launch.program import build, compose_run
from learner.objectives.cispo import Cispo
from rollout.rewards.returned import as_score
from rollout.rewards.types import Score
from rollout.tools.calls import find_calls
from rollout.tools.function import as_tool
from rollout.types import Completion, Prompt, VersionSpan
from tests.places import CONF, PROJECT

README = (PROJECT / "README.md").read_text(encoding="utf-8")

PAGES = [f"docs/{path.name}" for path in sorted((PROJECT / "docs").glob("*.md"))]
GUIDES = ["README.md", "CONTRIBUTING.md", *PAGES]


def made():
    """The module that makes pages of code."""
    spec = importlib.util.spec_from_file_location("docs_hooks", PROJECT / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FILE_ENDINGS = (".py", ".json", ".jsonl", ".npz", ".yaml")
MADE = ("reference.md", "plugs.md", "results.md", "changelog.md", "security.md")


class LetterTokenizer:
    """One token a character, without a template's words."""

    chat_template = "..."
    bos_token_id = None

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        return messages[-1]["content"]

    def encode(self, text, add_special_tokens):
        return [ord(letter) for letter in text]


def block(language):
    """The README's only code block in a language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return found


def test_task_reward_and_recipe_of_the_readme_fit_together(tmp_path, monkeypatch):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "sums.yaml").write_text(block("yaml"), encoding="utf-8")
    (tmp_path / "sums.py").write_text(block("python"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    register()
    run = build(compose_run([f"--config-dir={tmp_path}", "experiment=sums", "run_dir=runs/x"]))
    assert isinstance(run.objective, Cispo)
    train, held_out = (
        task.prompts(LetterTokenizer(), max_tokens=256) for task in (run.task, run.held_out)
    )
    texts = [{prompt.text for prompt in prompts} for prompts in (train, held_out)]
    assert not texts[0] & texts[1]
    assert len(texts[0] | texts[1]) == 200 and 10 <= len(held_out) <= 30
    assert len(train) >= run.scheduler.tickets_per_step
    prompt = train[0]
    assert run.reward.score(prompt.text, f"b7 #### {prompt.answer} ", prompt.answer).reward == 1.0
    assert run.reward.score(prompt.text, "b7 ####", prompt.answer).reward == 0.0


def test_environment_of_the_page_gives_longer_prompts_more_room(own):
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
        asyncio.run(own.Proportional().play(generate, prompt, 16))
    assert asked == [6, 10, 16]


@pytest.mark.parametrize(
    "document",
    ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "launch/study/RESULTS.md", *PAGES],
)
def test_links_lead_somewhere(document):
    text = (PROJECT / document).read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", text):
        path = (PROJECT / document).parent / target if target else PROJECT / document
        if document in PAGES and target in MADE:
            continue
        assert path.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles]
            assert anchor in anchors, anchor


def words(program):
    """What may stand left of = behind a program, as patterns; and what its keys begin with."""
    register()
    return {key.name.replace("NAME", "*") for key in keys_of(programs()[program])}


@cache
def every_key():
    """Keys of all programs, with the settings of plugs below the keys that they fill."""
    register()
    keys = {key for program in programs() for key in words(program)}
    places = {"reward": "reward", "tracker": "tracker", "profile": "profile"}
    for name in ("train", "evaluate"):
        for entry in re.findall(
            r"^  - (\w+)(?:@([\w.]+))?:", (CONF / f"{name}.yaml").read_text(), re.MULTILINE
        ):
            places.setdefault(entry[0], entry[1] or entry[0])
    for group, place in places.items():
        for member in members_of(group) if group in groups() else ():
            inner = member.name.split(".")[1:]
            keys |= {".".join([place, *inner, setting.name]) for setting in member.settings}
    return keys


def is_key(name):
    """Whether a dotted name is a key, stands above keys, or lies below one that holds anything."""
    if name == PREVIEW:
        return True
    for key in every_key():
        pattern = re.escape(key).replace(r"\*", r"[\w-]+")
        if re.fullmatch(pattern, name) or key.startswith(f"{name}."):
            return True
    open_ended = (
        "reward.settings",
        "reward.parts",
        "reward.weights",
        "learner.deepspeed",
        "resources.labels",
        "profile.",
        "arms.",
    )
    below = r"(evaluation\.sets|tracker)(\.[\w-]+)*(\.task\.\w+|\.reward)?|.*\._target_"
    return name.startswith(open_ended) or re.fullmatch(below, name) is not None


def commands(text):
    """Every `python -m launch.NAME ...` of a text, lines that go on taken together."""
    joined = text.replace("\\\n", " ")
    found = re.findall(r"python -m (launch\.\w+)([^\n`#>|]*)", joined)
    return [(name, shlex.split(rest.replace("...", ""))) for name, rest in found]


@pytest.mark.parametrize("document", GUIDES)
def test_every_command_and_key_exists(document):
    text = (PROJECT / document).read_text(encoding="utf-8")
    for program, arguments in commands(text):
        door = program.split(".")[1]
        if program == "launch.NAME":
            continue
        assert (PROJECT / "launch" / f"{door}.py").exists(), program
        # Below a class of one's own, and in a folder of one's own, names are one's own.
        own = [each.split("._target_")[0] for each in arguments if "._target_=" in each]
        own += ["experiment"] if any(each.startswith("--config-dir") for each in arguments) else []
        for argument in arguments:
            if not argument.lstrip("+").startswith(tuple(own)):
                assert_argument_exists(argument, document)
    heads = {key.split(".")[0] for key in every_key() if "." in key}
    if document.endswith("migration.md"):
        # Keys of other libraries, some of which have a section of the same name as ours.
        text = re.sub(r"^\|[^|]*", "", text, flags=re.MULTILINE)
    for name in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)(?:=[^`\s]*)?`", text):
        if name.split(".")[0] in heads and not name.endswith(FILE_ENDINGS):
            assert is_key(name), f"{document}: {name} is no key"


def assert_argument_exists(argument, document):
    name, equals, value = argument.lstrip("+~").partition("=")
    if not equals or name.startswith("-"):
        return
    group, at, place = name.partition("@")
    if (CONF / group).is_dir() and (at or "." not in group):
        known = (CONF / group / f"{value}.yaml").exists()
        assert known or not re.fullmatch(r"[a-z][a-z_0-9]*", value), f"{document}: {argument}"
        return
    assert is_key(place or name), f"{document}: {name} is no key"


def strings_of_the_code():
    texts = []
    for package in ("launch", "rollout", "learner", "cost", "conf"):
        for path in (PROJECT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
    return "\n".join(texts)


def test_symptoms_are_sentences_of_the_code():
    """What stands in a heading in quotes is printed by some part."""
    text = (PROJECT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    symptoms = re.findall(r"^### `(.*)`$", text, re.MULTILINE)
    assert len(symptoms) > 15
    said = strings_of_the_code()
    for symptom in symptoms:
        for part in filter(None, map(str.strip, symptom.split("..."))):
            assert part in said, f"nothing says {part!r}"


def test_marks_on_pages_become_tables_and_made_pages_are_there():
    hooks = made()
    assert set(hooks.made_pages()) == set(MADE)
    marks = [mark for page in PAGES for mark in re.findall(r"<!--.*?-->", text_of(page))]
    assert len(marks) >= 4
    for mark in marks:
        assert hooks.filled(mark).startswith("| ")
    settings = hooks.settings_page()
    assert all(f"## launch.{program}\n" in settings for program in programs())
    assert "`loop.max_staleness`" in settings
    assert "`['all']`" in settings, "code has no signs to be escaped"


def test_pictures_can_be_read_on_light_and_dark_pages():
    """As images they know the system's colours, not those that a page was switched to."""
    pictures = sorted((PROJECT / "docs/pictures").glob("*.svg"))
    assert len(pictures) >= 3
    for picture in pictures:
        text = picture.read_text(encoding="utf-8")
        width, height = re.findall(r'viewBox="0 0 (\d+) (\d+)"', text)[0]
        assert f'<rect class="ground" width="{width}" height="{height}"' in text
        assert "prefers-color-scheme:" not in text


def text_of(page):
    return (PROJECT / page).read_text(encoding="utf-8")


def test_allocator_of_the_page_is_unbiased(own):
    costs = np.array([1.0, 4.0, 20.0, 300.0])
    flat = np.ones(4)
    mine = own.Cheap(floor=0.1)
    estimates = Estimates(lengths=costs, costs=costs, pass_rates=flat / 2, utilities=flat)
    allocation = mine.allocate(estimates, None)
    probabilities = allocation.probabilities
    assert probabilities.sum() == pytest.approx(1) and (probabilities >= 0.1 / 4).all()
    assert (np.diff(probabilities) < 0).all()
    values = np.array([3.0, -1.0, 7.0, 2.0])
    assert probabilities @ (allocation.weights * values) == pytest.approx(values.mean())
    assert isinstance(mine, Allocator) and mine.objective_preserving


def test_every_page_is_in_the_navigation():
    listed = re.findall(r": (\w+\.md)$", text_of("mkdocs.yml"), re.MULTILINE)
    pages = {page.removeprefix("docs/") for page in PAGES}
    assert pages | set(MADE) == set(listed) and len(listed) == len(set(listed))


@pytest.fixture
def own(monkeypatch):
    """The modules of docs/own.md, as one."""
    monkeypatch.setenv("JUDGE_KEY", "the key")
    blocks = re.findall(r"^```python\n(.*?)^```", text_of("docs/own.md"), re.MULTILINE | re.DOTALL)
    module = ModuleType("own")
    sys.modules["own"] = module
    for code in blocks:
        exec(code, module.__dict__)
    yield module
    del sys.modules["own"]


def test_what_the_page_on_own_code_shows_works(own):
    assert own.ends_with("so it is 12.", "12") == 1.0
    assert own.EndsWith().score("", "so it is 12.", "12").reward == 1.0
    score = as_score(own.right_and_tagged("", r"4 + 8</think> \boxed{12}", "12.0"))
    assert score == Score(1.1, {"right": 1.0, "form": 1.0}, "12")
    with pytest.raises(ValueError, match="must not be empty"):
        own.EndsWith().check("")
    prompts = own.Sums().prompts(LetterTokenizer(), max_tokens=256, check=own.EndsWith().check)
    assert len(prompts) == 64
    call, answer = own.turns("so it is", "so")
    (found,) = find_calls(call)
    assert asyncio.run(as_tool(own.longest).call(found.arguments)) == answer == "so"


class Judge(BaseHTTPRequestHandler):
    """A server of OpenAI's kind that says yes to a response of 12."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        said = "Yes" if "Response: 12\n" in asked["messages"][-1]["content"] else " no"
        choice = {"index": 0, "message": {"role": "assistant", "content": said}}
        answer = json.dumps({"object": "chat.completion", "choices": [choice]}).encode()
        self.send_response(200 if self.headers["Authorization"] == "Bearer the key" else 401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


def test_the_judge_of_the_page_gives_what_its_server_says(own, monkeypatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), Judge) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = own.client.copy(base_url=f"http://127.0.0.1:{server.server_port}/v1")
        monkeypatch.setattr(own, "client", client)

        async def judged():
            return await asyncio.gather(*(own.judged("6+6", said, "12") for said in ("12", "13")))

        assert asyncio.run(judged()) == [1.0, 0.0]
        server.shutdown()


def test_objective_of_the_page_is_a_policy_gradient_where_nothing_has_moved(own):
    import torch

    from learner.objectives.types import LossInputs

    logprobs = torch.tensor([0.0, -1.0, -0.5], requires_grad=True)
    advantages = torch.tensor([0.7, 0.7, 0.7])
    inputs = LossInputs(
        learner_logprobs=logprobs,
        rollout_logprobs=logprobs.detach().clone(),
        advantages=advantages,
        segment_ids=torch.zeros(3, dtype=torch.int64),
        loss_mask=torch.tensor([False, True, True]),
    )
    own.SoftClip().token_losses(inputs).token_losses.sum().backward()
    assert logprobs.grad.tolist() == pytest.approx([0.0, -0.7, -0.7])


def test_the_readme_defines_its_words_before_it_uses_them():
    text = re.sub(r"```.*?```", "", text_of("README.md"), flags=re.DOTALL)
    for word in ("ticket", "thinning", "selectable", "pilot", "surprise", "staleness", "plug"):
        defined = re.search(rf"\*{word}\*", text, re.IGNORECASE)
        used = re.search(rf"\b{word}s?\b", text, re.IGNORECASE)
        assert defined is not None and used.start() == defined.start() + 1, word
