"""FREEDOM: a pruned user-item graph beside a frozen graph of look-alike items."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear, softplus

from foilrec.core import Backbone, Batch, Data, Negatives, Tables
from foilrec.data import Features
from foilrec.errors import PartsDoNotFit, at_least, below_one, must_hold
from foilrec.graphs.nearest import Search, neighbours
from foilrec.graphs.sparse import Graph, interaction_graph, inverse_root_degrees, neighbour_mean, weighted_subset
from foilrec.graphs.walks import Walk
from foilrec.numerics import streams
from foilrec.numerics.principal import principal
from foilrec.numerics.rows import ProjectedDifferences
from foilrec.tables.embeddings import Init, table
from foilrec.tables.late import LateTables


class FREEDOM(Backbone):
    """LightGCN on a graph pruned each epoch, plus items smoothed over a frozen graph of look-alikes.

    Zhou and Shen, MM 2023. items = LightGCN(layers) + S^hops Q with S the mean over each item's `neighbours` nearest by
    cosine, itself included, mixed over the modalities by `shares`. Training walks a graph of which only 1 - prune of
    the edges are left, drawn without replacement in proportion to 1 / sqrt(d_u d_i) and normalised anew; evaluation
    walks the whole one. Ready-made neighbours of the data set are used where it has them.

    dim: width. layers, hops: steps on the two graphs. prune: share of edges dropped, .8 or .9 as published. shares:
    modality -> share, by default .1 for image beside .9 for text as published, and equal shares for other modalities.
    head_weight: weight of the BPR of linear modality heads, 0 (skipped altogether) to 1e-3. train_features: also train
    the feature tables, as the published code does (FREEDOM's «frozen» is the graph); off, the features are constant.
    axes: the heads read constant features wider than this on so many principal axes (128, say), which saves most of a
    step's cost; published: the features whole.
    search: how neighbours are found, "exact" or "approximate" (faiss); "auto" is exact up to 100,000 items.
    init: "xavier" as published, or "normal".
    """

    odds: Tensor

    def __init__(
        self,
        data: Data,
        *,
        dim: int = 64,
        layers: int = 2,
        hops: int = 1,
        neighbours: int = 10,
        prune: float = 0.8,
        shares: Mapping[str, float] | None = None,
        head_weight: float = 0.0,
        train_features: bool = False,
        axes: int | None = None,
        search: Search = "auto",
        init: Init = "xavier",
    ) -> None:
        super().__init__(data)
        limits = at_least(0, layers=layers, hops=hops, head_weight=head_weight)
        must_hold("freedom", **limits, **at_least(1, neighbours=neighbours, axes=axes), **below_one(prune=prune))
        self.users, self.ids = table(data.n_users, dim, init), table(data.n_items, dim, init)
        self.layers, self.hops, self.prune, self.head_weight = layers, hops, prune, head_weight
        self.whole = interaction_graph(data.train, data.n_users, data.n_items)
        self.graph = self.whole
        self.alike = look_alikes(data, neighbours, shares, search)
        self.register_buffer("odds", inverse_root_degrees(data.train, data.n_users, data.n_items), persistent=False)
        self.heads, self.content = nn.ModuleDict(), nn.ModuleDict()
        self.frozen: dict[str, Features] = {}
        if head_weight:
            self._add_heads(dim, train_features, axes)

    def _add_heads(self, dim: int, train_features: bool, axes: int | None) -> None:
        if not self.data.features:
            raise PartsDoNotFit(
                "freedom with head_weight above 0 projects item features, and this data set has none: "
                "set head_weight = 0."
            )
        if train_features and axes:
            raise PartsDoNotFit("freedom's axes are of constant features: train_features must be off then.")
        for name, modality in self.data.features.items():
            self.frozen[name] = narrowed(modality, axes)
            self.heads[name] = nn.Linear(self.frozen[name].dim, dim, bias=False)
            if train_features:
                self.content[name] = nn.Embedding.from_pretrained(modality.all(), freeze=False)

    def begin_epoch(self, epoch: int) -> None:
        """Draws this epoch's edges and builds their graph."""
        if not self.prune:
            return
        count = int((1 - self.prune) * len(self.data.train))
        kept = weighted_subset(self.odds.cpu(), max(1, count), streams.generator(self.seed, "prune", epoch))
        graph = interaction_graph(self.data.train[kept], self.data.n_users, self.data.n_items)
        self.graph = graph.to(self.users.weight.device)

    def inputs(self) -> Tensor:
        """The item ids' rows, [I, D]."""
        return self.ids.weight

    def ego(self) -> Tensor:
        """S^hops Q, [I, D]: what CCDRec fuses content into."""
        return self.semantic(self.hops)

    def propagate(self, inputs: Tensor | None = None) -> Tables:
        """Both graphs: the pruned one in training, the whole one otherwise. `inputs` replaces Q on the user side."""
        users, items = self.users.weight, self.ids.weight if inputs is None else inputs
        if not (self.training and self.hops and Walk.pays(self.graph, self.layers)):
            users, items = self._smooth(users, items)
            return Tables(items=items, users=users)
        walk = Walk(self.graph, users, items, self.layers, self.alike, self.semantic(self.hops - 1))
        return LateTables(lambda: self._smooth(users, items), walk.users, walk.items, walk.every_item)

    def _smooth(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        graph = self.graph if self.training else self.whole
        users, items = graph.smooth(users, items, self.layers)
        return users, items + self.semantic(self.hops)

    def semantic(self, hops: int) -> Tensor:
        """S^hops Q, [I, D]: what the look-alikes bring."""
        alike = self.ids.weight
        for _ in range(hops):
            alike = self.alike(alike)
        return alike

    def use_row_gradients(self) -> bool:
        """Trained feature tables are looked up; the others are walked on."""
        self.row_gradients = bool(self.content)
        return self.row_gradients

    def own_loss(self, tables: Tables, batch: Batch, negatives: Negatives) -> Tensor:
        """The heads' BPR on the batch's rows: head_weight * sum_m softplus(h_u . (z_n - z_p)), mean over negatives."""
        if not self.head_weight or negatives.ids is None:
            return super().own_loss(tables, batch, negatives)
        query = tables.user_rows(batch.users)
        losses = [self._head_loss(name, query, batch.positives, negatives.ids) for name in self.heads]
        return self.head_weight * torch.stack(losses).sum()

    def _head_loss(self, name: str, query: Tensor, positives: Tensor, ids: Tensor) -> Tensor:
        """h_u . (z_n - z_p) = h_u . W (F_n - F_p): a bias would cancel, so the head has none."""
        both = torch.cat([positives[:, None], ids], 1)
        if ids.shape[1] == 1:  # one difference a row is less work than two projections
            gap = (query * self._differences(name, ids[:, 0], positives)).sum(1)[:, None]
        else:
            distinct, place = both.unique(return_inverse=True)
            projected = self.heads[name](self._rows(name, distinct))
            scores = torch.bmm(embedding(place, projected), query[:, :, None]).squeeze(2)
            gap = scores[:, 1:] - scores[:, :1]
        has = self.data.features[name].has(both)
        usable = (has[:, :1] & has[:, 1:]).float()
        return (softplus(gap) * usable).mean(1).sum() / len(query)

    def _differences(self, name: str, plus: Tensor, minus: Tensor) -> Tensor:
        """W (F_plus - F_minus), [B, D]."""
        weight: Tensor = self.heads[name].weight  # type: ignore[assignment]
        if name not in self.content:
            return linear(self.frozen[name].differences(plus, minus), weight)
        if self.row_gradients:
            table = self.content[name].weight
            made: Tensor = ProjectedDifferences.apply(table, weight, plus, minus)  # type: ignore[no-untyped-call]
            return made
        return linear(self._rows(name, plus) - self._rows(name, minus), weight)

    def _rows(self, name: str, ids: Tensor) -> Tensor:
        if name in self.content:
            return embedding(ids, self.content[name].weight)  # type: ignore[arg-type]
        return self.frozen[name].of(ids)


def narrowed(features: Features, axes: int | None) -> Features:
    """Features on so many principal axes where they are wider; the mean that is taken away cancels in differences."""
    if not axes or features.dim <= axes:
        return features
    return replace(features, rows=principal(features.all(), axes, features.present).numpy())


def look_alikes(data: Data, k: int, shares: Mapping[str, float] | None, search: Search = "auto") -> Graph:
    """S: the share-weighted mean over each item's k nearest in every modality it has, as one graph [I, I]."""
    names = sorted({*data.features, *data.neighbours})
    if not names:
        raise PartsDoNotFit(
            "freedom needs item features or ready-made neighbours, and this data set has neither: take lightgcn."
        )
    by_name = _shares(names, shares)
    names = [name for name in names if by_name[name] > 0]
    present = torch.stack([_present(data, name) for name in names])
    mix = present * torch.tensor([by_name[name] for name in names])[:, None]
    mix = torch.where(present.any(0), mix / mix.sum(0).clamp(min=1e-12), 1 / len(names))
    parts = [
        neighbour_mean(neighbours(data, name, k, search).ids, share) for name, share in zip(names, mix, strict=True)
    ]
    rows, columns, values = (torch.cat(column) for column in zip(*parts, strict=True))
    return Graph(rows, columns, values, (data.n_items, data.n_items))


def _shares(names: list[str], shares: Mapping[str, float] | None) -> dict[str, float]:
    if shares is None:
        return {"image": 0.1, "text": 0.9} if names == ["image", "text"] else dict.fromkeys(names, 1 / len(names))
    unknown = [name for name in shares if name not in names]
    known = not unknown and min(shares.values(), default=0) >= 0 and sum(shares.values()) > 0
    must_hold(
        "freedom",
        shares=(dict(shares), known, f"of the data's modalities ({', '.join(names)}), none below 0 and one above"),
    )
    return {name: shares.get(name, 0.0) for name in names}


def _present(data: Data, name: str) -> Tensor:
    if name not in data.features:
        return torch.ones(data.n_items, dtype=torch.bool)
    return data.features[name].has(torch.arange(data.n_items))
