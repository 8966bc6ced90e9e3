"""How much of a GPU a learner takes that has an engine on it, too."""

CONTEXT_BYTES = int(1.5 * 2**30)
"""Of a process on a GPU: CUDA's context, kernels, NCCL's buffers."""


def keep_to(share: float) -> None:
    """Keep this process, what CUDA itself takes included, to a part of its GPU's memory.

    Args:
        share: In (0, 1]; all of it is no bound.
    """
    import torch

    if share < 1 and torch.cuda.is_available():
        _, total = torch.cuda.mem_get_info()
        # It bounds what torch allocates.
        torch.cuda.set_per_process_memory_fraction(max(0.0, share - CONTEXT_BYTES / total))
