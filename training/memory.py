"""How a long training run holds on to its memory on a CPU."""

from __future__ import annotations

import ctypes
import os

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> bool:
    """Let glibc's malloc keep what is freed for the next step instead of handing it back to the system.

    By default every map of some megabytes is fresh memory from the system, whose pages are cleared at first touch: a
    third of a training step on a CPU. Small pages, because memory that is kept is touched for the first time only once
    and large ones leave gaps between the maps. The effect is on the whole process; call it before the first tensor.

    Returns:
        Whether this system's malloc could be told; others are left as they are.
    """
    # torch reads this at its first allocation.
    os.environ["THP_MEM_ALLOC_ENABLE"] = "0"
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018 - only glibc has it
        return bool(libc.mallopt(_M_MMAP_MAX, 0) and libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
    except (OSError, AttributeError, TypeError):
        return False
