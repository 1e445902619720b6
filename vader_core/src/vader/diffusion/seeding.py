"""Seeds derived from names, so that every random choice of a run depends on what it is for and on nothing else.

A clip's noise depends on (run seed, optimizer step, index of the clip in the optimizer step), not on rank or batch
size: two processes with batch 4 make the same clips as one with batch 8.
"""

from __future__ import annotations

import hashlib
import random


def derive(seed: int, *path: int | str) -> int:
    """A 63-bit seed for ``path`` under ``seed``; equal on every machine."""
    text = "/".join(map(str, (seed, *path)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def stream(seed: int, *path: int | str) -> random.Random:
    """A random number generator of Python for ``path`` under ``seed``."""
    return random.Random(derive(seed, *path))
