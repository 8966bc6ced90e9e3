"""Random streams by name, so that adding a component moves no other component's numbers.

    generator_for(seed, "draws", first_ticket_id)   generator_for(seed, "thinning", ticket, epoch)

A stream is a function of the run's seed, its name and counters that the caller already keeps.
There is no generator state to save: a resumed run continues with the same numbers.
"""

from hashlib import blake2b

import numpy as np


def seed_for(seed: int, name: str, *counters: int) -> int:
    """Derive a 64-bit seed for one named stream.

    Args:
        seed: The run's seed.
        name: The component's name; different names give unrelated streams.
        *counters: Position within the stream, such as a step or a ticket id.

    Returns:
        An integer in [0, 2^64).
    """
    key = "/".join([str(int(seed)), name, *(str(int(counter)) for counter in counters)])
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little")


def generator_for(seed: int, name: str, *counters: int) -> np.random.Generator:
    """Make the generator of one named stream; the arguments are those of `seed_for`."""
    return np.random.default_rng(seed_for(seed, name, *counters))
