"""The policy at the Hugging Face hub: uploaded after a run, with a token of the environment."""

import os
from pathlib import Path

from launch.cli.refusals import UserError

TOKEN = "HF_TOKEN"


def require_token(repo: str | None) -> None:
    """Refuse a run that is to upload its policy and could not.

    Raises:
        UserError: If a repository is named, and no token is in the environment.
    """
    if repo is not None and not os.environ.get(TOKEN):
        raise UserError(
            f"loop.push_to_hub needs a token that may write to {repo}: set {TOKEN} in the "
            "environment, or leave loop.push_to_hub out"
        )


def push_policy(folder: Path, repo: str, *, private: bool) -> str:
    """Upload a policy's folder, and return where it then is.

    Args:
        folder: A Hugging Face checkpoint.
        repo: OWNER/NAME; made where there is none.
        private: Whether a new one is visible to its owner only.

    Raises:
        OSError: If the hub refuses it or cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=os.environ.get(TOKEN))
    api.create_repo(repo, private=private, exist_ok=True)
    api.upload_folder(
        repo_id=repo, folder_path=str(folder), commit_message=f"Policy of {folder.parent.name}"
    )
    return f"{api.endpoint}/{repo}"
