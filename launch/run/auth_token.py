"""The token that a cluster started here asks for: of this user, and for nobody else to read.

Ray makes it on the first start, readable by whom the user's umask lets; here it is made before.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import MutableMapping
from pathlib import Path
from tempfile import TemporaryDirectory

ELSEWHERE = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
"""Variables that name another token than that of the file."""
PRIVATE = 0o600


def keep_token_private(
    home: Path | None = None, environ: MutableMapping[str, str] = os.environ
) -> None:
    """Make `~/.ray/auth_token`, or take away the rights of others to one that is there.

    A user without a folder that can be written, as in many containers, gets a token in the
    environment, for the clusters of this process.

    Args:
        home: The user's folder; None takes this user's.
        environ: Variables; where they name another token, nothing is done.
    """
    if any(environ.get(name) for name in ELSEWHERE):
        return
    try:
        path = (home or Path.home()) / ".ray" / "auth_token"
    except RuntimeError:
        # The list of users lacks this one, and HOME is not set.
        environ[ELSEWHERE[0]] = secrets.token_hex(32)
        return
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _make(path)
        if path.stat().st_mode & 0o777 != PRIVATE:
            path.chmod(PRIVATE)
    except OSError:
        if not os.access(path, os.R_OK):
            environ[ELSEWHERE[0]] = secrets.token_hex(32)


def _make(path: Path) -> None:
    """Write a new token as a whole, unless another process was faster."""
    with TemporaryDirectory(dir=path.parent) as folder:
        draft = Path(folder) / path.name
        draft.touch(PRIVATE)
        draft.write_text(secrets.token_hex(32), encoding="ascii")
        try:
            os.link(draft, path)
        except FileExistsError:
            return
