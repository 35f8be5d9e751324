"""LightGCN."""

import torch
from torch import Tensor
from torch.nn.functional import embedding

from foilrec.core import Backbone, Batch, Data, Negatives, Tables
from foilrec.embeddings import Init, emb_loss, l2_loss, table
from foilrec.graphs import interaction_graph


class LightGCN(Backbone):
    """Vectors smoothed over the normalised user-item graph, the mean of all layers. He et al., SIGIR 2020, eq. 7-8.

    freedom adds a graph of look-alike items; bprmf is the same without a graph (layers = 0).

    dim: width. layers: hops, 1 .. 4. emb_reg, l2_reg: penalties on the rows of layer 0, never on smoothed ones (MMRec:
    emb_reg 1e-6 .. 1e-2; the authors: l2_reg 1e-4). init: "normal" N(0, 0.1) as the authors have it, "xavier" as MMRec.
    keep_layers: fill Tables.layers with each layer's items, for samplers that mix layers (costs a product more each).
    """

    def __init__(self, data: Data, *, dim: int = 64, layers: int = 2, emb_reg: float = 0.0, l2_reg: float = 0.0,
                 init: Init = "normal", keep_layers: bool = False) -> None:
        super().__init__(data)
        self.nodes = table(data.n_users + data.n_items, dim, init)  # users, then items
        self.layers, self.emb_reg, self.l2_reg, self.keep_layers = layers, emb_reg, l2_reg, keep_layers
        self.graph = interaction_graph(data.train, data.n_users, data.n_items)

    def inputs(self) -> Tensor:
        """The item rows of layer 0, [I, D]."""
        return self.nodes.weight[self.data.n_users :]

    def propagate(self, inputs: Tensor | None = None) -> Tables:
        """Users and items smoothed together."""
        nodes, sizes = self.nodes.weight, [self.data.n_users, self.data.n_items]
        if inputs is not None:
            nodes = torch.cat([nodes[: self.data.n_users], inputs])
        if not self.keep_layers:
            users, items = self.graph.smooth(nodes, self.layers).split(sizes)
            return Tables(items=items, users=users)
        layers = [nodes]
        for _ in range(self.layers):
            layers.append(self.graph(layers[-1]))
        users, items = torch.stack(layers).mean(0).split(sizes)
        return Tables(items=items, users=users, layers=tuple(layer[self.data.n_users :] for layer in layers))

    def own_loss(self, tables: Tables, batch: Batch, negatives: Negatives) -> Tensor:
        """The penalties on the layer-0 rows of users, positives and negatives."""
        if not (self.emb_reg or self.l2_reg):
            return super().own_loss(tables, batch, negatives)
        places = [batch.users, batch.positives + self.data.n_users]
        if negatives.ids is not None:
            places.append(negatives.ids + self.data.n_users)
        rows = [embedding(place, self.nodes.weight) for place in places]
        return self.emb_reg * emb_loss(*rows) + self.l2_reg * l2_loss(*rows)
