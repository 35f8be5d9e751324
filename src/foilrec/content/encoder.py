"""Texts as vectors: the protocol of encoders, and a light one that counts words and needs no model."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from math import log, log2
from statistics import median
from typing import Any, Protocol

import numpy as np

Array = np.ndarray[Any, Any]


class Encoder(Protocol):
    """Turns texts (or pictures, if that is what it is for) into rows of length 1.

    name and revision say which one, so that nobody mixes rows of two; dim is F.
    """

    name: str
    revision: str
    dim: int

    def __call__(self, texts: list[str]) -> Array:
        """Float32 [n, F], a row a text, each a function of its own text."""


class HashedWords:
    """Counts of words, hashed with signs into `dim` numbers, rare words weighing more: TF-IDF without a vocabulary.

    texts: the catalogue, which says how rare a word is; words met once or never weigh as the word in the middle does,
    as they say nothing that items share. It knows words and no meanings: navy is as far from blue as from red.
    """

    name = "hashed"

    def __init__(self, texts: Iterable[str], *, dim: int = 1024) -> None:
        self.dim = dim
        met: Counter[str] = Counter()
        count = 0
        for text in texts:
            met.update(set(_words(text)))
            count += 1
        self._weights = {word: log(1 + count / n) for word, n in met.items() if n > 1}
        self._middle = median(self._weights.values()) if self._weights else 1.0
        told = repr((dim, sorted(self._weights.items())))
        self.revision = blake2b(told.encode(), digest_size=6).hexdigest()

    def __call__(self, texts: list[str]) -> Array:
        """Float32 [n, dim], of length 1; zeros for a text without words."""
        rows = np.zeros((len(texts), self.dim))
        for row, text in zip(rows, texts, strict=True):
            for word, times in Counter(_words(text)).items():
                code = int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "little")
                sign = 1 if code >> 63 else -1
                row[code % self.dim] += sign * (1 + log2(times)) * self._weights.get(word, self._middle)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return (rows / np.where(lengths == 0, 1, lengths)).astype(np.float32)


def _words(text: str) -> Sequence[str]:
    return re.findall(r"\w+", text.casefold())


def cosines(one: Array, other: Array) -> Array:
    """Cosines of rows [n, F] with the rows [n, F] (or one row [1, F]) of another: [n]; 0 where one is zero."""
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    products: Array = (one * other).sum(1) / np.where(lengths == 0, 1, lengths)
    return products
