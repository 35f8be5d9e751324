"""SRNS: a memory of hard candidates, and a bonus for those whose scores vary."""

import torch
from torch import Tensor

from foilrec.core import Backbone, Batch, Data, Negatives, Sampler, Tables, rows_of
from foilrec.errors import PartsDoNotFit, must_hold
from foilrec.numerics import kernels, streams
from foilrec.numerics.chances import gumbel

BLOCK = 4096  # users whose memory is renewed at once


class SRNS(Sampler):
    """Simplified and robust negative sampling: hard, and of high variance. Ding et al., NeurIPS 2020.

    Each user has a memory M_u of candidates. A row adds some random ones of the user's pool, keeps as many as before
    by a softmax of their scores at the epoch's start over `temperature`, without replacement, and of these takes the k
    with the largest P_t(k) + alpha_t std(P(k)), P(k) = sigma(s_uk - s_ui), std over the last `window` epochs and
    alpha_t = alpha min(t / warmup, 1): a false negative scores high and steadily, a hard true one high by moments.

    Held by score and not by item: the pool is drawn by name, so that only half-precision scores of the pool
    [U, pool, window] and of the training rows [N, window], and the places [U, memory], are kept; 27 MB for Baby's
    19,445 users (the published form holds some 6 GB). The memory is renewed for all users when an epoch begins, as a
    row of its own would, so that a draw depends on no other row (published: by each row in passing). dns has neither
    memory nor variance; bns guards against false negatives by popularity.

    memory: candidates kept, 2 .. 16. extend: random ones added, memory .. pool. pool: items of a user that candidates
    ever come from, 64 .. 512. temperature: 1 .. 10. alpha: weight of the deviation, 0 .. 20. warmup: epochs until it
    counts in full, 25 .. 100. window: epochs that the deviation is of, 2 .. 10.
    """

    past: Tensor
    past_of_rows: Tensor
    places: Tensor
    recorded: Tensor
    pool_key: Tensor

    def __init__(
        self,
        data: Data,
        *,
        memory: int = 8,
        extend: int = 64,
        pool: int = 128,
        temperature: float = 10.0,
        alpha: float = 5.0,
        warmup: int = 50,
        window: int = 5,
    ) -> None:
        super().__init__(data)
        must_hold(
            "srns",
            memory=(memory, memory >= 1, "at least 1"),
            extend=(extend, extend >= memory, f"at least memory = {memory}"),
            pool=(pool, pool >= extend, f"at least extend = {extend}"),
            temperature=(temperature, temperature > 0, "above 0"),
            alpha=(alpha, alpha >= 0, "at least 0"),
            warmup=(warmup, warmup >= 1, "at least 1"),
            window=(window, window >= 1, "at least 1"),
        )
        self.memory, self.extend, self.temperature, self.pool = memory, extend, temperature, pool
        self.alpha, self.warmup, self.window = alpha, warmup, window
        self.register_buffer("past", torch.zeros(data.n_users, pool, window, dtype=torch.half))
        self.register_buffer("past_of_rows", torch.zeros(len(data.train), window, dtype=torch.half))
        self.register_buffer("places", torch.arange(memory, dtype=torch.int16).repeat(data.n_users, 1))
        self.register_buffer("recorded", torch.zeros((), dtype=torch.long))
        self.register_buffer("pool_key", torch.zeros((), dtype=torch.long))

    def begin_epoch(self, epoch: int, model: Backbone, tables: Tables) -> None:
        """Notes the scores of every user's pool and of every training row, then renews every memory."""
        if tables.users is None:
            raise PartsDoNotFit("srns remembers users, and this backbone has no table of them: take dns or bns.")
        if not self.recorded:  # kept, as the scores belong to this pool, whoever asks by another seed later
            self.pool_key.fill_(streams.key(self.seed, "pool"))
        now, every = int(self.recorded) % self.window, torch.arange(self.data.n_users, device=self.places.device)
        users, positives = self.data.train.to(every.device).unbind(1)
        for rows in torch.arange(len(users), device=every.device).split(BLOCK):
            asked = positives[rows, None].contiguous()
            found = kernels.candidate_scores(tables.users[users[rows]], tables.items, asked)
            self.past_of_rows[rows, now] = _half(found[:, 0]).to(self.past_of_rows.dtype)
        for some in every.split(BLOCK):
            found = kernels.candidate_scores(tables.users[some], tables.items, self._pool(some))
            self.past[some, :, now] = _half(found).to(self.past.dtype)
            key = streams.key(self.seed, "draw", "memory", epoch)
            self.places[some] = self._renewed(some, some, key, found).short()
        self.recorded += 1

    @torch.no_grad()
    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        """ids [B, 1]: the best of the row's memory."""
        self.data.seen.need_unseen(batch.users)
        rows, filled = rows_of(batch), min(int(self.recorded), self.window)
        latest = self.past[batch.users, :, (int(self.recorded) - 1) % self.window].float()
        places = self._renewed(batch.users, rows, self.key(batch, "row"), latest)
        ids = self._pool(batch.users).gather(1, places)
        asked = torch.cat([batch.positives[:, None], ids], 1)
        scores = kernels.candidate_scores(query, tables.items, asked)
        chance = (scores[:, 1:] - scores[:, :1]).sigmoid()
        if filled > 1:
            theirs = self.past[batch.users[:, None], places, :filled].float()
            gaps = theirs - self.past_of_rows[rows, None, :filled].float()
            share = self.alpha * min(1.0, batch.epoch / self.warmup)
            chance = chance + share * gaps.sigmoid().std(2, correction=0)
        return Negatives(ids=ids.gather(1, chance.argmax(1, keepdim=True)))

    def _pool(self, users: Tensor) -> Tensor:
        """The items that candidates of some users come from, [n, pool], the same in every epoch; a full user's mean
        nothing."""
        seen = self.data.seen.on(users.device)
        key = int(self.pool_key)
        drawn = kernels.unseen(seen.starts, seen.items, users, users, key, self.pool, self.data.n_items)
        return drawn.clamp_(max=self.data.n_items - 1)

    def _renewed(self, users: Tensor, rows: Tensor, key: int, scores: Tensor) -> Tensor:
        """Places in the pool that a memory holds once it has met `extend` neighbours in it: [n, memory]."""
        noise = gumbel(rows, key, self.pool)
        start = kernels.below(kernels.words(rows, key ^ 1, 1), torch.tensor(self.pool, device=rows.device))
        place = torch.arange(self.pool, device=rows.device)
        met = (place - start) % self.pool < self.extend  # the pool's order is random: its neighbours are random items
        met.scatter_(1, self.places[users].long(), True)
        return (scores / self.temperature + noise).masked_fill_(~met, -torch.inf).topk(self.memory, dim=1).indices


def _half(scores: Tensor) -> Tensor:
    return scores.clamp(-6e4, 6e4).half()
