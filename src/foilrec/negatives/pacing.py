"""What a curriculum says of an epoch: how much of a pool is open, and how far a number has drifted."""

import math


def opened(epoch: int, start: int, power: float, size: int, levels: int) -> int:
    """How many of levels * size negatives, the easiest first, an epoch uses: GDNSM's g(e).

    0 before epoch `start`, then floor((epoch / start)^power * size) until there are no more; start = 0 opens all.

    >>> [opened(e, 30, 1.0, 5, 3) for e in (29, 30, 45, 60, 90, 300)]
    [0, 5, 7, 10, 15, 15]
    """
    if epoch < start:
        return 0
    whole = levels * size
    return whole if not start else min(whole, math.floor((epoch / start) ** power * size + 1e-9))


def drifted(epoch: int, epochs: int, first: float, last: float) -> float:
    """A number on its straight way from `first` in epoch 0 to `last` in epoch `epochs`, where it stays.

    >>> [drifted(e, 100, 1.0, 9.0) for e in (0, 25, 100, 200)]
    [1.0, 3.0, 9.0, 9.0]
    """
    return first + (last - first) * min(1.0, epoch / epochs)
