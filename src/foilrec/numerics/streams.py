"""Randomness by name: every draw is a function of (seed, names, counter), so no generator has to be saved or shared.

Two samplers see the same batches, a resumed run draws what an uninterrupted one would have drawn, and neither batch
size nor thread count changes a negative.
"""

from hashlib import blake2b

import torch


def key(seed: int, *names: object) -> int:
    """A 63-bit key for the stream of that name.

    >>> key(1, "batches", 0) == key(1, "batches", 0) != key(1, "batches", 1)
    True
    """
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *names: object, device: str = "cpu") -> torch.Generator:
    """A fresh torch generator for the stream of that name."""
    return torch.Generator(device).manual_seed(key(seed, *names))


def of_step(seed: int, name: str, epoch: int, first: int = -1, device: str = "cpu") -> torch.Generator:
    """The stream of that name for one step of an epoch, told by the first of its training rows."""
    return generator(seed, name, epoch, first, device=device)
