"""Latent semantic analysis: TF-IDF of the catalogue, and the directions in which its texts differ most."""

import re
from collections import Counter
from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from foilrec.content.encoder import Array
from foilrec.errors import BadData, BadOption
from foilrec.graphs.sparse import Graph
from foilrec.numerics import streams

SPARE, POWERS = 10, 4  # of the randomised search: directions beyond those asked for, and power iterations
FAINT = 1e-4  # of the strongest direction: what is weaker is rounding


class Tfidf:
    """Words weighed by TF-IDF, projected on the leading right singular vectors of the catalogue's own matrix.

    Deerwester et al. 1990. A word that stands c times in a text and in f of N texts weighs (1 + ln c) ln(1 + N / f);
    rows are scaled to length 1, [N, words] is decomposed by Halko et al. 2011 with draws by name, and what is projected
    is scaled again. Words that share texts become alike, so that it knows a little of meanings, and only those of this
    catalogue. A text none of whose words are known is a row of zeros.

    texts: the catalogue. dim: directions, 50 to 300; fewer come out if the texts do not differ in so many. least: texts
    in which a word must stand to count (2: typing errors and serial numbers say nothing that items share). words: the
    most frequent ones that are kept. seed: of the draws.
    """

    name, fitted = "tfidf", True

    def __init__(
        self, texts: Iterable[str], *, dim: int = 128, least: int = 2, words: int = 50_000, seed: int = 0
    ) -> None:
        for option, value in (("dim", dim), ("least", least), ("words", words)):
            if value < 1:
                raise BadOption(f"Encoder tfidf: {option} = {value} must be at least 1.")
        told, counts = blake2b(repr((dim, least, words, seed)).encode(), digest_size=8), []
        for text in texts:
            told.update(f"\x1f{text}".encode())
            counts.append(Counter(_words(text)))
        met = Counter(word for count in counts for word in count)
        known = sorted((word for word, n in met.items() if n >= least), key=lambda word: (-met[word], word))[:words]
        if not known:
            raise BadData(
                f"Encoder tfidf: no word stands in {least} of the {len(counts):,} texts, so that nothing can be "
                "compared: take text.least=1, or another encoder."
            )
        self._places = {word: place for place, word in enumerate(known)}
        self._weights = np.log1p(len(counts) / np.array([met[word] for word in known], np.float64))
        self._axes = _axes(self._matrix(counts), dim, seed)
        self.dim = self._axes.shape[1]
        self.about = {"texts": len(counts), "words": len(known), "seed": seed}
        self.revision = told.hexdigest()

    def __call__(self, texts: list[str]) -> Array:
        """Float32 [n, dim], of length 1."""
        rows: Array = normalize(self._matrix([Counter(_words(text)) for text in texts])(self._axes)).numpy()
        return rows

    def _matrix(self, counts: list[Counter[str]]) -> Graph:
        """Weighed counts, rows of length 1: sparse [n, words]."""
        columns = np.fromiter((self._places.get(word, -1) for count in counts for word in count), np.int64)
        times = np.fromiter((times for count in counts for times in count.values()), np.float64)
        rows = np.repeat(np.arange(len(counts)), [len(count) for count in counts])
        here = columns >= 0
        rows, columns, times = rows[here], columns[here], times[here]
        weighed = (1 + np.log(times)) * self._weights[columns]
        weighed /= np.sqrt(np.bincount(rows, weighed**2, minlength=len(counts)))[rows]
        places, across, values = (torch.from_numpy(part) for part in (rows, columns, weighed))
        return Graph(places, across, values, (len(counts), len(self._places)))


def _axes(matrix: Graph, dim: int, seed: int) -> Tensor:
    """The leading right singular vectors [words, d <= dim], each with its largest entry positive.

    Halko et al. 2011, algorithms 4.4 and 5.1: an orthonormal basis of what the matrix makes of random directions, made
    sharper by powers, and the decomposition of the matrix within it.
    """
    wide = min(dim + SPARE, *matrix.shape)
    basis = torch.randn(matrix.shape[1], wide, generator=streams.generator(seed, "tfidf"))
    for _ in range(POWERS + 1):  # qr gives matrices by columns, with which products take 15 times as long
        basis, _ = torch.linalg.qr(matrix(basis.contiguous()))
        basis, inner = torch.linalg.qr(matrix.turn(basis.contiguous()))
    turns, strengths, _ = torch.linalg.svd(inner)
    axes = (basis @ turns)[:, strengths > FAINT * strengths[0]][:, :dim]
    largest = axes.abs().argmax(0)
    found: Tensor = axes * axes.gather(0, largest[None]).sign()
    return found


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
