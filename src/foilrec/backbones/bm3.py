"""BM3: users, items and content drawn together by their own dropped-out views; no negatives."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, embedding

from foilrec.core import Backbone, Batch, Data, Negatives, Tables
from foilrec.errors import PartsDoNotFit, at_least, below_one, must_hold
from foilrec.faithful import promise
from foilrec.graphs.sparse import interaction_graph
from foilrec.numerics import streams
from foilrec.tables.embeddings import Init, emb_loss, l2_loss, table
from foilrec.tables.late import LateTables


class Views(LateTables):
    """Predicted vectors, made for the rows that are asked for, and what they are predicted from: the targets."""

    def __init__(self, predictor: nn.Module, users: Tensor, items: Tensor) -> None:
        super().__init__(
            lambda: (predictor(users), predictor(items)),
            lambda ids: predictor(embedding(ids, users)),
            lambda ids: predictor(embedding(ids, items)),
        )
        self.smooth_users, self.smooth_items = users, items


class BM3(Backbone):
    """Bootstrapped multi-modal recommendation. Zhou et al., WWW 2023.

    users and items = LightGCN(layers), items with their free rows added once more; scores are f(user) . f(item) with
    one linear predictor f. A target x' is x with entries dropped at random, without gradient. With C = 1 - cosine,
    means over the batch, and z_m a linear map of modality m:

    loss = C(f(u), i') + C(f(i), u') + content_weight * sum_m [C(f(z_m), i') + C(f(z_m), z_m')] + penalties

    that is: interactions, between modalities, within each. An item counts in the terms of modalities that it has.
    No negatives, unless ranking_weight asks for the ranking loss too, on the same scores.

    dim: width. layers: 1 or 2. dropout: share of a target's entries dropped, .3 or .5. content_weight: of the terms
    with content, 2 as published. emb_reg: the published code's penalty, the unsquared norms of both smoothed tables
    over the number of items, .1 or .01. l2_reg: squares of the batch's smoothed rows instead. ranking_weight: how
    much the ranking loss counts, 0 as published: then the sampler is not asked. train_features: also train the feature
    tables, as the published code does. init: "xavier" as published, or "normal". faithful: raise if an option differs
    from the published code.
    """

    def __init__(
        self,
        data: Data,
        *,
        dim: int = 64,
        layers: int = 1,
        dropout: float = 0.5,
        content_weight: float = 2.0,
        emb_reg: float = 0.1,
        l2_reg: float = 0.0,
        ranking_weight: float = 0.0,
        train_features: bool = False,
        init: Init = "xavier",
        faithful: bool = False,
    ) -> None:
        super().__init__(data)
        chosen = {
            "content_weight": (content_weight, 2.0),
            "l2_reg": (l2_reg, 0.0),
            "ranking_weight": (ranking_weight, 0.0),
            "train_features": (train_features, True),
            "init": (init, "xavier"),
        }
        promise("bm3", faithful, chosen)
        limits = at_least(0, layers=layers, content_weight=content_weight, emb_reg=emb_reg, l2_reg=l2_reg)
        must_hold("bm3", **limits, **at_least(0, ranking_weight=ranking_weight), **below_one(dropout=dropout))
        if not data.features:
            raise PartsDoNotFit("bm3 aligns item features, and this data set has none: take lightgcn.")
        self.users, self.ids = table(data.n_users, dim, init), table(data.n_items, dim, init)
        self.predictor = _linear(dim, dim)
        self.heads = nn.ModuleDict({name: _linear(modality.dim, dim) for name, modality in data.features.items()})
        self.content = nn.ModuleDict()
        for name, modality in data.features.items() if train_features else ():
            self.content[name] = nn.Embedding.from_pretrained(modality.all(), freeze=False)
        self.layers, self.dropout, self.content_weight = layers, dropout, content_weight
        self.emb_reg, self.l2_reg, self.ranking_weight = emb_reg, l2_reg, ranking_weight
        self.graph = interaction_graph(data.train, data.n_users, data.n_items)

    def inputs(self) -> Tensor:
        """The item ids' rows, [I, D]."""
        return self.ids.weight

    def propagate(self, inputs: Tensor | None = None) -> Tables:
        """Predicted users and items; `inputs` replaces the item rows that are smoothed and those that are added."""
        free = self.ids.weight if inputs is None else inputs
        users, items = self.graph.smooth(self.users.weight, free, self.layers)
        return Views(self.predictor, users, items + free)

    def use_row_gradients(self) -> bool:
        """Trained feature tables are looked up; the others are walked on."""
        self.row_gradients = bool(self.content)
        return self.row_gradients

    def own_loss(self, tables: Tables, batch: Batch, negatives: Negatives) -> Tensor:
        """The three terms and the penalties."""
        assert isinstance(tables, Views)
        users, items = embedding(batch.users, tables.smooth_users), embedding(batch.positives, tables.smooth_items)
        draw = streams.of_step(self.seed, "dropout", batch.epoch, batch.first)
        user_target, item_target = self._target(users, draw), self._target(items, draw)
        loss = (
            2
            - cosine_similarity(tables.user_rows(batch.users), item_target).mean()
            - cosine_similarity(tables.item_rows(batch.positives), user_target).mean()
        )
        for name in self.heads:
            loss = loss + self.content_weight * self._content_loss(name, batch.positives, item_target, draw)
        if self.emb_reg:  # the sum of both norms over the number of items
            loss = loss + self.emb_reg * emb_loss(tables.smooth_items, tables.smooth_users)
        return loss + self.l2_reg * l2_loss(users, items) if self.l2_reg else loss

    def _content_loss(self, name: str, items: Tensor, target: Tensor, draw: torch.Generator) -> Tensor:
        """C(f(z), i') + C(f(z), z'), mean over the items that have the modality."""
        distinct, place = items.unique(return_inverse=True)  # popular items are projected once
        projected = self.heads[name](self._rows(name, distinct))
        made, predicted = embedding(place, projected), embedding(place, self.predictor(projected))
        near = cosine_similarity(predicted, target) + cosine_similarity(predicted, self._target(made, draw))
        modality = self.data.features[name]
        if modality.present is None:
            return 2 - near.mean()
        has = modality.has(items)
        return ((2 - near) * has).sum() / has.sum().clamp(min=1)

    def _rows(self, name: str, ids: Tensor) -> Tensor:
        if name in self.content:
            return embedding(ids, self.content[name].weight, sparse=self.row_gradients)  # type: ignore[arg-type]
        return self.data.features[name].of(ids)

    def _target(self, x: Tensor, draw: torch.Generator) -> Tensor:
        """x with entries dropped, without gradient; not scaled up again, which a cosine would not see."""
        kept = torch.rand(x.shape, generator=draw) >= self.dropout
        return x.detach() * kept.to(x.device)


def _linear(width: int, dim: int) -> nn.Linear:
    """A linear map that starts Xavier-normal."""
    made = nn.Linear(width, dim)
    nn.init.xavier_normal_(made.weight)
    return made
