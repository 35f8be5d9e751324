"""LightGCN's propagation for the rows that a step needs: the last hop is walked for them alone."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding

from foilrec.graphs.sparse import Graph
from foilrec.numerics import kernels
from foilrec.numerics.rows import add_rows, sum_rows

USERS, ITEMS = 0, 1


class Walk:
    """Rows of graph.smooth(users, items, layers), worked out when they are asked for, with gradient.

    users(ids) and items(ids) give [..., D]. Beside it, items may get rows of another product: beside (others), a
    matrix [m, m] times [m, D]. The gradients of all rows are added up and walk back through the graph once, however
    often rows were asked for. The whole tables are cheaper from graph.smooth.
    """

    def __init__(
        self,
        graph: Graph,
        users: Tensor,
        items: Tensor,
        layers: int,
        beside: Graph | None = None,
        others: Tensor | None = None,
    ) -> None:
        self._path = _Path(graph, users.detach(), items.detach(), layers, beside, others)
        inputs = (users, items) if others is None else (users, items, others)
        self._root: Tensor = _Root.apply(self._path, *inputs)  # type: ignore[no-untyped-call]

    @staticmethod
    def pays(graph: Graph, layers: int) -> bool:
        """Whether rows cost less than whole tables: with the compiled loops, and when gradients are wanted."""
        return layers > 0 and torch.is_grad_enabled() and kernels.fast(graph.by_rows()[2]) is not None

    def users(self, ids: Tensor) -> Tensor:
        """Smoothed users, [..., D]."""
        return self._rows(USERS, ids)

    def items(self, ids: Tensor) -> Tensor:
        """Smoothed items, [..., D], with what stands beside them."""
        return self._rows(ITEMS, ids)

    def every_item(self) -> Tensor:
        """All smoothed items with what stands beside them, [I, D], without gradient: a hop, where users need none."""
        return self._path.known(ITEMS, torch.ones_like(self._path.done[ITEMS]))

    def _rows(self, side: int, ids: Tensor) -> Tensor:
        asked: Tensor = _Rows.apply(self._root, self._path, side, ids.reshape(-1))  # type: ignore[no-untyped-call]
        return asked.view(*ids.shape, -1)


class _Path:
    """What a walk remembers for its way back. The root does not belong to it: a circle would keep both alive.

    rows, done: the smoothed tables as far as they have been asked for, and which rows those are.
    """

    def __init__(
        self, graph: Graph, users: Tensor, items: Tensor, layers: int, beside: Graph | None, others: Tensor | None
    ) -> None:
        self.graph, self.layers, self.beside = graph, layers, beside
        self.others = None if others is None else others.detach()
        there, back = graph.by_rows(), graph.by_rows(turned=True)
        self.hops = [(users, items)]
        for _ in range(layers - 1):
            u, i = self.hops[-1]
            self.hops.append((kernels.multiply(there, i), kernels.multiply(back, u)))
        self.rows = tuple(map(torch.empty_like, self.hops[0]))
        self.done = tuple(x.new_zeros(len(x), dtype=torch.bool) for x in self.rows)
        self.gradients: tuple[list[tuple[Tensor, Tensor]], ...] = [], []

    def forward(self, side: int, ids: Tensor) -> Tensor:
        """The mean of layers 0 .. layers for some rows [E], without gradient."""
        asked = torch.zeros_like(self.done[side])
        asked[ids] = True
        return embedding(ids, self.known(side, asked))

    def known(self, side: int, asked: Tensor) -> Tensor:
        """The table of a side [n, D] in which the rows that are asked for, bool [n], are worked out."""
        fresh, rows = (asked > self.done[side]).nonzero().squeeze(1), self.rows[side]
        self.done[side].logical_or_(asked)
        matrix, scale = self.graph.by_rows(turned=side == ITEMS), 1 / (self.layers + 1)
        plus = [hop[side] for hop in self.hops]
        kernels.multiply_rows(matrix, self.hops[-1][1 - side], fresh, rows, plus=plus, scale=scale)
        if side == ITEMS and self.beside is not None and self.others is not None:
            kernels.multiply_rows(self.beside.by_rows(), self.others, fresh, rows, onto=True)
        return rows

    def back(self) -> tuple[Tensor, ...]:
        """The gradients of users, items and others, once all rows have given theirs.

        g + N (g + N (g + ...)) by Horner's rule. Only some rows of g are there, and the first step goes out from them.
        """
        given = [_summed(asked, table) for asked, table in zip(self.gradients, self.rows, strict=True)]
        self.gradients = [], []
        if self.beside is not None:
            of_others = kernels.multiply_few(self.beside.by_rows(turned=True), self.beside.by_rows(), *given[ITEMS])
        of_users, of_items = ((ids, gradient / (self.layers + 1)) for ids, gradient in given)
        there, back = self.graph.by_rows(), self.graph.by_rows(turned=True)
        u, i = kernels.multiply_few(there, back, *of_items), kernels.multiply_few(back, there, *of_users)
        for layer in range(self.layers):
            if layer:
                u, i = kernels.multiply(there, i), kernels.multiply(back, u)
            add_rows(*of_users, u)
            add_rows(*of_items, i)
        return (u, i) if self.beside is None else (u, i, of_others)


def _summed(asked: list[tuple[Tensor, Tensor]], table: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of rows of a table, added up where a row was asked for several times: distinct ids [R], sums [R, D]."""
    ids = torch.cat([table.new_empty(0, dtype=torch.long), *(ids for ids, _ in asked)])
    return sum_rows(ids, torch.cat([table[:0], *(gradient for _, gradient in asked)]), len(table))


class _Root(torch.autograd.Function):
    """Where the gradients of all rows meet; its value means nothing."""

    @staticmethod
    def forward(ctx: Any, source: _Path, *inputs: Tensor) -> Tensor:
        ctx.source = source
        return inputs[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.source.back()


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, root: Tensor, source: _Path, side: int, ids: Tensor) -> Tensor:
        ctx.source, ctx.side, ctx.ids = source, side, ids
        return source.forward(side, ids)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        ctx.source.gradients[ctx.side].append((ctx.ids, gradients[0]))
        return gradients[0].new_zeros(()), None, None, None
