"""The first import of the server that engines are forked from, see `fork_server`.

What packages make when they are imported is no garbage; see `rollout.loading`. The engine's process
looks for garbage again.
"""

import gc

gc.disable()
