"""Every setting of every program takes no nonsense: one sentence, or it goes on."""

import math

import pytest
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.evaluation import EvaluationConfig, EvaluationSet
from launch.cli.refusals import UserError
from launch.program import build, prepare_run_dir
from rollout.tasks.chain import ChainTask
from tests.composing import composed
from tests.launch.programs import call

PROGRAMS = {
    "train": ["experiment=quickstart"],
    "evaluate": ["experiment=quickstart_check", "model.path=model"],
    "bench": [],
    "chaos": [],
    "simulate": [],
    "compare": [],
    "submit": [],
    "report": ["runs=[a]"],
    "trace": ["runs=[a]"],
    "dashboard": ["out=x"],
    "smollm2": [],
    "gpu_check": [],
    "theory": [],
    "variance": [],
    "predict": [],
    "warmstart": [],
}
ABSURD = (math.inf, -math.inf, math.nan, 10**30, -(10**30))
ODD = (None, [], {}, "text", -1, [None], {"a": None}, True, "", "\0", "\ud800")


def with_needed(program: str, *overrides: str) -> DictConfig:
    return composed(program, *overrides, *PROGRAMS[program])


def keys_of(node, prefix=""):
    """Every key at any depth that is no interpolation, with its value."""
    for name, child in node.items_ex(resolve=False):
        key = f"{prefix}{name}"
        if OmegaConf.is_interpolation(node, name) or key == "hydra":
            continue
        yield key, child
        if isinstance(child, DictConfig) and child is not None:
            yield from keys_of(child, f"{key}.")


def verdict(config, key, value):
    """What a user sees: None where the value is taken."""
    changed = config.copy()
    try:
        OmegaConf.update(changed, key, value, merge=False)
    except OmegaConfBaseException:
        # Hydra says the same on the command line.
        return f"{key} has another type"
    try:
        build(changed)
    except UserError as refusal:
        return str(refusal)
    return None


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_number_is_infinite_or_absurd(program):
    config = with_needed(program)
    build(config.copy())
    checked = 0
    for key, value in keys_of(config):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or key.endswith("_per_second"):
            continue
        absurd = ABSURD[checked % len(ABSURD)]
        found = verdict(config, key, absurd)
        assert found is not None, f"{program} takes {key}={absurd}"
        assert key.split(".")[-1] in found, found
        assert "\n" not in found
        checked += 1
    assert checked > 0 or program in ("report", "trace", "dashboard", "smollm2", "submit")


@pytest.mark.parametrize("program", PROGRAMS)
def test_nothing_odd_is_a_bug(program):
    """Anything but a refusal in one line comes out of `build` as an exception and fails this."""
    config = with_needed(program)
    for place, (key, _) in enumerate(keys_of(config)):
        found = verdict(config, key, ODD[place % len(ODD)])
        assert found is None or "\n" not in found, found


@pytest.mark.parametrize("program", ["train", "evaluate", "bench", "simulate", "compare"])
@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "../../x", "/etc/x", "a/b", "a b", "<b>x</b>", "a\nb", "x" * 101, "-x", "ü",
        "a;b", "$x", "a\\b", "~", "\u202ex", "x\u200b", "\uff0e\uff0e\uff0fx", "x\n", "a\u2215b",
    ],
)  # fmt: skip
def test_a_name_is_safe_as_file_actor_and_page(program, name):
    found = verdict(with_needed(program), "name", name)
    assert found is not None
    assert found.startswith("name must be 1 to 100 letters")


def test_a_tracker_in_the_place_of_all_is_told_how_one_is_added():
    found = verdict(
        with_needed("train"), "tracker", {"_target_": "launch.record.tracking.ConsoleTracker"}
    )
    assert found is not None
    assert "+tracker@tracker.NAME=FILE.py:CLASS" in found


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a\nb", "", "..", "\u202ex", "x" * 101])
def test_a_name_of_a_set_or_a_tracker_is_as_safe(name):
    config = with_needed("train")
    found = verdict(config, "tracker", {**config.tracker, name: config.tracker.jsonl})
    assert found is not None
    assert found.startswith("tracker must be 1 to 100 letters")
    with pytest.raises(ValueError, match=r"^evaluation\.sets must be 1 to 100 letters"):
        EvaluationConfig(sets={name: EvaluationSet(task=ChainTask())})


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "..", "-x", "\u202ex"])
def test_a_name_makes_no_folder_where_it_points(name, tmp_path, monkeypatch):
    home = tmp_path / "a" / "b"
    home.mkdir(parents=True)
    monkeypatch.chdir(home)
    done = call("launch.train", "experiment=quickstart", f"name='{name}'")
    assert done.status == 2 and done.err.startswith(("error: name must be", "error: run_dir must"))
    assert [path for path in tmp_path.rglob("*") if path not in (home, home.parent)] == []


def test_a_run_folder_may_be_a_link_and_is_no_less_empty(tmp_path):
    kept, link, loop = tmp_path / "kept", tmp_path / "link", tmp_path / "loop"
    link.symlink_to(kept)
    loop.symlink_to(loop)
    config = with_needed("train")
    prepare_run_dir(link.resolve(), config, "train")
    assert [path.name for path in kept.iterdir()] == ["config.yaml"]
    (kept / "summary.json").touch()
    for path, message in ((link, "must be new or empty"), (loop, "must be writable")):
        with pytest.raises(UserError, match=rf"^run_dir {message}"):
            prepare_run_dir(path, config, "train")


@pytest.mark.parametrize("program", ["train", "evaluate", "simulate", "compare"])
@pytest.mark.parametrize(
    "path", ["", " ", "s3://bucket/x", "gs://x", "file:///x", "a\nb", "/x/" + "y" * 256, "\x1b[1m"]
)
def test_a_run_folder_is_a_path_of_this_machine(program, path):
    found = verdict(with_needed(program), "run_dir", path)
    assert found is not None
    assert found.startswith("run_dir must ")


@pytest.mark.parametrize(
    "overrides",
    [
        ["name=a.b_c-1"],
        ["name=" + "x" * 100],
        ["run_dir='/tmp/mit leer/ü'"],
        ["run_dir=../runs/x"],
        ["loop.num_steps=1000000000"],
        ["loop.max_staleness=1000"],
        ["loop.max_generated_tokens=1000000000000"],
        ["rollout.temperature=0.1"],
        ["rollout.reward_processes=512"],
        ["seed=4294967295"],
        ["learner.max_grad_norm=1000000000"],
        ["learner.lr=1"],
        ["resources.engine_cpus=0.5"],
        ["recipe=st_ppo", "objective=gspo"],
        ["scheduler.entropy_control=null"],
    ],
)
def test_good_settings_go_on(overrides):
    build(with_needed("train", *overrides))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("env", ["GITHUB_PAT"]), ("env", ["MY_PWD"]), ("env", ["a b"]), ("env", ["DB_DSN"]),
        ("secrets", ["1A"]), ("name", "Upper"), ("name", ""), ("form", "docker"),
        ("kuberay.claim", "a/b"), ("kuberay.claim", "x" * 254), ("kuberay.image", "a b"),
        ("kuberay.mount_path", "shared"), ("kuberay.mount_path", "/a/../b"),
        ("kuberay.mount_path", "/"), ("slurm.time", "1 day"), ("slurm.activate", ""),
        ("node.cpus", 0),
    ],
)  # fmt: skip
def test_a_job_that_no_cluster_takes_is_refused(key, value):
    found = verdict(with_needed("submit"), key, value)
    assert found is not None
    assert key in found
