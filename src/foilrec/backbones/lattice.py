"""LATTICE: an item graph that is learned from features, exact and sparse, beside the user-item graph."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, normalize

from foilrec.core import Backbone, Batch, Data, Negatives, RowsOf, Tables, batch_rows
from foilrec.errors import at_least, must_hold
from foilrec.faithful import promise
from foilrec.graphs.edges import Fixed
from foilrec.graphs.learned import Built, ItemGraph
from foilrec.graphs.nearest import Search
from foilrec.graphs.sparse import Graph, interaction_graph
from foilrec.graphs.walks import Steps, Walk, some_rows
from foilrec.numerics.kernels import Rows
from foilrec.numerics.rows import squared_once
from foilrec.tables.embeddings import Init, l2_loss, table
from foilrec.tables.late import LateTables

Hop = Callable[[Tensor], Tensor]  # [I, D] -> [I, D] over the item graph


class LATTICE(Backbone):
    """LightGCN, plus items smoothed over a graph that is learned from their features. Zhang et al., MM 2021.

    items = LightGCN(layers) + h / |h| with h = S^hops Q, S = skip * (frozen) + (1 - skip) * (learned) top-k cosine
    graphs: see ItemGraph. In the exact sparse form: only kept cosines are differentiated, and nothing is I x I. The
    learned graph's edges are searched for once an epoch and once an evaluation. Ready-made neighbours of the data set
    serve as the frozen graph.

    dim: width. layers, hops: steps on the two graphs. neighbours: k. skip: share of the frozen graph, .9; at 1 nothing
    is learned but modality weights, and ready-made neighbours suffice. feature_dim: width of transformed features.
    l2_reg: penalty, 0 .. 1e-3. penalise: the rows of layer 0, or the "outputs" as the published code does. reg_batch:
    what its sum is divided by; 0: rows of the batch, published: the configured batch size even in a short last batch.
    interactions: "symmetric" as LightGCN's, or "row", D^-1 (A + 1), as the published code has it. graph_gradient: the
    "first" batch of an epoch alone trains the graph, as published, and later ones use it as it then was; "every" batch
    does at a full projection each. normalise: "mixed" graphs as in the code, or "each" before mixing as in the paper.
    clamp: negative cosines count 0; off, as published, a row that sums below 0 is not a number. train_features: also
    train the feature tables, as the published code does. search: how neighbours are found, "exact" or "approximate"
    (faiss); "auto" is exact up to 100,000 items. init: "xavier" as published, or "normal". faithful: raise if an option
    differs from the published code.
    """

    def __init__(
        self,
        data: Data,
        *,
        dim: int = 64,
        layers: int = 2,
        hops: int = 1,
        neighbours: int = 10,
        skip: float = 0.9,
        feature_dim: int = 64,
        l2_reg: float = 0.0,
        penalise: Literal["inputs", "outputs"] = "inputs",
        reg_batch: int = 0,
        interactions: Literal["symmetric", "row"] = "symmetric",
        graph_gradient: Literal["first", "every"] = "first",
        normalise: Literal["mixed", "each"] = "mixed",
        clamp: bool = True,
        train_features: bool = False,
        search: Search = "auto",
        init: Init = "xavier",
        faithful: bool = False,
    ) -> None:
        super().__init__(data)
        must_hold(
            "lattice",
            **at_least(0, layers=layers, hops=hops, l2_reg=l2_reg, reg_batch=reg_batch),
            **at_least(1, neighbours=neighbours, feature_dim=feature_dim),
            skip=(skip, 0 <= skip <= 1, "in 0 .. 1"),
        )
        chosen = {
            "interactions": (interactions, "row"),
            "penalise": (penalise, "outputs"),
            "reg_batch": (reg_batch if l2_reg else "unused", reg_batch or "the recipe's batch" if l2_reg else "unused"),
            "graph_gradient": (graph_gradient, "first"),
            "normalise": (normalise, "mixed"),
            "clamp": (clamp, False),
            "train_features": (train_features, True),
            "init": (init, "xavier"),
        }
        promise("lattice", faithful, chosen)
        self.users, self.ids = table(data.n_users, dim, init), table(data.n_items, dim, init)
        self.layers, self.hops, self.l2_reg, self.reg_batch = layers, hops, l2_reg, reg_batch
        self.outputs, self.every = penalise == "outputs", graph_gradient == "every"
        self.alike = ItemGraph(
            data, neighbours, skip, feature_dim, search, clamp=clamp, each=normalise == "each", train=train_features
        )
        row = interactions == "row"
        self.graph = RowGraph(data) if row else interaction_graph(data.train, data.n_users, data.n_items)
        self._built: Built | None = None
        self._trained = False  # whether a batch of this epoch has trained the item graph

    def begin_epoch(self, epoch: int) -> None:
        """Searches for this epoch's edges."""
        self._built, self._trained = self.alike.now(), False

    def inputs(self) -> Tensor:
        """The item ids' rows, [I, D]."""
        return self.ids.weight

    def ego(self) -> Tensor:
        """h = S^hops Q, [I, D], before it is made of length 1."""
        return self._semantic(self._item_graph(), self.hops)

    def _semantic(self, hop: Hop, hops: int) -> Tensor:
        h = self.ids.weight
        for _ in range(hops):
            h = hop(h)
        return h

    def _item_graph(self) -> Hop:
        """A hop on the graph of the epoch in training, with gradient where it flows; else as parameters are."""
        if not self.training or self._built is None:
            built = self.alike.now()
            if not self.training:
                return built.matrix
            self._built = built
        built = self._built
        if not torch.is_grad_enabled() or (self._trained and not self.every) or not self.hops:
            return built.matrix
        weights = self.alike.weights(built.learned)
        if weights.requires_grad:
            weights.register_hook(self._arrived)
        return partial(built.edges, weights)

    def _arrived(self, gradient: Tensor) -> None:
        self._trained = True

    def propagate(self, inputs: Tensor | None = None) -> Tables:
        """Both graphs; `inputs` replaces Q on the user side."""
        users, items = self.users.weight, self.ids.weight if inputs is None else inputs
        hop = self._item_graph()
        if not (self.training and Walk.pays(self.graph, self.layers)):
            users, items = self._smooth(users, items, self._unit(hop))
            return Tables(items=items, users=users)
        steps = self.graph.steps() if isinstance(self.graph, RowGraph) else self.graph
        walk, beside = Walk(steps, users, items, self.layers), self._unit_rows(hop)
        return LateTables(
            lambda: self._smooth(users, items, self._unit(hop)),
            walk.users,
            lambda ids: walk.items(ids) + beside(ids),
            lambda: walk.every_item() + self._unit(hop),
        )

    def _unit(self, hop: Hop) -> Tensor:
        return normalize(self._semantic(hop, self.hops), dim=1)

    def _unit_rows(self, hop: Hop) -> RowsOf:
        """Rows of h / |h|, with no more of the last hop than is asked for where the graph is not being trained."""
        if not (isinstance(hop, Fixed) and self.hops):
            whole = self._unit(hop)
            return lambda ids: embedding(ids, whole)
        before = self._semantic(hop, self.hops - 1)
        return lambda ids: normalize(some_rows(hop, before, ids), dim=-1)

    def _smooth(self, users: Tensor, items: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        users, items = self.graph.smooth(users, items, self.layers)
        return users, items + h

    def own_loss(self, tables: Tables, batch: Batch, negatives: Negatives) -> Tensor:
        """The penalty on the rows of users, positives and negatives: half their squares over the batch."""
        if not self.l2_reg:
            return super().own_loss(tables, batch, negatives)
        if self.outputs:
            rows = batch_rows(tables, batch, negatives)
        else:
            rows = [embedding(batch.users, self.users.weight), embedding(batch.positives, self.ids.weight)]
            if negatives.ids is not None:
                rows.append(squared_once(negatives.ids, lambda ids: embedding(ids, self.ids.weight)))
        scale = len(batch) / self.reg_batch if self.reg_batch else 1.0
        return self.l2_reg * scale * l2_loss(*rows)


class RowGraph(nn.Module):
    """D^-1 (A + 1): the user-item graph with self loops whose rows sum to 1."""

    alone_users: Tensor
    alone_items: Tensor

    def __init__(self, data: Data) -> None:
        super().__init__()
        users, items = data.train.unbind(1)
        shares = [
            1 / (1 + torch.bincount(ids, minlength=n).float())
            for ids, n in ((users, data.n_users), (items, data.n_items))
        ]
        self.there = Graph(users, items, shares[0][users], (data.n_users, data.n_items))
        self.back = Graph(items, users, shares[1][items], (data.n_items, data.n_users))
        self.register_buffer("alone_users", shares[0][:, None], persistent=False)
        self.register_buffer("alone_items", shares[1][:, None], persistent=False)

    def by_rows(self, *, turned: bool = False) -> Rows:
        """What users hear of items, or its transpose."""
        return self.there.by_rows(turned=turned)

    def steps(self) -> Steps:
        """A hop, for a walk."""
        into, turned = ((self.there.by_rows(turned=t), self.back.by_rows(turned=t)) for t in (False, True))
        return Steps(into, turned, (self.alone_users, self.alone_items))

    def smooth(self, users: Tensor, items: Tensor, layers: int) -> tuple[Tensor, Tensor]:
        """The mean of layers 0 .. layers of both tables, with gradient."""
        every = [(users, items)]
        for _ in range(layers):
            u, i = every[-1]
            every.append((self.there(i) + self.alone_users * u, self.back(u) + self.alone_items * i))
        of_users, of_items = (torch.stack(side).mean(0) for side in zip(*every, strict=True))
        return of_users, of_items
