"""MixGCF's negatives: made by mixing the positive into candidates, and candidates across layers."""

import torch
from torch import Tensor

from foilrec.core import Backbone, Batch, Data, Negatives, Sampler, Tables, rows_of
from foilrec.errors import must_hold
from foilrec.negatives import hops
from foilrec.numerics.chances import chances


class MixGCF(Sampler):
    """A point that no item is, between the positive and the hardest candidate of every layer. Huang et al., KDD 2021.

    Of M candidates, in each layer l (eq. 5-7): n'_m = a_l p^(l) + (1 - a_l) n_m^(l) with a_l ~ U(0, 1), one a row and
    layer; the m with the largest <u, n'_m> stays, and the negative is the layers' mean, as LightGCN pools. a_l being
    the same for all candidates, the largest <u, n'_m> is at the largest <u, n_m>: only that one is gathered. Gradient
    flows into the layers of the positive and of the chosen items, none into the choice. A backbone that has layers must
    show them (backbone.keep_layers = true); one without (freedom, lattice, bprmf) is mixed in its final table, as if
    that were its only layer. Penalties that a backbone puts on negatives fall away: vectors are no items. dns is the
    case alpha = (0, 0) with one layer; ccdrec makes no point up.

    pool: candidates a negative, 8 .. 64. count: negatives a row, 1 .. 8, each of its own candidates and a_l. alpha:
    between which two numbers of 0 .. 1 a_l is drawn; (1, 1) is the positive itself.
    """

    def __init__(self, data: Data, *, pool: int = 16, count: int = 1, alpha: tuple[float, float] = (0.0, 1.0)) -> None:
        super().__init__(data)
        must_hold(
            "mixgcf",
            pool=(pool, pool >= 1, "at least 1"),
            count=(count, count >= 1, "at least 1"),
            alpha=(alpha, len(alpha) == 2 and 0 <= alpha[0] <= alpha[1] <= 1, "two numbers that rise in 0 .. 1"),
        )
        self.pool, self.count, self.low, self.high = pool, count, float(alpha[0]), float(alpha[1])

    def begin_epoch(self, epoch: int, model: Backbone, tables: Tables) -> None:
        """Looks whether the backbone shows its layers."""
        hops.need_layers(model, "mixgcf")

    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        """vectors [B, count, D], with gradient while the sampler is in training mode."""
        with torch.no_grad():
            layers = tables.layers or (tables.items,)
            chosen = hops.hardest(query, layers, self.unseen(batch, self.count * self.pool), self.count)
        share = chances(rows_of(batch), self.key(batch, "mix"), self.count * len(layers)).to(query.dtype)
        share = (self.low + (self.high - self.low) * share).view_as(chosen)[..., None]
        with torch.set_grad_enabled(self.training or torch.is_grad_enabled()):
            look_ups = hops.readers(tables.layers, tables.item_rows)
            negative = hops.rows_by_layer(look_ups, chosen)
            positive = torch.stack([look_up(batch.positives) for look_up in look_ups], 1)[:, None]
            return Negatives(vectors=torch.lerp(negative, positive.expand_as(negative), share).mean(2))
