"""The first import of the server that engines are forked from, see `fork_server`.

What packages make when they are imported is no garbage, and some are imported for nothing; see
`rollout.loading`. The engine's process looks for garbage again.

`setproctitle`, by which vLLM's processes are known, looks up where the variables of this process
began, once; it finds nothing, and says nothing, where the first of them was changed before. Which
is the first is chance in a process of Ray's, and what is imported here changes some.
"""

import gc
import sys
from typing import Any

import setproctitle

from rollout.loading import UNUSED

setproctitle.getproctitle()
gc.disable()
modules: dict[str, Any] = sys.modules
for name in UNUSED:
    modules.setdefault(name, None)
