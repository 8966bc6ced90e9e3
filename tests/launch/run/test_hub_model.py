"""Models by their name on the hub, from a cache without a network."""

import shutil

import huggingface_hub
import pytest

from launch.cli.refusals import UserError
from launch.run.hub_model import is_hub_id
from launch.run.model_folder import resolve_model
from tests.places import CHAIN_MODEL

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache in huggingface_hub's own layout, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub._snapshot_download.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "models--owner--chain"
    shutil.copytree(CHAIN_MODEL, place / "snapshots" / COMMIT)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(COMMIT)
    return place / "snapshots" / COMMIT


@pytest.mark.parametrize("name", ["owner/chain", f"owner/chain@{COMMIT}"])
def test_a_model_in_the_cache_is_found_by_its_name(cache, name):
    assert resolve_model(name) == str(cache)


def test_one_that_is_nowhere_is_refused_with_the_command_that_fetches(cache, capsys):
    told = r"^model\.path .*run `hf download owner/other`.*got 'owner/other'$"
    with pytest.raises(UserError, match=told) as refusal:
        resolve_model("owner/other")
    assert "\n" not in str(refusal.value)
    assert capsys.readouterr().out == "model.path: fetching owner/other from the hub\n"


@pytest.mark.parametrize("path", ["models", "/a/b", "./a/b", "a/b/c", "a/", "../b", "a b/c"])
def test_other_paths_are_no_names_of_the_hub(path):
    assert not is_hub_id(path)
