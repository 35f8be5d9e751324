"""The allocator's manners: large blocks are kept for the next step instead of going back to the system each time."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's mallopt


def keep_large_blocks(largest: int = 2**30) -> bool:
    """Tells glibc to reuse freed blocks up to `largest` bytes; False where there is no glibc.

    A step allocates the same few megabytes again and again. Mapped anew each time, every page of them faults.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, largest)) and bool(mallopt(_TRIM_THRESHOLD, 2 * largest))
