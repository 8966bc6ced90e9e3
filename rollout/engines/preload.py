"""The first import of the server that engines are forked from, see `fork_server`.

What packages make when they are imported is no garbage, and some are imported for nothing; see
`rollout.loading`. The engine's process looks for garbage again.
"""

import gc
import sys
from typing import Any

from rollout.loading import UNUSED

gc.disable()
modules: dict[str, Any] = sys.modules
for name in UNUSED:
    modules.setdefault(name, None)
