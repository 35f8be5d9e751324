"""A graph of look-alike items that is learned from their features, exact and sparse: LATTICE's."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from foilrec.data import Data
from foilrec.errors import PartsDoNotFit
from foilrec.graphs.edges import Edges, Fixed, normalised
from foilrec.graphs.nearest import Search, nearest, neighbours


@dataclass
class Built:
    """The item graph as the parameters have it: learned edges by modality, all edges, and those with their weights."""

    learned: Sequence[Edges]
    edges: Edges
    matrix: Fixed


class ItemGraph(nn.Module):
    """skip * sum_m w_m L_m + (1 - skip) * L': frozen and learned top-k cosine graphs, D^-1/2 W D^-1/2 each.

    w is a softmax, over the modalities that an item has. L' mixes the learned graphs of k edges a row and normalises
    their sum, or mixes normalised ones (`each`). An item without a modality has no edges in it, one without any only
    itself.
    """

    has: Tensor
    alone: Tensor
    frozen_ids: Tensor
    frozen: Tensor

    def __init__(
        self, data: Data, k: int, skip: float, width: int, search: Search, *, clamp: bool, each: bool, train: bool
    ) -> None:
        super().__init__()
        self.names = sorted(data.features if skip < 1 else {*data.features, *data.neighbours})
        if not self.names:
            raise PartsDoNotFit("lattice learns a graph from item features, and this data set has none: take lightgcn.")
        self.k, self.skip, self.search, self.clamp, self.each = k, skip, search, clamp, each
        self.features = data.features
        every, full = torch.arange(data.n_items), torch.ones(data.n_items, dtype=torch.bool)
        has = torch.stack([data.features[n].has(every) if n in data.features else full for n in self.names], 1)
        self.register_buffer("has", has, persistent=False)
        self.register_buffer("alone", ~has.any(1), persistent=False)
        found = [self._frozen(data, name, m) for m, name in enumerate(self.names)]
        self.widths = [ids.shape[1] for ids, _ in found]
        ids, weights = (torch.cat(column, 1) for column in zip(*found, strict=True))
        self.register_buffer("frozen_ids", ids, persistent=False)
        self.register_buffer("frozen", weights, persistent=False)
        self.mix = nn.Parameter(torch.full((len(self.names),), 1 / len(self.names)))
        self.transforms, self.content = nn.ModuleDict(), nn.ModuleDict()
        for name in self.names if skip < 1 else []:
            self.transforms[name] = nn.Linear(data.features[name].dim, width)
            if train:
                self.content[name] = nn.Embedding.from_pretrained(data.features[name].all(), freeze=False)
        self._known: tuple[bytes, Built] | None = None

    def _frozen(self, data: Data, name: str, m: int) -> tuple[Tensor, Tensor]:
        """Neighbours by raw features and their normalised weights, [I, k] each."""
        near = neighbours(data, name, self.k, self.search)
        if near.cosines is not None:
            cosines = near.cosines
        elif name in data.features:
            cosines = Edges(near.ids).dot(normalize(data.features[name].all(), dim=1))
        else:
            raise PartsDoNotFit(f"lattice weighs neighbours by cosine, and the data's graph of {name} has no cosines.")
        return near.ids, normalised(near.ids, self._kept(near.ids, cosines, m))

    def _kept(self, ids: Tensor, cosines: Tensor, m: int) -> Tensor:
        """Cosines as weights of a modality's edges: none between items that lack it, 1 / k to itself for one alone."""
        weights = cosines.clamp(min=0) if self.clamp else cosines
        here = self.has[:, m]
        if not bool(here.all()):
            weights = torch.where(here[:, None] & here[ids], weights, self.alone[:, None] / ids.shape[1])
        return weights

    def shares(self) -> Tensor:
        """w by item and modality, [I, M], or [1, M] if every item has all."""
        if bool(self.has.all()):
            return self.mix.softmax(0)[None]
        usable = self.has | self.alone[:, None]
        return torch.where(usable, self.mix, -torch.inf).softmax(1)

    def projected(self, name: str) -> Tensor:
        """F W + b of every item, rows of length 1: [I, width]."""
        rows = self.content[name].weight if name in self.content else self.features[name].all().to(self.mix.device)
        return normalize(self.transforms[name](rows), dim=1)

    def weights(self, learned: Sequence[Edges], projected: Sequence[Tensor] = ()) -> Tensor:
        """The weights of all edges, frozen ones before learned ones, with gradient: [I, K]."""
        shares = self.shares()
        widths = torch.tensor(self.widths, device=shares.device)
        frozen = self.frozen * shares.repeat_interleave(widths, 1, output_size=sum(self.widths))
        if not learned:
            return frozen
        parts = []
        for m, (name, edges) in enumerate(zip(self.transforms, learned, strict=True)):
            kept = self._kept(edges.ids, edges.dot(projected[m] if projected else self.projected(name)), m)
            parts.append((normalised(edges.ids, kept) if self.each else kept) * shares[:, m : m + 1])
        mixed = torch.cat(parts, 1)
        if not self.each:
            mixed = normalised(torch.cat([edges.ids for edges in learned], 1), mixed)
        return torch.cat([self.skip * frozen, (1 - self.skip) * mixed], 1)

    @torch.no_grad()
    def now(self) -> Built:
        """The graph for the parameters as they are, without gradient; searched for anew only if they have changed."""
        digest = blake2b(digest_size=16)
        for parameter in self.parameters():
            digest.update(parameter.detach().cpu().contiguous().numpy().data)
        if self._known is None or self._known[0] != digest.digest():
            projected = [self.projected(name) for name in self.transforms]
            learned = [self._search(rows, m) for m, rows in enumerate(projected)]
            edges = Edges(torch.cat([self.frozen_ids, *(edges.ids for edges in learned)], 1))
            self._known = digest.digest(), Built(learned, edges, Fixed(edges, self.weights(learned, projected)))
        return self._known[1]

    def _search(self, projected: Tensor, m: int) -> Edges:
        here = self.has[:, m]
        return Edges(nearest(projected, self.k, None if bool(here.all()) else here, self.search)[0])
