"""Sparse graphs that backbones walk on: a matrix by rows, its transpose, and products that carry gradients."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from foilrec.numerics import kernels
from foilrec.numerics.kernels import Rows
from foilrec.numerics.products import panel


class Matrix(Protocol):
    """A sparse matrix that is given by rows."""

    def by_rows(self, *, turned: bool = False) -> Rows:
        """The entries of the matrix, or of its transpose."""
        ...


def product(matrix: Matrix, x: Tensor, *, turned: bool = False) -> Tensor:
    """A x, or A^T x, with gradient for x: A [n, m] and x [m, D] -> [n, D]."""
    made: Tensor = _Product.apply(x, matrix, turned)  # type: ignore[no-untyped-call]
    return made


class Graph(nn.Module):
    """A sparse matrix A [n, m]; `graph(x)` is A x for x [m, D], with gradient.

    rows, columns and values [E] give the entries in any order. The transpose is kept beside it, for gradients. No part
    of a checkpoint: a graph follows from the data.
    """

    def __init__(self, rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> None:
        super().__init__()
        self.shape = shape
        names = ("starts", "columns", "values")
        for prefix, parts in (
            ("", by_rows(rows, columns, values, shape[0])),
            ("turned_", by_rows(columns, rows, values, shape[1])),
        ):
            for name, part in zip(names, parts, strict=True):
                self.register_buffer(prefix + name, part, persistent=False)

    def by_rows(self, *, turned: bool = False) -> Rows:
        """The entries by rows, of the matrix or of its transpose."""
        prefix = "turned_" if turned else ""
        return (getattr(self, prefix + "starts"), getattr(self, prefix + "columns"), getattr(self, prefix + "values"))

    def forward(self, x: Tensor) -> Tensor:
        """A x, [n, D]."""
        return product(self, x)

    def turn(self, x: Tensor) -> Tensor:
        """A^T x for x [n, D]: [m, D]."""
        return product(self, x, turned=True)

    def smooth(self, users: Tensor, items: Tensor, layers: int) -> tuple[Tensor, Tensor]:
        """LightGCN's propagation when A is the normalised user-item matrix: the mean of layers 0 .. layers.

        With y = [users; items] and N = [[0, A], [A^T, 0]] it is (y + N y + ... + N^layers y) / (layers + 1), He et
        al. eq. 7-8: users [n, D], items [m, D] -> the same shapes.
        """
        smoothed: tuple[Tensor, Tensor] = _Smooth.apply(users, items, self, layers)  # type: ignore[no-untyped-call]
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
    def forward(ctx: Any, x: Tensor, matrix: Matrix, turned: bool) -> Tensor:
        ctx.matrix, ctx.turned = matrix, turned
        return kernels.multiply(matrix.by_rows(turned=turned), x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        rows = ctx.matrix.by_rows(turned=not ctx.turned)
        return kernels.multiply(rows, gradients[0]), None, None


class _Smooth(torch.autograd.Function):
    """Both ways are the same walk, since N is symmetric."""

    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, graph: Graph, layers: int) -> tuple[Tensor, Tensor]:
        ctx.graph, ctx.layers = graph, layers
        return walk(graph, users, items, layers)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        return *walk(ctx.graph, gradients[0], gradients[1], ctx.layers), None, None


def walk(graph: Graph, users: Tensor, items: Tensor, layers: int) -> tuple[Tensor, Tensor]:
    """Both tables smoothed, without gradient, by Horner's rule: y + N (y + N (y + ...)), the last step scaled."""
    u, i, there, back = users, items, graph.by_rows(), graph.by_rows(turned=True)
    for layer in range(layers):
        scale = 1 / (layers + 1) if layer == layers - 1 else 1.0
        u, i = (
            kernels.multiply(there, i, plus=users, scale=scale),
            kernels.multiply(back, u, plus=items, scale=scale),
        )
    return (u, i) if layers else (users.clone(), items.clone())


def interaction_graph(pairs: Tensor, n_users: int, n_items: int) -> Graph:
    """The user-item matrix with both sides normalised, D_u^-1/2 A D_i^-1/2: [U, I]."""
    users, items = pairs.unbind(1)
    return Graph(users, items, inverse_root_degrees(pairs, n_users, n_items), (n_users, n_items))


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


def nearest_pairs(
    features: Tensor,
    k: int,
    present: Tensor | None = None,
    block: int = 64 * 2**20,
    step: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """The k rows most like each row by cosine, itself included, best first: features [I, F] -> ids, cosines [I, k].

    Exact, in blocks of at most `block` bytes, never I x I. A row that is not present has only itself: k times its own
    id, with cosines of 0, as has a row of zeros. Equal cosines stand in the order of their ids. step: hears (block,
    blocks) as they are done.
    """
    n, device = len(features), features.device
    unit = normalize(features.float(), dim=1)
    somewhere = unit.any(1)
    if not somewhere.all():
        present = somewhere if present is None else present & somewhere
    k = min(k, n if present is None else max(1, int(present.sum())))
    room, found = panel(block // (4 * n), device), []
    blocks, buffer = torch.arange(n, device=device).split(room), unit.new_empty(room, n)
    for done, rows in enumerate(blocks, 1):
        cosines = torch.mm(unit[rows], unit.T, out=buffer[: len(rows)])
        if present is not None:
            cosines[:, ~present] = torch.nan  # left out of the ranking
        cosines[torch.arange(len(rows), device=device), rows] = 2.0  # itself first, whatever its twins
        found.append(kernels.best(cosines, k))
        if step is not None:
            step(done, len(blocks))
    ids, values = (torch.cat(column) for column in zip(*found, strict=True))
    values[:, 0] = unit.square().sum(1)
    if present is None:
        return ids, values
    own = torch.arange(n, device=device)[:, None]
    return torch.where(present[:, None], ids, own), torch.where(present[:, None], values, 0.0)


def neighbour_mean(ids: Tensor, share: float | Tensor = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """The entries of «mean over the k neighbours», times a share (one, or one a row): rows, columns, values [I k]."""
    n, k = ids.shape
    rows = torch.arange(n).repeat_interleave(k)
    values = torch.as_tensor(share, dtype=torch.float32).expand(n).repeat_interleave(k) / k
    return rows, ids.reshape(-1), values
