"""Bilateral softmax loss."""

from torch import Tensor

from foilrec.core import Batch, Data, Loss, Negatives, Tables, score
from foilrec.errors import must_hold
from foilrec.numerics import rowwise
from foilrec.numerics.angles import cosine


class BSL(Loss):
    """-log E+ e^(s+/t) + power x log E- e^(s_j/t): Wu et al., ICDE 2024, in the form of its published code.

    The softmax loss takes the mean of s+ and the log mean of the negatives; here both sides are log means, which
    forgives positives that are noise. E+ is over the batch's rows of the same user, E- over the row's negatives. Asked
    about scores alone every row stands for itself: at power 1 that is infonce without the positive, less log K. Weights
    multiply the terms of E-; masked columns and rows without negatives drop out; log_q is not looked at.

    temperature: t of both sides, .08 .. .3. power: of the negatives' side, .8 .. 1.3: the ratio of the two sides'
    temperatures. cosine: compare by cosine, as the paper does, and not by dot product.
    """

    def __init__(self, *, temperature: float = 0.1, power: float = 1.1, cosine: bool = True) -> None:
        super().__init__()
        must_hold(
            "bsl",
            temperature=(temperature, temperature > 0, "above 0"),
            power=(power, power > 0, "above 0"),
        )
        self.temperature, self.power, self.cosine = temperature, power, cosine

    def forward(self, positive: Tensor, negative: Tensor, negatives: Negatives) -> Tensor:
        """positive [B], negative [B, K] -> a scalar."""
        return self._compare(positive / self.temperature, negative, negatives)

    def of_vectors(
        self, data: Data, tables: Tables, batch: Batch, query: Tensor, vectors: Tensor, negatives: Negatives
    ) -> Tensor:
        """The same with the positives of a user taken together."""
        compare = cosine if self.cosine else score
        mine = compare(query, tables.item_rows(batch.positives)) / self.temperature
        return self._compare(rowwise.group_log_mean(mine, batch.users), compare(query, vectors), negatives)

    def _compare(self, mine: Tensor, negative: Tensor, negatives: Negatives) -> Tensor:
        theirs = rowwise.log_mean(negative / self.temperature, negatives.weights, negatives.mask)
        return rowwise.over_rows(self.power * theirs - mine, negatives.weights, negatives.mask)
