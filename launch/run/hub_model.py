"""A model by its name on the hub: out of the cache, or downloaded into it.

OWNER/NAME[@REVISION] -> huggingface_hub's cache -> a folder on this machine
"""

import re
from typing import Any

from launch.cli.refusals import UserError, reason_of

FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")
"""What is read of a model: no pickles, and no code."""
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


def is_hub_id(path: str) -> bool:
    """Whether a text has the form OWNER/NAME, with @REVISION if one is meant."""
    return _ID.fullmatch(path) is not None


def fetched(name: str) -> str:
    """Return the folder of a model of the hub; what the cache lacks is downloaded.

    Every node must see the same cache: HF_HOME says where it lies.

    Raises:
        UserError: If it is not in the cache and cannot be had, with the command that fetches it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    model, _, revision = name.partition("@")
    wanted: dict[str, Any] = {
        "repo_id": model,
        "revision": revision or None,
        "allow_patterns": list(FILES),
    }
    try:
        return str(snapshot_download(**wanted, local_files_only=True))
    except LocalEntryNotFoundError:
        print(f"model.path: fetching {name} from the hub", flush=True)
    try:
        return str(snapshot_download(**wanted))
    except Exception as error:
        # Whatever went wrong there: no network, no such model, one that asks for an account.
        version = f" --revision {revision}" if revision else ""
        raise UserError(
            f"model.path names a model of the hub that is not in the cache and cannot be fetched "
            f"({reason_of(error)}); where there is a network run `hf download {model}{version}`, "
            f"and let HF_HOME name the same folder here, or give a folder, got {name!r}"
        ) from error
