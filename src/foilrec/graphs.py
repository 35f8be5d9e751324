"""Sparse graphs that backbones walk on: a matrix by rows, its transpose, and products that carry gradients."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from foilrec import kernels

Rows = tuple[Tensor, Tensor, Tensor]  # starts [n + 1], columns [E], values [E]


class Graph(nn.Module):
    """A sparse matrix [n, m]; `graph(x)` is its product with x [m, D], with gradient.

    rows, columns and values [E] give the entries in any order. symmetric says that the matrix is its own transpose,
    so that one copy is kept instead of two. No part of a checkpoint: a graph follows from the data.
    """

    def __init__(self, rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int], *,
                 symmetric: bool = False) -> None:
        super().__init__()
        self.shape, self.symmetric = shape, symmetric
        self._keep("", by_rows(rows, columns, values, shape[0]))
        if not symmetric:
            self._keep("turned_", by_rows(columns, rows, values, shape[1]))

    def _keep(self, prefix: str, parts: Rows) -> None:
        for name, part in zip(("starts", "columns", "values"), parts, strict=True):
            self.register_buffer(prefix + name, part, persistent=False)

    def by_rows(self, *, turned: bool = False) -> Rows:
        """The entries by rows, of the matrix or of its transpose."""
        prefix = "turned_" if turned and not self.symmetric else ""
        return (getattr(self, prefix + "starts"), getattr(self, prefix + "columns"), getattr(self, prefix + "values"))

    def forward(self, x: Tensor) -> Tensor:
        """The product with x [m, D]: [n, D]."""
        product: Tensor = _Product.apply(x, self)
        return product

    def smooth(self, x: Tensor, layers: int) -> Tensor:
        """The mean of x, A x, ..., A^layers x for a symmetric A (LightGCN, eq. 8): [n, D]."""
        smoothed: Tensor = _Smooth.apply(x, self, layers)
        return smoothed


def by_rows(rows: Tensor, columns: Tensor, values: Tensor, n: int) -> Rows:
    """Entries in any order -> starts [n + 1], columns [E] (int32), values [E] (float32), sorted by row."""
    if len(rows) > 1 and bool((rows[1:] < rows[:-1]).any()):
        order = torch.argsort(rows, stable=True)
        rows, columns, values = rows[order], columns[order], values[order]
    starts = torch.zeros(n + 1, dtype=torch.long, device=rows.device)
    starts[1:] = torch.bincount(rows, minlength=n).cumsum(0)
    return starts, columns.int().contiguous(), values.float().contiguous()


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, graph: Graph) -> Tensor:
        ctx.graph = graph
        return kernels.multiply(*graph.by_rows(), x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return kernels.multiply(*ctx.graph.by_rows(turned=True), gradients[0]), None


class _Smooth(torch.autograd.Function):
    """Horner's rule, (x + A (x + A x)) / 3; a symmetric A makes the backward pass the forward one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, graph: Graph, layers: int) -> Tensor:
        ctx.graph, ctx.layers = graph, layers
        total = x
        for _ in range(layers):
            total = kernels.multiply(*graph.by_rows(), total).add_(x)
        return total / (layers + 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        gradient, total = gradients[0], gradients[0]
        for _ in range(ctx.layers):  # rows outside the batch have no gradient yet: the first product skips them
            total = kernels.multiply(*ctx.graph.by_rows(), total, skip_zero_rows=total is gradient).add_(gradient)
        return total / (ctx.layers + 1), None, None


def interaction_graph(pairs: Tensor, n_users: int, n_items: int) -> Graph:
    """The user-item graph with both sides normalised, D^-1/2 A D^-1/2: [U + I, U + I], items after users."""
    users, items = pairs.unbind(1)
    weights = inverse_root_degrees(pairs, n_users, n_items)
    rows, columns = torch.cat([users, items + n_users]), torch.cat([items + n_users, users])
    return Graph(rows, columns, torch.cat([weights, weights]), (n_users + n_items,) * 2, symmetric=True)


def inverse_root_degrees(pairs: Tensor, n_users: int, n_items: int) -> Tensor:
    """1 / sqrt(d_u d_i) of every pair, [N]: its weight in the graph, and its odds of surviving FREEDOM's pruning."""
    users, items = pairs.unbind(1)
    of_user, of_item = torch.bincount(users, minlength=n_users), torch.bincount(items, minlength=n_items)
    return (of_user[users].double() * of_item[items]).rsqrt().float()


def weighted_subset(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` places drawn without replacement, each draw in proportion to weights [E]; in rising order.

    An exponential race: the smallest Exp(1) / w win, which has the law of successive draws (torch.multinomial's) at
    O(E), and no limit of 2**24 entries.
    """
    race = torch.empty(len(weights), dtype=torch.float64).exponential_(generator=generator) / weights
    return race.kthvalue(count).values.ge(race).nonzero().squeeze(1) if count else torch.empty(0, dtype=torch.long)


def nearest_rows(features: Tensor, k: int, present: Tensor | None = None, block: int = 64 * 2**20) -> Tensor:
    """The k rows most like each row by cosine, itself included, best first: features [I, F] -> ids [I, k].

    Exact, in blocks of at most `block` bytes, never I x I. A row that is not present has only itself: k times its
    own id. Equal cosines stand in the order of their ids.
    """
    n = len(features)
    k = min(k, n if present is None else max(1, int(present.sum())))
    unit = normalize(features.float(), dim=1)
    found = []
    for rows in torch.arange(n).split(max(1, block // (4 * n))):
        cosines = unit[rows] @ unit.T
        if present is not None:
            cosines[:, ~present] = -torch.inf
        cosines[torch.arange(len(rows)), rows] = 2.0  # itself first, whatever its twins
        found.append(cosines.topk(k, dim=1).indices)
    ids = torch.cat(found)
    return ids if present is None else torch.where(present[:, None], ids, torch.arange(n)[:, None])


def neighbour_mean(ids: Tensor, share: float | Tensor = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """The entries of «mean over the k neighbours», times a share (one, or one a row): rows, columns, values [I k]."""
    n, k = ids.shape
    rows = torch.arange(n).repeat_interleave(k)
    values = torch.as_tensor(share, dtype=torch.float32).expand(n).repeat_interleave(k) / k
    return rows, ids.reshape(-1), values
