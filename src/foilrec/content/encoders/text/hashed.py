"""Hashed TF-IDF: no model, no vocabulary, and no knowledge of meanings."""

from collections.abc import Iterable

from foilrec.content.encoder import HashedWords
from foilrec.errors import BadOption


class Hashed(HashedWords):
    """Counts of words by hash, rare words weighing more (see foilrec.content.encoder.HashedWords).

    texts: the catalogue, which says how rare a word is. dim: how wide a row is, 256 to 4096; fewer mix up more words.
    """

    name, fitted = "hashed", True

    def __init__(self, texts: Iterable[str], *, dim: int = 1024) -> None:
        if dim < 1:
            raise BadOption(f"Encoder hashed: dim = {dim} must be at least 1.")
        super().__init__(texts, dim=dim)
