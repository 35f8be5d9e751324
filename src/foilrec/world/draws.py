"""Random numbers by place: each is a function of (key, counters) alone, so any row can be made without the others."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_GOLDEN, _MIX1, _MIX2 = (np.uint64(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_PIECES = [np.uint64(shift) for shift in (0, 16, 32, 48)]


def bits(key: int, *counters: Array | int) -> Array:
    """Random uint64 words, one for each place of the counters broadcast together (SplitMix64's finaliser)."""
    state = np.full(1, key, np.uint64)
    for counter in counters:
        state = state + (np.atleast_1d(counter).astype(np.uint64) + np.uint64(1)) * _GOLDEN
        state ^= state >> np.uint64(30)
        state *= _MIX1
        state ^= state >> np.uint64(27)
        state *= _MIX2
        state ^= state >> np.uint64(31)
    return state


def uniform(key: int, *counters: Array | int) -> Array:
    """Even float64 in [0, 1), one for each place of the counters broadcast together."""
    return (bits(key, *counters) >> np.uint64(11)) * 2.0**-53


def normal(key: int, *counters: Array | int) -> Array:
    """Float32 of mean 0 and deviation 1, bell-shaped within -3.5..3.5: the sum of four even draws.

    No logarithm and no sine: the same bytes on every machine.
    """
    words = bits(key, *counters)
    total = np.full(words.shape, -131070, np.int32)
    for shift in _PIECES:
        total += (words >> shift).astype(np.uint16)
    return total.astype(np.float32) * np.float32(3**0.5 / 65536)


def below(count: int, key: int, *counters: Array | int) -> Array:
    """Even int64 in 0..count-1 (count < 2**16), one for each place of the counters broadcast together."""
    return ((bits(key, *counters) >> np.uint64(32)) * np.uint64(count) >> np.uint64(32)).astype(np.int64)


def chosen(shares: Array, key: int, *counters: Array | int) -> Array:
    """Int64 in 0..len(shares)-1, each as often as its share says."""
    bounds = np.cumsum(shares)[:-1]
    return np.searchsorted(bounds, uniform(key, *counters), side="right").astype(np.int64)
