"""Let the allocator of this process keep what it has.

glibc gives blocks above 128 KiB back to the system at every ``free`` and takes them again at the next
step: hundreds of page faults a step for the tensors of stacked students (16 lanes of a small CNN:
658 us a student and step, 540 us without them).
"""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h of glibc


@lru_cache(maxsize=1)
def keep_memory() -> bool:
    """Serve large blocks from the heap and never trim it; False where the allocator is another."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
