"""Tables that are parameters themselves: their gradients come as the rows that a batch touched."""

from dataclasses import dataclass, field

from torch import Tensor
from torch.nn.functional import embedding

from foilrec.core import Tables
from foilrec.numerics.rows import RowScores


@dataclass
class RowTables(Tables):
    """Tables whose gradients are row-sparse, for optimizers that want rows (lazyadam)."""

    _scored: tuple[Tensor, Tensor, Tensor, Tensor] | None = field(default=None, init=False, repr=False, compare=False)

    def scores(self, query: Tensor, positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
        """The scores of items, whose rows are read where they lie and copied nowhere."""
        if not RowScores.serves(query, self.items):
            return super().scores(query, positives, negatives)
        right, wrong, squares = RowScores.apply(query, self.items, positives, negatives, True)  # type: ignore[no-untyped-call]
        self._scored = query, positives, negatives, squares
        return right, wrong

    def squares(self, query: Tensor, positives: Tensor, negatives: Tensor | None) -> Tensor | None:
        """The sums of the squares of these rows, [3], if scores() has been asked for them; else None."""
        if self._scored is None:
            return None
        *read, squares = self._scored
        return squares if all(a is b for a, b in zip(read, (query, positives, negatives), strict=True)) else None

    def compose_items(self, ids: Tensor) -> Tensor:
        """Rows of items alone."""
        return embedding(ids, self.items, sparse=True)

    def compose_users(self, ids: Tensor) -> Tensor:
        """Rows of users alone."""
        if self.users is None:
            return super().compose_users(ids)
        return embedding(ids, self.users, sparse=True)
