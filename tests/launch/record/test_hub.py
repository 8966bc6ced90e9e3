"""The policy is uploaded as it lies there, with a token of the environment alone."""

import huggingface_hub
import pytest

from launch.cli.refusals import UserError
from launch.record.hub import push_policy, require_token


class FakeHub:
    """Has the methods of `huggingface_hub.HfApi` that are called."""

    endpoint = "https://hub.invalid"

    def __init__(self, token):
        self.token, self.made, self.sent = token, [], []
        FakeHub.last = self

    def create_repo(self, repo_id, *, private, exist_ok):
        assert exist_ok
        self.made.append((repo_id, private))

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        self.sent.append((repo_id, folder_path, commit_message))


def test_a_folder_is_uploaded_with_the_token_of_the_environment(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeHub)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    folder = tmp_path / "first" / "policy"
    assert push_policy(folder, "me/mine", private=True) == "https://hub.invalid/me/mine"
    hub = FakeHub.last
    assert hub.token == "hf_secret" and hub.made == [("me/mine", True)]
    assert hub.sent == [("me/mine", str(folder), "Policy of first")]


def test_without_a_token_a_run_that_would_upload_is_refused_before_it_begins(monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    require_token(None)
    with pytest.raises(UserError, match=r"loop\.push_to_hub needs a token.* HF_TOKEN"):
        require_token("me/mine")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    require_token("me/mine")
