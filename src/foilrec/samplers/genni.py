"""GenNi: negatives drawn from what the model now prefers, at every place of a sequence."""

import torch
from torch import Tensor

from foilrec.core import Batch, Data, Negatives, Sampler, Tables, rows_of
from foilrec.errors import must_hold
from foilrec.numerics import kernels, streams

BLOCK = 2**22  # scores held at once


class GenNi(Sampler):
    """q(j) = softmax over a random part of the unseen items of s_j / temperature. Chen et al., 2022 (arXiv 2208.03645).

    At every place of a sequence, or for every row of another backbone, from the present scores. The part is drawn once
    a step for all its rows, so that one matrix product scores it: what softmax_sir does for a few candidates of each
    row's own, gathered one by one, and with the same law as both parts grow. subset = 0 is the softmax over all unseen
    items itself. log_q is exact there, and elsewhere softmax_sir's estimate, share times m / N, for m of the user's N
    unseen items in the part: approximate, and 0 at most. The paper's code is not public.

    subset: items in the part, 200 .. 2000, 0 for all: larger ones hold harder items. temperature: .05 .. 10: smaller
    ones draw harder items. warmup: epochs in which 1 / temperature rises from near 0, uniform, to its value. count: K,
    drawn with replacement.
    """

    log_q_is = "approximate"
    shares_batch = True

    def __init__(
        self, data: Data, *, subset: int = 1000, temperature: float = 1.0, warmup: int = 0, count: int = 1
    ) -> None:
        super().__init__(data)
        must_hold(
            "genni",
            subset=(subset, subset >= 0, "at least 0"),
            warmup=(warmup, warmup >= 0, "at least 0"),
            count=(count, count >= 1, "at least 1"),
            temperature=(temperature, temperature > 0, "above 0"),
        )
        self.subset, self.temperature, self.warmup, self.count = subset, temperature, warmup, count
        if not subset or subset >= data.n_items:
            self.log_q_is, self.shares_batch = "exact", False

    @torch.no_grad()
    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        """ids [B, count] with their log_q."""
        spare, part = self.unseen(batch, self.count, "elsewhere"), self.part(batch).to(query.device)
        items = tables.items[part].T * (min(1.0, (batch.epoch + 1) / (self.warmup + 1)) / self.temperature)
        place = part.new_full((self.data.n_items,), -1)
        place[part] = torch.arange(len(part), device=part.device)
        word = kernels.words(rows_of(batch), self.key(batch, "from the softmax"), self.count) >> 11 & (2**53 - 1)
        free = self.data.n_items - self.data.seen.on(part.device).counts[batch.users][:, None]
        ids, log_q = spare, -free.double().log().expand_as(spare).clone()
        for rows in torch.arange(len(batch), device=part.device).split(max(1, BLOCK // len(part))):
            scores, left = query[rows] @ items, self._hide(batch.users[rows], place)
            line, at, count = left
            scores[line, at] = -torch.inf
            some = (count > 0)[:, None]
            share = scores.masked_fill_(~some, 0.0).log_softmax(1).double()
            below = share.exp().cumsum(1)
            drawn = torch.searchsorted(below, word[rows].double() * 2.0**-53 * below[:, -1:], right=True)
            drawn.clamp_(max=len(part) - 1)
            ids[rows] = torch.where(some, part[drawn], spare[rows])
            log_q[rows] += torch.where(some, share.gather(1, drawn) + count[:, None].clamp(min=1).log(), 0.0)
        return Negatives(ids=ids, log_q=log_q.clamp(max=0).to(query.dtype))

    def part(self, batch: Batch) -> Tensor:
        """The items that a step draws from, in order of their numbers."""
        if not self.subset or self.subset >= self.data.n_items:
            return torch.arange(self.data.n_items)
        generator = streams.generator(self.key(batch, "part"), int(rows_of(batch)[0]))
        return torch.randperm(self.data.n_items, generator=generator)[: self.subset].sort().values

    def _hide(self, users: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What users [b] took in training, of the items that have a place: lines and places, and how many are left."""
        starts, taken = (x.to(place.device) for x in self.data.seen.gather(users.cpu()))
        line, at = torch.repeat_interleave(torch.arange(len(users), device=place.device), starts.diff()), place[taken]
        line, at = line[at >= 0], at[at >= 0]
        return line, at, (place >= 0).sum() - torch.bincount(line, minlength=len(users))
