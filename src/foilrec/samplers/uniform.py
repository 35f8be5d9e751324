"""Uniform negatives."""

from torch import Tensor

from foilrec.core import Batch, Data, Negatives, Sampler, Tables
from foilrec.errors import at_least, must_hold


class Uniform(Sampler):
    """Items drawn evenly from those that the user did not take in training: q(j|u) = 1 / (I - |P_u|), exactly.

    Safe and weak: a hidden positive is drawn as seldom as any other item. Only known positives are left out. The
    usual baseline; popularity shifts the draw to popular items, dns to those that the model likes.

    count: negatives a row (1 to 64 are usual), drawn independently, so that one may repeat.
    """

    log_q_is = "exact"

    def __init__(self, data: Data, *, count: int = 1) -> None:
        super().__init__(data)
        must_hold("uniform", **at_least(1, count=count))
        self.count = count

    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        """ids [B, count] with their exact log_q."""
        log_q = self.data.seen.on(batch.users.device).log_q[batch.users]
        return Negatives(ids=self.unseen(batch, self.count), log_q=log_q[:, None].expand(-1, self.count))
