"""Features computed from what can be seen and read: pictures and texts become rows of 64 numbers.

Counts and pixels are whole numbers and the projections hold only +1 and -1: every sum is exact in float32, so that a
row does not depend on the machine, nor on which other rows were computed with it.
"""

import re
from functools import lru_cache
from hashlib import blake2b

import numpy as np

from foilrec.world import draws
from foilrec.world.draws import Array
from foilrec.world.pictures import SIDE

WIDTH = 64
"""Numbers in a row, of either modality: as many as the hash of a word has bits."""

_LEVELS, _POOL = 4, 4


@lru_cache(maxsize=65536)
def _signs_of(word: str) -> tuple[int, ...]:
    code = int.from_bytes(blake2b(word.encode(), digest_size=WIDTH // 8).digest(), "little")
    return tuple(1 - 2 * (code >> place & 1) for place in range(WIDTH))


def _signs(rows: int) -> Array:
    """A fixed random projection [rows, WIDTH] of +1 and -1."""
    return (1 - 2 * draws.below(2, 11, np.arange(rows)[:, None], np.arange(WIDTH))).astype(np.float32)


def _projected(counts: Array) -> Array:
    return counts.astype(np.float32) @ _signs(counts.shape[1])


def seen(pictures: Array) -> Array:
    """What pictures uint8 [n, SIDE, SIDE, 3] show, whole numbers in float32 [n, WIDTH].

    A histogram of colours, the mean colours of small squares, and how much neighbouring pixels differ in each of four
    directions, all projected together.
    """
    n, squares = len(pictures), SIDE // _POOL
    level = (pictures >> 6).astype(np.int64)
    colour = (level[..., 0] * _LEVELS + level[..., 1]) * _LEVELS + level[..., 2]
    bins = _LEVELS**3
    place = colour.reshape(n, -1) + np.arange(n)[:, None] * bins
    histogram = np.bincount(place.ravel(), minlength=n * bins).reshape(n, bins)
    pooled = pictures.reshape(n, squares, _POOL, squares, _POOL, 3).sum((2, 4), dtype=np.int64).reshape(n, -1)
    grey = pictures.sum(3, dtype=np.int64)
    down, right = abs(grey[:, 1:] - grey[:, :-1]), abs(grey[:, :, 1:] - grey[:, :, :-1])
    falling, rising = abs(grey[:, 1:, 1:] - grey[:, :-1, :-1]), abs(grey[:, 1:, :-1] - grey[:, :-1, 1:])
    slopes = np.stack([steps.sum((1, 2)) for steps in (down, right, falling, rising)], 1)
    # Weights bring the three groups to a like spread.
    return _projected(histogram * 20) + _projected(pooled) + _projected(slopes // 8)


def read(texts: list[str]) -> Array:
    """What texts say: hashed words, counted and projected, whole numbers in float32 [n, WIDTH]."""
    words = [re.findall(r"\w+", text.lower()) for text in texts]
    counts = np.array([len(w) for w in words], np.int64)
    if not counts.sum():
        return np.zeros((len(texts), WIDTH), np.float32)
    known = {word: number for number, word in enumerate(dict.fromkeys(w for row in words for w in row))}
    table = np.array([_signs_of(word) for word in known], np.float32)
    bag = np.zeros((len(texts), len(known)), np.float32)
    rows = np.repeat(np.arange(len(texts)), counts)
    np.add.at(bag, (rows, np.array([known[w] for row in words for w in row])), 1)
    return bag @ table
