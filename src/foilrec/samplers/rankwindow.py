"""Negatives from a window of ranks: not the very first, which hidden positives fill, and not the easy rest."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from foilrec.core import Backbone, Batch, Data, Negatives, Sampler, Tables, rows_of
from foilrec.errors import BadOption, PartsDoNotFit, must_hold
from foilrec.graphs.pagerank import nearest_by_walk
from foilrec.negatives.unseen import unseen_scores
from foilrec.numerics import kernels


class RankWindow(Sampler):
    """An unseen item whose rank lies in first .. last, each rank alike: q(j|u) = 1 / (last - first + 1), exactly.

    Ranks (1 the hardest) are among what the user has not taken: by the "user"'s score (dns with pool = 0 is the window
    1 .. top); by likeness (cosine) to the "positive"; or by personalised "pagerank" from the positive over the training
    graph, PinSage's hard negatives (Ying et al., KDD 2018): pi = sum_t (1 - restart)^t P^t e_i, up to
    `steps` steps through a user. Where fewer than `last` items are left the window ends with them.

    Lists are worked out once an epoch, from the tables as they then stand, and pagerank's once for all. By user a list
    holds the window: 4 U (last - first + 1) bytes. By positive or pagerank it holds the first last + spare items of
    each item, 4 I (last + spare) bytes, what the user took is passed over when drawing, and ranks are exact for rows
    whose user took at most `spare` of them; others have a window cut short, and uniform draws where they took all.

    first, last: 1 .. 5000, first at most last; 1 .. 100 is usual, PinSage has 2000 .. 5000 of billions. by: what ranks
    are by. refresh: "epoch", or "batch" for the present scores, a block of rows against all items: exact whatever was
    taken, and dearer; not for pagerank. count: negatives a row, with replacement. restart: 0.05 .. 0.5. steps: 1 .. 20.
    spare: 16 .. 256, for by = "positive" and "pagerank".
    """

    log_q_is = "exact"
    lists: Tensor | None

    def __init__(
        self,
        data: Data,
        *,
        first: int = 1,
        last: int = 100,
        by: Literal["user", "positive", "pagerank"] = "user",
        refresh: Literal["epoch", "batch"] = "epoch",
        count: int = 1,
        restart: float = 0.15,
        steps: int = 5,
        spare: int = 64,
    ) -> None:
        super().__init__(data)
        must_hold(
            "rankwindow",
            first=(first, first >= 1, "at least 1"),
            last=(last, last >= first, f"at least first = {first}"),
            count=(count, count >= 1, "at least 1"),
            steps=(steps, steps >= 1, "at least 1"),
            spare=(spare, spare >= 0, "at least 0"),
            restart=(restart, 0 <= restart < 1, "at least 0 and below 1"),
        )
        if by == "pagerank" and refresh == "batch":
            raise BadOption('rankwindow: by = "pagerank" depends on no batch: leave refresh = "epoch".')
        self.first, self.last, self.by, self.refresh, self.count = first, last, by, refresh, count
        self.keep = min(last if by == "user" else last + spare, data.n_items)
        self.register_buffer("lists", None, persistent=False)
        if by == "pagerank":
            users, items = torch.repeat_interleave(torch.arange(data.n_users), data.seen.counts), data.seen.items.long()
            self.lists = nearest_by_walk(
                users, items, (data.n_users, data.n_items), self.keep, restart=restart, steps=steps
            )

    def begin_epoch(self, epoch: int, model: Backbone, tables: Tables) -> None:
        """Works out the lists."""
        if self.refresh == "batch" or self.by == "pagerank":
            return
        if self.by == "positive":
            rows = normalize(tables.items.detach())
            every = torch.arange(len(rows) + 1, device=rows.device)
            self.lists = self._best(rows, rows, every[:-1], (every, every[:-1]))
            return
        if tables.users is None:
            raise PartsDoNotFit(
                'rankwindow has no users to make lists for: take refresh = "batch", or by = "positive".'
            )
        users = torch.arange(self.data.n_users, device=tables.users.device)
        low, high = self._bounds(self._free(users))
        width, found = torch.arange(max(1, self.keep - self.first + 1), device=users.device), []
        for rows, scores in unseen_scores(tables.users, tables.items, users, self._taken(users.device)):
            column = (low[rows, None] - 1 + width).minimum(high[rows, None] - 1).clamp(min=0)
            found.append(kernels.best(scores, self.keep)[0].gather(1, column).int())
        self.lists = torch.cat(found)

    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        """ids [B, count] with the log_q of their window."""
        self.data.seen.need_unseen(batch.users)
        free = self._free(batch.users)
        if self.lists is not None and self.by != "user":
            return self._passing(batch, self.lists[batch.positives].long(), free)
        low, high = self._bounds(free)
        rank = self._even(batch, high - low + 1)
        if self.lists is not None:
            ids = self.lists[batch.users].gather(1, rank).long()
        else:
            likes = tables.items.detach() if self.by == "user" else normalize(tables.items.detach())
            wanted = query if self.by == "user" else likes[batch.positives]
            ids = self._best(wanted, likes, batch.users, self._taken(free.device)).gather(1, low[:, None] - 1 + rank)
        return Negatives(ids=ids.long(), log_q=_log_q(high - low + 1, rank))

    def _passing(self, batch: Batch, near: Tensor, free: Tensor) -> Negatives:
        """Draws from the items near [B, keep] each row's positive, passing over what the user took."""
        left = ((near >= 0) & ~self.data.seen.contains(batch.users, near)).int().cumsum(1)
        low, high = self._bounds(left[:, -1].long())
        rank = low[:, None] + self._even(batch, (high - low + 1).clamp(min=1))
        place = torch.searchsorted(left, rank.int()).clamp(max=near.shape[1] - 1)
        none = high < 1
        ids = torch.where(none[:, None], self.unseen(batch, self.count, "rest"), near.gather(1, place))
        return Negatives(ids=ids, log_q=_log_q(torch.where(none, free, high - low + 1), rank))

    def _even(self, batch: Batch, many: Tensor) -> Tensor:
        """Draws [B, count] from 0 .. many - 1."""
        return kernels.below(kernels.words(rows_of(batch), self.key(batch), self.count), many[:, None])

    def _bounds(self, free: Tensor) -> tuple[Tensor, Tensor]:
        """The first and the last rank of windows that end with the last of the free items."""
        return free.clamp(max=self.first), free.clamp(max=self.last)

    def _free(self, users: Tensor) -> Tensor:
        return self.data.n_items - self.data.seen.on(users.device).counts[users]

    def _taken(self, device: torch.device) -> tuple[Tensor, Tensor]:
        seen = self.data.seen.on(device)
        return seen.starts, seen.items

    def _best(self, query: Tensor, items: Tensor, users: Tensor, taken: tuple[Tensor, Tensor]) -> Tensor:
        """The first `keep` items of each row, [B, keep], int32."""
        blocks = unseen_scores(query, items, users, taken)
        return torch.cat([kernels.best(scores, self.keep)[0].int() for _, scores in blocks])


def _log_q(many: Tensor, drawn: Tensor) -> Tensor:
    return -many[:, None].to(torch.get_default_dtype()).log().expand(drawn.shape)
