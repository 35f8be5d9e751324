"""KGPolicy: negatives found by a learned walk from the positive over a graph of items."""

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, leaky_relu

from foilrec.core import Backbone, Batch, Data, Negatives, Sampler, Tables, rows_of
from foilrec.errors import PartsDoNotFit, at_least, must_hold
from foilrec.graphs.nearest import neighbours
from foilrec.numerics.chances import gumbel


class KGPolicy(Sampler):
    """A policy that walks from the positive along edges of the items, and learns by REINFORCE. Wang et al., WWW 2020.

    From item e the next is e' with pi(e'|e) = softmax over e's neighbours of (W_u u)^T rho((W_e e) * e') + b_kind, rho
    LeakyReLU. The item after `steps` moves is the negative. own_loss is - sum_t discount^t (R_t - baseline) log pi_t
    with reward R_t = <u, e_t> + <e_i, e_t>: what the recommender likes, and what is like the positive. Everything but
    the policy is detached. An edge joins an item to its nearest in one modality (the data's ready-made graph, or found
    by cosine): it stands for the two hops item, attribute, item of a knowledge graph, and kind is the modality. The
    last move takes no item that the user took; where none is left an evenly drawn item stands in and teaches nothing.
    Unlike the published code, the policy looks at the recommender's vectors and has none of its own, walks are drawn
    from it (there: its mode, and at the second hop the recommender's best of its first 32), and each reward belongs to
    its own move. The cost is bounded by `degree`, whatever the graph. A walk stays near the positive where dns looks
    everywhere; ccdrec finds likeness by diffusion. log_q is absent: many walks end at one item.

    steps: moves, 1 .. 3. degree: neighbours by each modality, 4 .. 32. dim: width of the backbone's vectors. discount:
    .9 .. 1. baseline: take what the policy expected off the reward, which leaves the gradient's mean as it is (False as
    published). likeness: weight of <e_i, e_t> in the reward, 0 .. 1.
    """

    edges: Tensor
    kinds: Tensor

    def __init__(
        self,
        data: Data,
        *,
        steps: int = 2,
        degree: int = 4,
        dim: int = 64,
        discount: float = 0.99,
        baseline: bool = True,
        likeness: float = 1.0,
    ) -> None:
        super().__init__(data)
        must_hold(
            "kgpolicy",
            **at_least(1, steps=steps, degree=degree, dim=dim),
            **at_least(0, likeness=likeness),
            discount=(discount, 0 <= discount <= 1, "in 0 .. 1"),
        )
        self.steps, self.discount, self.baseline, self.likeness = steps, discount, baseline, likeness
        names = sorted({*data.features, *data.neighbours})
        found = [_nearest(data, name, degree) for name in names]
        edges = torch.cat(found, 1) if found else torch.empty(data.n_items, 0, dtype=torch.long)
        self.register_buffer("edges", edges, persistent=False)
        kinds = torch.repeat_interleave(torch.arange(len(names)), torch.tensor([f.shape[1] for f in found]).long())
        self.register_buffer("kinds", kinds, persistent=False)
        self.of_user, self.of_item = (nn.Parameter(torch.eye(dim)) for _ in range(2))
        self.of_kind = nn.Parameter(torch.zeros(max(1, len(names))))

    def begin_epoch(self, epoch: int, model: Backbone, tables: Tables) -> None:
        """Looks whether there is a graph, and whether the policy is as wide as the backbone's vectors."""
        if not self.edges.shape[1]:
            raise PartsDoNotFit("kgpolicy walks on neighbour graphs, and this data has neither graphs nor features.")
        width, dim = tables.items.shape[1], len(self.of_user)
        if width != dim:
            raise PartsDoNotFit(f"kgpolicy is {dim} wide and the backbone's vectors {width}: set sampler.dim.")

    @torch.no_grad()
    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        """ids [B, 1]: where the walks end."""
        spare, at = self.unseen(batch, 1, "elsewhere")[:, 0], batch.positives
        nowhere = torch.ones_like(at, dtype=torch.bool)
        for step in range(self.steps if self.edges.shape[1] else 0):
            at, nowhere, _ = self._move(tables.items, batch, query, at, step)
        return Negatives(ids=torch.where(nowhere, spare, at)[:, None])

    def own_loss(self, tables: Tables, batch: Batch, query: Tensor) -> Tensor:
        """REINFORCE along the walks that forward took, on detached vectors."""
        with torch.no_grad():
            items, query = tables.items.detach(), query.detach()
            wish = query + self.likeness * items[batch.positives]
        at, total = batch.positives, query.new_zeros(())
        for step in range(self.steps):
            at, none, (place, log_pi, rows) = self._move(items, batch, query, at, step)
            reward = (rows * wish[:, None]).sum(2)
            gain = reward.gather(1, place)
            if self.baseline:
                gain = gain - (log_pi.detach().exp() * reward).sum(1, keepdim=True)
            moved = (gain * log_pi.gather(1, place)).squeeze(1).masked_fill(none, 0)
            total = total - self.discount**step * moved.mean()
        return total

    def _move(
        self, items: Tensor, batch: Batch, query: Tensor, at: Tensor, step: int
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
        """One move from items at [B]: where to, who has nowhere to go, and for learning the neighbour's place [B, 1],
        log pi [B, E] and rows [B, E, D]."""
        near = self.edges[at]
        closed = near == at[:, None]
        if step == self.steps - 1:
            closed |= self.data.seen.contains(batch.users, near)
        none = closed.all(1)
        rows = embedding(near, items)
        like = leaky_relu((items[at] @ self.of_item.T)[:, None] * rows)
        logits = torch.bmm(like, (query @ self.of_user.T)[:, :, None]).squeeze(2) + self.of_kind[self.kinds]
        log_pi = logits.masked_fill(closed & ~none[:, None], -1e9).log_softmax(1)
        place = (log_pi.detach() + gumbel(rows_of(batch), self.key(batch, f"move {step}"), near.shape[1])).argmax(1)
        to = torch.where(none, at, near.gather(1, place[:, None])[:, 0])
        return to, none, (place[:, None], log_pi, rows)


def _nearest(data: Data, name: str, degree: int) -> Tensor:
    """Each item's nearest in a modality, itself left out: [I, at most degree]."""
    most = degree + 1 if name not in data.neighbours else min(degree + 1, data.neighbours[name].ids.shape[1])
    ids = neighbours(data, name, most).ids.long()
    own = ids == torch.arange(len(ids))[:, None]  # a ready-made graph may lack it
    return ids.gather(1, own.byte().argsort(dim=1, stable=True))[:, :-1]
