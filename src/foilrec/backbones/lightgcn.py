"""LightGCN: vectors smoothed over the user-item graph."""

import torch
from torch import Tensor
from torch.nn.functional import embedding

from foilrec.core import Backbone, Batch, Data, Negatives, Tables
from foilrec.errors import at_least, must_hold
from foilrec.graphs.sparse import interaction_graph
from foilrec.graphs.walks import Walk
from foilrec.numerics.rows import squared_once
from foilrec.tables.embeddings import Init, penalty, table
from foilrec.tables.late import LateTables


class LightGCN(Backbone):
    """Vectors smoothed over the normalised user-item graph, the mean of all layers. He et al., SIGIR 2020, eq. 7-8.

    freedom adds a graph of look-alike items; bprmf is the same without a graph (layers = 0).

    dim: width. layers: hops, 1 .. 4. emb_reg, l2_reg: penalties on the rows of layer 0, never on smoothed ones (MMRec:
    emb_reg 1e-6 .. 1e-2; the authors: l2_reg 1e-4). init: "normal" N(0, 0.1) as the authors have it, "xavier" as MMRec.
    keep_layers: fill Tables.layers with each layer's items, for samplers that mix layers (costs a product more each).
    """

    def __init__(
        self,
        data: Data,
        *,
        dim: int = 64,
        layers: int = 2,
        emb_reg: float = 0.0,
        l2_reg: float = 0.0,
        init: Init = "normal",
        keep_layers: bool = False,
    ) -> None:
        super().__init__(data)
        must_hold("lightgcn", **at_least(0, layers=layers, emb_reg=emb_reg, l2_reg=l2_reg))
        self.users, self.items = table(data.n_users, dim, init), table(data.n_items, dim, init)
        self.layers, self.emb_reg, self.l2_reg, self.keep_layers = layers, emb_reg, l2_reg, keep_layers
        self.graph = interaction_graph(data.train, data.n_users, data.n_items)

    def inputs(self) -> Tensor:
        """The item rows of layer 0, [I, D]."""
        return self.items.weight

    def propagate(self, inputs: Tensor | None = None) -> Tables:
        """Users and items smoothed together."""
        users, items = self.users.weight, self.items.weight if inputs is None else inputs
        if not self.keep_layers:
            if self.training and Walk.pays(self.graph, self.layers):
                steps = Walk(self.graph, users, items, self.layers)
                return LateTables(
                    lambda: self.graph.smooth(users, items, self.layers), steps.users, steps.items, steps.every_item
                )
            users, items = self.graph.smooth(users, items, self.layers)
            return Tables(items=items, users=users)
        layers = [(users, items)]
        for _ in range(self.layers):
            users, items = self.graph(items), self.graph.turn(users)
            layers.append((users, items))
        by_side = [torch.stack(side) for side in zip(*layers, strict=True)]
        return Tables(items=by_side[1].mean(0), users=by_side[0].mean(0), layers=tuple(by_side[1]))

    def own_loss(self, tables: Tables, batch: Batch, negatives: Negatives) -> Tensor:
        """The penalties on the layer-0 rows of users, positives and negatives."""
        if not (self.emb_reg or self.l2_reg):
            return super().own_loss(tables, batch, negatives)
        rows = [embedding(batch.users, self.users.weight), embedding(batch.positives, self.items.weight)]
        if negatives.ids is not None:
            rows.append(squared_once(negatives.ids, lambda ids: embedding(ids, self.items.weight)))
        return penalty(rows, self.emb_reg, self.l2_reg)
