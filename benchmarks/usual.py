"""The usual form, as multi-modal recommendation toolboxes have it, written for comparison and for nothing else.

Trainable feature tables, the whole catalogue projected at each step, dense unfused Adam, propagation by torch's COO
product (entries as they come, not coalesced), rows taken by indexing, negatives drawn row by row in Python through a
call each, hits counted user by user in Python. Data frames, which toolboxes slice at each batch, are left out.
"""

import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from foilrec.data import Data

Triples = tuple[Tensor, Tensor, Tensor]


def coo(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """A COO matrix, its entries in the order given."""
    return torch.sparse_coo_tensor(torch.stack([rows, columns]), values, shape, is_coalesced=False)


def adjacency(pairs: Tensor, n_users: int, n_items: int) -> Tensor:
    """The normalised [U + I, U + I] matrix."""
    users, items = pairs[:, 0], pairs[:, 1] + n_users
    rows, columns = torch.cat([users, items]), torch.cat([items, users])
    root = torch.bincount(rows, minlength=n_users + n_items).float().clamp(min=1e-7).rsqrt()
    return coo(rows, columns, root[rows] * root[columns], (n_users + n_items,) * 2)


def batches(data: Data, size: int) -> Iterator[Triples]:
    """Shuffled positives with one negative each, drawn in a Python loop against a set."""
    history: dict[int, set[int]] = {}
    for user, item in data.train.tolist():
        history.setdefault(user, set()).add(item)
    every = list(range(data.n_items))
    for rows in torch.randperm(len(data.train)).split(size):
        users, positives = data.train[rows].unbind(1)
        negatives = []
        for user in users.tolist():
            item = one_of(every)
            while item in history[user]:
                item = one_of(every)
            negatives.append(item)
        yield users, positives, torch.tensor(negatives)


def one_of(items: list[int]) -> int:
    """One of them, by the standard library."""
    return random.sample(items, 1)[0]


class Usual(nn.Module):
    """A model of the usual form."""

    def begin_epoch(self) -> None:
        """What it does before an epoch's batches."""

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """The loss of a batch of triples, []."""
        raise NotImplementedError


class UsualBPRMF(Usual):
    """Two dense tables."""

    def __init__(self, data: Data, dim: int = 64) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(data.n_users, dim), nn.Embedding(data.n_items, dim)

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """BPR with the usual penalty."""
        u, p, n = self.users.weight[users], self.items.weight[positives], self.items(negatives)
        penalty: Tensor = (u.norm() + p.norm() + n.norm()) / len(users)
        ranking: Tensor = -torch.log(1e-10 + torch.sigmoid((u * p).sum(1) - (u * n).sum(1))).mean()
        return ranking + 0.1 * penalty


class UsualLightGCN(Usual):
    """COO propagation, all layers stacked."""

    def __init__(self, data: Data, dim: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(data.n_users, dim), nn.Embedding(data.n_items, dim)
        self.n_users, self.n_items, self.layers = data.n_users, data.n_items, layers
        self.graph = adjacency(data.train, data.n_users, data.n_items)

    def walk(self) -> tuple[Tensor, Tensor]:
        """Users and items, smoothed."""
        every = [torch.cat([self.users.weight, self.items.weight])]
        for _ in range(self.layers):
            every.append(torch.sparse.mm(self.graph, every[-1]))
        users, items = torch.stack(every, 1).mean(1).split([self.n_users, self.n_items])
        return users, items

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """BPR on the smoothed rows."""
        u, i = self.walk()
        return -logsigmoid((u[users] * i[positives]).sum(1) - (u[users] * i[negatives]).sum(1)).mean()


class UsualFREEDOM(UsualLightGCN):
    """Trainable feature tables, both projected whole at each step, whatever the weight of their loss."""

    def __init__(self, data: Data, item_graph: Tensor, dim: int = 64, weight: float = 1e-3) -> None:
        super().__init__(data, dim)
        self.item_graph, self.weight = item_graph, weight
        tables = {name: torch.from_numpy(f.rows).clone() for name, f in data.features.items()}
        self.tables = nn.ModuleDict({m: nn.Embedding.from_pretrained(t, freeze=False) for m, t in tables.items()})
        self.heads = nn.ModuleDict({m: nn.Linear(t.shape[1], dim) for m, t in tables.items()})
        self.data, self.whole = data, self.graph

    def begin_epoch(self) -> None:
        """Keeps a fifth of the edges, drawn by torch.multinomial."""
        users, items = self.data.train.unbind(1)
        degree_u, degree_i = (
            torch.bincount(users, minlength=self.n_users),
            torch.bincount(items, minlength=self.n_items),
        )
        odds = (degree_u[users].float() * degree_i[items]).rsqrt()
        kept = torch.multinomial(odds, int(0.2 * len(users)))
        self.graph = adjacency(self.data.train[kept], self.n_users, self.n_items)

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """BPR on the smoothed rows, and on both projected feature tables."""
        u, i = self.walk()
        i = i + torch.sparse.mm(self.item_graph, self.items.weight)
        total = -logsigmoid((u[users] * i[positives]).sum(1) - (u[users] * i[negatives]).sum(1)).mean()
        for name, head in self.heads.items():
            z = head(self.tables[name].weight)
            gap = (u[users] * z[positives]).sum(1) - (u[users] * z[negatives]).sum(1)
            total = total - self.weight * logsigmoid(gap).mean()
        return total


def optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """Adam, dense and unfused."""
    return torch.optim.Adam(model.parameters(), lr=1e-3, fused=False, foreach=False)


@torch.no_grad()
def evaluate(users: Tensor, items: Tensor, data: Data, ks: tuple[int, ...] = (5, 10, 20, 50)) -> dict[str, float]:
    """Full ranking: masked scores, top-50, hits looked up by `in` for each user and place, then four metrics."""
    wanted, taken = _by_user(data.test), _by_user(data.train)
    hits, every = [], sorted(wanted)
    for block in torch.tensor(every).split(4096):
        scores = users[block] @ items.T
        row = torch.tensor([r for r, user in enumerate(block.tolist()) for _ in taken.get(user, ())])
        column = torch.tensor([item for user in block.tolist() for item in taken.get(user, ())])
        scores[row, column] = -1e10
        for user, best in zip(block.tolist(), scores.topk(max(ks)).indices.numpy(), strict=True):
            hits.append([item in wanted[user] for item in best])
    return _metrics(np.array(hits), np.array([len(wanted[user]) for user in every]), ks)


def _by_user(pairs: Tensor) -> dict[int, np.ndarray]:
    lists: dict[int, list[int]] = {}
    for user, item in pairs.tolist():
        lists.setdefault(user, []).append(item)
    return {user: np.array(items) for user, items in lists.items()}


def _metrics(hits: np.ndarray, wanted: np.ndarray, ks: tuple[int, ...]) -> dict[str, float]:
    place = np.arange(1, hits.shape[1] + 1)
    discount, found = 1 / np.log2(place + 1), hits.cumsum(1)
    found_at = (hits * found / place).cumsum(1)
    result = {}
    for k in ks:
        best = discount.cumsum()[np.minimum(wanted, k) - 1]
        result[f"recall@{k}"] = float((found[:, k - 1] / wanted).mean())
        result[f"precision@{k}"] = float(found[:, k - 1].mean() / k)
        result[f"ndcg@{k}"] = float(((hits * discount)[:, :k].sum(1) / best).mean())
        result[f"map@{k}"] = float((found_at[:, k - 1] / np.minimum(wanted, k)).mean())
    return result
