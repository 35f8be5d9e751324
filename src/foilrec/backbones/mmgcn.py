"""MMGCN: a graph network of its own for every modality, with users who have tastes in each."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, leaky_relu, linear

from foilrec.core import Backbone, Batch, Data, Negatives, Tables
from foilrec.errors import at_least, must_hold
from foilrec.faithful import promise
from foilrec.graphs.sparse import Graph
from foilrec.tables.embeddings import Init, table
from foilrec.tables.projected import Projected

USERS, ITEMS = 0, 1
Pair = tuple[Tensor, Tensor]  # of users and of items


class MMGCN(Backbone):
    """One graph network a modality, where users start from a table of tastes and items from their features.

    Wei et al., MM 2019. x starts as rownorm([tastes_m ; MLP_m(F_m)]); a layer is h = leaky(mean over neighbours of
    x W), x' = leaky(x L + c) + id, x = leaky(G [h ; x'] + g), with one id table for users and items that all
    modalities and layers share; the vectors are the mean over modalities. Features are frozen. An item that lacks a
    modality sends no message in that network's first layer, whose means are over those that have it, and its x' there
    is its id alone.

    dim: width. layers: 3, whatever the published code is told. latent: modality -> width of its MLP, 0 to start from
    the features as they are; by default 256 for image and 0 for others, as published. tables: "trained", or "frozen":
    in the published code id and tastes are no parameters, and stay as they were drawn. combine: "concat" as above, or
    "add", G (h + x'); the published code has both and always runs the first. merge: "mean" over modalities as in the
    code, or "sum" as in the paper, which is the same but for the scale of scores. reg: weight of the mean square of the
    batch's id rows and of image's tastes, 0 .. .1. modalities: which ones, all by default. axes: put wide features
    on so many principal axes first (128, say), which saves much of a step's cost; published: whole. init: "xavier", or
    "normal". faithful: raise if an option differs from what was published: frozen tables, concat, mean, 3 layers.
    """

    def __init__(
        self,
        data: Data,
        *,
        dim: int = 64,
        layers: int = 3,
        latent: Mapping[str, int] | None = None,
        tables: Literal["trained", "frozen"] = "trained",
        combine: Literal["concat", "add"] = "concat",
        merge: Literal["mean", "sum"] = "mean",
        reg: float = 0.0,
        modalities: tuple[str, ...] | None = None,
        axes: int | None = None,
        init: Init = "xavier",
        faithful: bool = False,
    ) -> None:
        super().__init__(data)
        chosen = {
            "tables": (tables, "frozen"),
            "combine": (combine, "concat"),
            "merge": (merge, "mean"),
            "layers": (layers, 3),
            "latent": (latent, None),
            "axes": (axes, None),
        }
        promise("mmgcn", faithful, chosen)
        must_hold("mmgcn", **at_least(1, layers=layers), **at_least(0, reg=reg))
        names = data.modalities(modalities, "mmgcn walks on", "take lightgcn")
        users, items = data.train.unbind(1)
        self.ids = nn.ModuleList([table(n, dim, init) for n in (data.n_users, data.n_items)])
        self.ids.requires_grad_(tables == "trained")
        self.to_users = Graph(users, items, 1 / torch.bincount(users)[users], (data.n_users, data.n_items))
        self.to_items = Graph(items, users, 1 / data.popularity[items], (data.n_items, data.n_users))
        self.towers = nn.ModuleDict()
        for name in names:
            width, modality = _width(name, latent), data.features[name]
            content = Projected(modality.all(), modality.present, width, axes=axes, unit=not width)
            self.towers[name] = Tower(content, self.to_users, dim, layers, combine == "concat", init)
            self.towers[name].tastes.requires_grad_(tables == "trained")
        self.depth, self.reg = layers, reg
        self.scale = 1 / len(names) if merge == "mean" else 1.0

    def inputs(self) -> Tensor:
        """The id rows of items, [I, D], which every layer adds."""
        made: Tensor = self.ids[1].weight  # type: ignore[assignment]
        return made

    def propagate(self, inputs: Tensor | None = None) -> Tables:
        """Users and items after all layers; `inputs` stands in for the items' id rows."""
        ids = self._user_ids(), self.inputs() if inputs is None else inputs
        towers: list[Tower] = list(self.towers.values())  # type: ignore[arg-type]
        states = [tower.start() for tower in towers]
        for layer in range(self.depth):
            states = self._layer(layer, towers, states, ids)
        users, items = (torch.stack(side).sum(0) * self.scale for side in zip(*states, strict=True))
        return Tables(items=items, users=users)

    def _layer(self, layer: int, towers: list["Tower"], states: list[Pair], ids: Pair) -> list[Pair]:
        """One layer of all modalities, whose messages share one product with each graph."""
        users = [tower.maps(layer, USERS, x) for tower, (x, _) in zip(towers, states, strict=True)]
        items = [tower.maps(layer, ITEMS, x) for tower, (_, x) in zip(towers, states, strict=True)]
        to_users = self.to_users(torch.cat([sent for sent, _ in items], 1)).chunk(len(towers), 1)
        to_items = self.to_items(torch.cat([sent for sent, _ in users], 1)).chunk(len(towers), 1)
        return [
            (
                tower.merge(layer, USERS, to_users[k], users[k][1] + ids[USERS]),
                tower.merge(layer, ITEMS, to_items[k], items[k][1] + ids[ITEMS]),
            )
            for k, tower in enumerate(towers)
        ]

    def _user_ids(self) -> Tensor:
        made: Tensor = self.ids[0].weight  # type: ignore[assignment]
        return made

    def own_loss(self, tables: Tables, batch: Batch, negatives: Negatives) -> Tensor:
        """reg * (mean of id_u^2 + id_i^2 over the batch's pairs + mean of tastes^2, image's where there is one)."""
        if not self.reg:
            return super().own_loss(tables, batch, negatives)
        items = batch.positives[:, None]
        if negatives.ids is not None:
            items = torch.cat([items, negatives.ids], 1)
        rows = embedding(batch.users, self._user_ids())[:, None], embedding(items, self.inputs())
        first = self.towers["image" if "image" in self.towers else next(iter(self.towers))]
        tastes: Tensor = first.tastes.weight  # type: ignore[union-attr, assignment]
        return self.reg * (rows[0].square().mean() + rows[1].square().mean() + tastes.square().mean())


class Tower(nn.Module):
    """The network of one modality: where it starts, and the maps of its layers. Features are kept, not learned."""

    short: Tensor | None

    def __init__(self, content: Projected, graph: Graph, dim: int, layers: int, concat: bool, init: Init) -> None:
        super().__init__()
        self.content, self.concat, self.tastes = content, concat, table(graph.shape[0], content.width, init)
        short = None
        if content.has is not None:
            share = graph(content.has.float())  # of each user's items, those that have it
            short = torch.where(share > 0, 1 / share, 0.0)
        self.register_buffer("short", short, persistent=False)
        widths = [content.width, *[dim] * (layers - 1)]
        self.mixes = nn.ModuleList([nn.Linear(dim * (1 + concat), dim) for _ in widths])
        self.own = nn.ModuleList([nn.Linear(w, dim) for w in widths])
        self.sent = nn.ParameterList([nn.init.xavier_normal_(torch.empty(dim, w)) for w in widths])

    def start(self) -> tuple[Tensor, Tensor]:
        """Tastes [U, width] and MLP(F) [I, width], zero where an item lacks the modality; maps() norms their rows."""
        return self.tastes.weight, self.content()

    def maps(self, layer: int, side: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """What users or items send, x W, and their own part leaky(x L + c), before their id."""
        own: nn.Linear = self.own[layer]  # type: ignore[assignment]
        both = linear(x, torch.cat([self.sent[layer], own.weight]))
        if layer == 0:  # rownorm(x) W = (x W) / |x|: fewer passes over the wide rows
            both = both / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp(min=1e-12)
        sent, mine = both.chunk(2, 1)
        mine = leaky_relu(mine + own.bias)
        has = self.content.has if layer == 0 and side == ITEMS else None
        return sent, mine if has is None else mine * has

    def merge(self, layer: int, side: int, message: Tensor, own: Tensor) -> Tensor:
        """leaky(G [h ; x'] + g) or leaky(G (h + x') + g), of users or items."""
        if layer == 0 and side == USERS and self.short is not None:
            message = message * self.short
        mix: nn.Linear = self.mixes[layer]  # type: ignore[assignment]
        heard = leaky_relu(message)
        if not self.concat:
            return leaky_relu(linear(heard + own, mix.weight, mix.bias))
        of_heard, of_own = mix.weight.chunk(2, 1)  # without laying the two side by side
        return leaky_relu(linear(heard, of_heard, mix.bias) + linear(own, of_own))


def _width(name: str, latent: Mapping[str, int] | None) -> int:
    """Of a modality's MLP; 0 for none."""
    return (256 if name == "image" else 0) if latent is None else latent.get(name, 0)
