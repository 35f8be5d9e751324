"""Memory: what is free is looked at before much is spent, and large blocks are kept from one step to the next."""

import ctypes
import sys
from pathlib import Path

import torch
from torch import Tensor

from foilrec.errors import OutOfMemory

LARGE = 2**30  # bytes below which nobody looks
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


def free_bytes() -> int | None:
    """What the system could give now without swapping, or None where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)


def free_on(device: torch.device) -> int:
    """What a GPU could give now, in bytes; 0 where it cannot be known."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else 0


def must_fit(what: str, size: int, cure: str) -> None:
    """Raises OutOfMemory if `size` bytes of the CPU's memory are not free: a process that takes them is killed.

    >>> must_fit("a table", 64, "lower dim")
    """
    free = free_bytes() if size >= LARGE else None
    if free is not None and size > free:
        raise OutOfMemory(f"{what} would take {size / 2**30:,.1f} GB, and {free / 2**30:,.1f} GB are free: {cure}.")


def vectors_must_fit(query: Tensor, count: int) -> None:
    """Raises OutOfMemory if the vectors of `count` negatives for each row of query [B, D] are more than is free."""
    if query.device.type == "cpu":
        what = f"The vectors of {count:,} negatives for each of {len(query):,} rows"
        must_fit(what, 4 * query.numel() * count, "lower the sampler's count, or train.batch")
