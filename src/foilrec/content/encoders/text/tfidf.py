"""Latent semantic analysis: TF-IDF of the catalogue, and the directions in which its texts differ most."""

import re
from collections import Counter
from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from foilrec import streams
from foilrec.content.encoder import Array
from foilrec.errors import BadData, BadOption

SPARE, ROUNDS = 10, 4  # of the randomised search: directions beyond those asked for, and power iterations


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
        rows = torch.sparse.mm(self._matrix([Counter(_words(text)) for text in texts]), self._axes)
        made: Array = torch.nn.functional.normalize(rows).float().numpy()
        return made

    def _matrix(self, counts: list[Counter[str]]) -> Tensor:
        """Weighed counts, rows of length 1: sparse float64 [n, words]."""
        rows, columns, values = [], [], []
        for row, count in enumerate(counts):
            for word, times in count.items():
                if word in self._places:
                    rows.append(row)
                    columns.append(self._places[word])
                    values.append(times)
        weighed = (1 + np.log(np.array(values, np.float64))) * self._weights[np.array(columns, np.int64)]
        lengths = np.sqrt(np.bincount(rows, weighed**2, minlength=len(counts)))
        place = torch.tensor([rows, columns], dtype=torch.long)
        return torch.sparse_coo_tensor(
            place, torch.from_numpy(weighed / lengths[rows]), (len(counts), len(self._places)), check_invariants=False
        ).coalesce()


def _axes(matrix: Tensor, dim: int, seed: int) -> Tensor:
    """The leading right singular vectors [words, d <= dim], each with its largest entry positive."""
    wide = min(dim + SPARE, *matrix.shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(streams.key(seed, "tfidf"))
        _, strengths, axes = torch.svd_lowrank(matrix, q=wide, niter=ROUNDS)
    axes = axes[:, strengths > 1e-7 * strengths[0]][:, :dim]
    largest = axes.abs().argmax(0)
    return axes * axes.gather(0, largest[None]).sign()


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
