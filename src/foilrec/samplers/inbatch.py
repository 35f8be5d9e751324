"""In-batch negatives: what the other rows of the batch took."""

import torch
from torch import Tensor

from foilrec.core import Backbone, Batch, Data, Negatives, Sampler, Tables, rows_of
from foilrec.errors import must_hold
from foilrec.numerics import kernels


class InBatch(Sampler):
    """The positives of other rows of the batch, without any that the row's user took in training, its own or not.

    A batch is a random part of the N training rows, so that a column which holds an item that u has not taken holds
    item j with probability q(j|u) = c_j / (N - sum over P_u of c), c the training counts: popularity at power 1. log_q
    is its logarithm, exact over the shuffles of an epoch, and undoes the popularity in losses that subtract it (Bengio
    and Senecal 2003; Yi et al., RecSys 2019, who use c_j / N). With a backbone that reads histories it is approximate:
    c and N are of the rows that have a past, whose whole sequences come together. Columns of one batch depend on each
    other a little, and an item may stand in several. Where a column holds a known positive the mask is False, and ids
    name an unseen item that counts nothing. Join it with uniform in mixed for mixed negative sampling: alone it never
    draws an item without a training row.

    count: columns a row, drawn with replacement from the others of the batch, 16 .. 256; 0 takes all B, the row's own
    masked. The loss looks up count rows of vectors for each row, so that all of a batch of 2,048 take B^2 D = 1 GB at
    D = 64: take a batch of a few hundred with it.
    """

    log_q_is = "exact"
    shares_batch = True
    log_count: Tensor
    log_rest: Tensor

    def __init__(self, data: Data, *, count: int = 32) -> None:
        super().__init__(data)
        must_hold(
            "inbatch",
            count=(count, count >= 0, "at least 1, or 0 for every row of the batch"),
        )
        self.count = count
        self.register_buffer("log_count", torch.zeros(data.n_items, dtype=torch.double), persistent=False)
        self.register_buffer("log_rest", torch.zeros(data.n_users, dtype=torch.double), persistent=False)
        self._count(data.train)

    def begin_epoch(self, epoch: int, model: Backbone, tables: Tables) -> None:
        """With a backbone that reads histories, counts the rows that it learns from."""
        if model.history and self.log_q_is == "exact":  # not yet
            self.log_q_is = "approximate"
            self._count(self.data.train[self.data.trained(model.history)])

    def _count(self, rows: Tensor) -> None:
        """c_j of the rows that batches hold, and N less what each user took of them."""
        counts, seen = torch.bincount(rows[:, 1], minlength=self.data.n_items), self.data.seen
        taken = torch.cat([torch.zeros(1, dtype=torch.long), counts[seen.items.long()].cumsum(0)])
        rest = len(rows) - (taken[seen.starts[1:]] - taken[seen.starts[:-1]])
        self.log_count.copy_(counts.clamp(min=1).double().log())
        self.log_rest.copy_(rest.clamp(min=1).double().log())

    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        """ids [B, count] with log_q, and a mask of the columns that hold a negative."""
        here = torch.arange(len(batch), device=batch.users.device)[:, None]
        columns = here.T.expand(len(batch), -1)
        if self.count:
            others = torch.tensor(max(1, len(batch) - 1), device=here.device)
            step = kernels.below(kernels.words(rows_of(batch), self.key(batch), self.count), others)
            columns = (here + 1 + step) % len(batch)
        ids = batch.positives[columns]
        mask = ~self.data.seen.contains(batch.users, ids)
        log_q = (self.log_count[ids] - self.log_rest[batch.users][:, None]).where(mask, 0.0)
        filler = self.unseen(batch, 1, "filler")
        return Negatives(ids=torch.where(mask, ids, filler), log_q=log_q.to(query.dtype), mask=mask)
