"""VBPR: half of an item's vector comes from its features."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from foilrec.core import Backbone, Batch, Data, Negatives, Tables, batch_rows
from foilrec.errors import at_least, must_hold
from foilrec.tables.embeddings import Init, penalty, table
from foilrec.tables.late import LateTables


class VBPR(Backbone):
    """Half of an item's vector is free, half a projection of its features. He and McAuley, AAAI 2016; MMRec's variant.

    item = [q_i ; W F_i + b] with F all modalities side by side, user table of twice the width; no visual bias vector.
    Features are frozen. An item that lacks a modality has zeros in its place; one that has none gets a zero half.
    Can encode items that are only described: their free half is that of the item they are variants of.

    dim: width of each half. modalities: which ones, all by default. emb_reg, l2_reg: penalties on the rows of users,
    positives and negatives (MMRec: emb_reg 1e-5 .. 2). init: "xavier" as in MMRec, or "normal". unknown: what stands
    for the free half of a described item that is a variant of none: the "mean" of the table, "zero", or a row that is
    "learned" from such items.
    """

    def __init__(
        self,
        data: Data,
        *,
        dim: int = 64,
        modalities: tuple[str, ...] = (),
        emb_reg: float = 0.0,
        l2_reg: float = 0.0,
        init: Init = "xavier",
        unknown: Literal["mean", "zero", "learned"] = "mean",
    ) -> None:
        super().__init__(data)
        must_hold("vbpr", **at_least(1, dim=dim), **at_least(0, emb_reg=emb_reg, l2_reg=l2_reg))
        self.modalities = data.modalities(modalities or None, "vbpr projects", "take bprmf or lightgcn")
        self.users, self.ids = table(data.n_users, 2 * dim, init), table(data.n_items, dim, init)
        self.linear = nn.Linear(sum(data.features[m].dim for m in self.modalities), dim)
        nn.init.xavier_normal_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.emb_reg, self.l2_reg, self.unknown = emb_reg, l2_reg, unknown
        self.learned = nn.Parameter(torch.zeros(dim)) if unknown == "learned" else None

    def features_of(self, ids: Tensor) -> Tensor:
        """The frozen features of some items side by side, [n, F]."""
        return torch.cat([self.data.features[m].of(ids) for m in self.modalities], 1)

    def present(self, ids: Tensor) -> Tensor:
        """Whether each item has any modality, [n, 1]."""
        return torch.stack([self.data.features[m].has(ids) for m in self.modalities]).any(0)[:, None]

    def project(self, features: Tensor, present: Tensor | None = None) -> Tensor:
        """W F + b, zero where there is nothing to project: [..., F] -> [..., dim]."""
        made: Tensor = self.linear(features)
        return made if present is None else made * present

    def inputs(self) -> Tensor:
        """The free halves, [I, dim]."""
        return self.ids.weight

    def propagate(self, inputs: Tensor | None = None) -> Tables:
        """Tables whose items are composed when asked for, so that a step projects no more than the batch's features."""
        users, free = self.users.weight, self.ids.weight if inputs is None else inputs

        def compose(ids: Tensor) -> Tensor:
            distinct, place = ids.unique(return_inverse=True)
            content = self.project(self.features_of(distinct), self.present(distinct))
            return torch.cat([free[distinct], content], 1)[place]

        everything = torch.arange(self.data.n_items, device=free.device)
        return LateTables(lambda: (users, compose(everything)), lambda ids: embedding(ids, users), compose)

    def encode(self, features: Mapping[str, Tensor], base: Tensor | None = None) -> Tensor:
        """Vectors of described items: the free half of `base`, or of `unknown`, beside their features' projection."""
        content = self.project(torch.cat([features[m] for m in self.modalities], -1))
        free = self._unknown().expand_as(content) if base is None else embedding(base, self.ids.weight)
        return torch.cat([free, content], -1)

    def _unknown(self) -> Tensor:
        if self.learned is not None:
            return self.learned
        mean = self.ids.weight.mean(0)
        return mean if self.unknown == "mean" else torch.zeros_like(mean)

    def own_loss(self, tables: Tables, batch: Batch, negatives: Negatives) -> Tensor:
        """The penalties on the rows of users, positives and negatives."""
        if not (self.emb_reg or self.l2_reg):
            return super().own_loss(tables, batch, negatives)
        rows = batch_rows(tables, batch, negatives)
        return penalty(rows, self.emb_reg, self.l2_reg)
