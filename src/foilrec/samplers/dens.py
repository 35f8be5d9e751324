"""DENS: negatives chosen by factors that learned gates tell apart."""

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, softplus

from foilrec.core import Backbone, Batch, Data, Negatives, Sampler, Tables, score
from foilrec.errors import PartsDoNotFit, must_hold
from foilrec.negatives import hops


class DENS(Sampler):
    """Candidates judged apart from what made the user take the positive. Lai et al., WSDM 2023.

    In every layer, gates split the positive p and a candidate n into relevant and irrelevant factors:
    p_r = p * sigma(W_i p + W_u u), n_r = n * sigma(W_n n + W_p p_r), p_ir = p - p_r, n_ir = n - n_r. The candidate with
    the largest <u, (1 - min(1, t / warmup)) n - n_r> in epoch t stays: early the largest irrelevant part, later the
    least relevant one, which is easier than a uniform draw (the meter tells): a warmup longer than the training keeps
    it hard. The negative is the mean of the layers' choices; with one layer it is an item. The choice has no gradient:
    gates learn from own_loss, gamma / 4 times four contrasts between <u, .> of the parts, p_ir below p_r, n_r below
    n_ir, n_r below p_r, p_ir below n_ir, which as published reaches users and items too. u is the final user
    in every layer (the published code takes each layer's). Like mixgcf it needs backbone.keep_layers = true where there
    are layers; with gates that are all closed and before the warmup it is a dns in each layer.

    pool: candidates a negative, 4 .. 16. count: negatives a row, 1 .. 8. gamma: weight of the contrasts, .1 .. 1.
    warmup: epochs until only the relevant part counts, 50 .. 200. dim: width of the backbone's vectors. joint: False
    keeps own_loss from users and items, so that only the gates learn from it.
    """

    def __init__(
        self,
        data: Data,
        *,
        pool: int = 6,
        count: int = 1,
        gamma: float = 0.3,
        warmup: int = 100,
        dim: int = 64,
        joint: bool = True,
    ) -> None:
        super().__init__(data)
        must_hold(
            "dens",
            pool=(pool, pool >= 1, "at least 1"),
            count=(count, count >= 1, "at least 1"),
            warmup=(warmup, warmup >= 1, "at least 1"),
            dim=(dim, dim >= 1, "at least 1"),
            gamma=(gamma, gamma >= 0, "at least 0"),
        )
        self.pool, self.count, self.gamma, self.warmup, self.joint = pool, count, gamma, warmup, joint
        self.user_gate, self.item_gate, self.positive_gate, self.negative_gate = (nn.Linear(dim, dim) for _ in range(4))

    def begin_epoch(self, epoch: int, model: Backbone, tables: Tables) -> None:
        """Looks whether the backbone shows its layers, and whether the gates are as wide as its vectors."""
        hops.need_layers(model, "dens")
        width, dim = tables.items.shape[1], self.user_gate.in_features
        if width != dim:
            raise PartsDoNotFit(f"dens has gates of width {dim} and the backbone vectors of {width}: set sampler.dim.")

    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        """vectors [B, count, D], or ids [B, count] where there is one layer only."""
        chosen = self._choose(tables, batch, query)
        if chosen.shape[2] == 1:
            return Negatives(ids=chosen[..., 0].contiguous())
        with torch.set_grad_enabled(self.training or torch.is_grad_enabled()):
            return Negatives(vectors=hops.rows_by_layer(hops.readers(tables.layers, tables.item_rows), chosen).mean(2))

    def own_loss(self, tables: Tables, batch: Batch, query: Tensor) -> Tensor:
        """The four contrasts, on the same choice as forward's."""
        if not self.gamma:
            return super().own_loss(tables, batch, query)
        look_ups = hops.readers(tables.layers, tables.item_rows)
        negative = hops.rows_by_layer(look_ups, self._choose(tables, batch, query))
        positive = torch.stack([look_up(batch.positives) for look_up in look_ups], 1)
        if not self.joint:
            query, positive, negative = query.detach(), positive.detach(), negative.detach()
        relevant = self._relevant(query[:, None], positive)
        alike = self._alike(negative, relevant[:, None])
        p_r, p_ir = ((query[:, None] * x).sum(-1).mean(1, keepdim=True) for x in (relevant, positive - relevant))
        n_r, n_ir = ((query[:, None, None] * x).sum(-1).mean(2) for x in (alike, negative - alike))
        contrasts = softplus(p_ir - p_r).mean(), _any(n_r - n_ir), _any(n_r - p_r), _any(p_ir - n_ir)
        return self.gamma / 4 * torch.stack(contrasts).sum()

    def _relevant(self, user: Tensor, positive: Tensor) -> Tensor:
        gate: Tensor = self.item_gate(positive) + self.user_gate(user)
        return positive * gate.sigmoid()

    def _alike(self, negative: Tensor, relevant: Tensor) -> Tensor:
        gate: Tensor = self.negative_gate(negative) + self.positive_gate(relevant)
        return negative * gate.sigmoid()

    @torch.no_grad()
    def _choose(self, tables: Tables, batch: Batch, query: Tensor) -> Tensor:
        """The candidate that stays in each layer, [B, count, L]."""
        ids, found = self.unseen(batch, self.count * self.pool).view(len(batch), self.count, self.pool), []
        early = 1 - min(1.0, batch.epoch / self.warmup)
        for layer in tables.layers or (tables.items,):
            wanted = self.positive_gate(self._relevant(query, embedding(batch.positives, layer)))
            rows, bias = embedding(ids.flatten(1), layer), (wanted + self.negative_gate.bias)[:, None]
            share = (rows @ self.negative_gate.weight.T).add_(bias).sigmoid_()  # in place: this is most of the cost
            scores = score(query, share.neg_().add_(early).mul_(rows)).view_as(ids)
            found.append(ids.gather(2, scores.argmax(2, keepdim=True)))
        return torch.cat(found, 2)


def _any(gaps: Tensor) -> Tensor:
    """log(1 + sum_k exp(gap_k)), its mean over rows: gaps [B, K]."""
    return torch.cat([gaps.new_zeros(len(gaps), 1), gaps], 1).logsumexp(1).mean()
