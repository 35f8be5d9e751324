"""LightGCN's propagation for the rows that a step needs: the last hop is walked for them alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding

from foilrec.graphs.sparse import Graph, Matrix
from foilrec.numerics import kernels
from foilrec.numerics.kernels import Rows
from foilrec.numerics.rows import add_rows, sum_rows

USERS, ITEMS = 0, 1
RowsOf = Callable[[Tensor], Tensor]  # ids [...] -> rows [..., D]


@dataclass(frozen=True)
class Steps:
    """One hop of a walk between users and items: x_side <- into[side] x_other + alone[side] * x_side.

    into: matrices [U, I] and [I, U] by rows; turned: their transposes. alone: [U, 1] and [I, 1], or None for nothing.
    """

    into: tuple[Rows, Rows]
    turned: tuple[Rows, Rows]
    alone: tuple[Tensor, Tensor] | None = None

    @staticmethod
    def of(graph: Graph) -> "Steps":
        """Those of LightGCN, whose two matrices are one another's transposes."""
        there, back = graph.by_rows(), graph.by_rows(turned=True)
        return Steps((there, back), (back, there))

    def hop(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Both tables a hop on."""
        return self._kept(users, items, kernels.multiply(self.into[0], items), kernels.multiply(self.into[1], users))

    def back(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of both tables a hop back."""
        made = kernels.multiply(self.turned[1], items), kernels.multiply(self.turned[0], users)
        return self._kept(users, items, *made)

    def back_few(self, users: tuple[Tensor, Tensor], items: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The same for gradients of which only some rows are there: distinct ids [R] and [R, D] of each side."""
        u = kernels.multiply_few(self.turned[1], self.into[1], *items)
        i = kernels.multiply_few(self.turned[0], self.into[0], *users)
        for (ids, gradient), alone, made in zip((users, items), self.alone or (), (u, i), strict=False):
            add_rows(ids, alone[ids] * gradient, made)
        return u, i

    def _kept(self, users: Tensor, items: Tensor, u: Tensor, i: Tensor) -> tuple[Tensor, Tensor]:
        if self.alone is None:
            return u, i
        return u.addcmul_(self.alone[0], users), i.addcmul_(self.alone[1], items)


class Walk:
    """Rows of the mean of layers 0 .. layers of a walk, worked out when they are asked for, with gradient.

    graph: one with graph.smooth(users, items, layers) as its whole tables, or steps of another kind. users(ids) and
    items(ids) give [..., D]. Beside it, items may get rows of another product: beside (others), a matrix [m, m] times
    [m, D]. The gradients of all rows are added up and walk back through the graph once, however often rows were asked
    for. The whole tables are cheaper from graph.smooth.
    """

    def __init__(
        self,
        graph: Graph | Steps,
        users: Tensor,
        items: Tensor,
        layers: int,
        beside: Graph | None = None,
        others: Tensor | None = None,
    ) -> None:
        steps = graph if isinstance(graph, Steps) else Steps.of(graph)
        self._path = _Path(steps, users.detach(), items.detach(), layers, beside, others)
        inputs = (users, items) if others is None else (users, items, others)
        self._root: Tensor = _Root.apply(self._path, *inputs)  # type: ignore[no-untyped-call]

    @staticmethod
    def pays(graph: Matrix, layers: int) -> bool:
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
        self, steps: Steps, users: Tensor, items: Tensor, layers: int, beside: Graph | None, others: Tensor | None
    ) -> None:
        self.steps, self.layers, self.beside = steps, layers, beside
        self.others = None if others is None else others.detach()
        self.hops = [(users, items)]
        for _ in range(layers - 1):
            self.hops.append(steps.hop(*self.hops[-1]))
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
        scale, plus = 1 / (self.layers + 1), [hop[side] for hop in self.hops]
        kernels.multiply_rows(self.steps.into[side], self.hops[-1][1 - side], fresh, rows, plus=plus, scale=scale)
        if self.steps.alone is not None:
            add_rows(fresh, scale * self.steps.alone[side][fresh] * embedding(fresh, plus[-1]), rows)
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
        u, i = self.steps.back_few(of_users, of_items)
        for layer in range(self.layers):
            if layer:
                u, i = self.steps.back(u, i)
            add_rows(*of_users, u)
            add_rows(*of_items, i)
        return (u, i) if self.beside is None else (u, i, of_others)


def smoothed(
    graph: Graph, users: Tensor, items: Tensor, layers: int, *, few: bool
) -> tuple[RowsOf, RowsOf, Callable[[], tuple[Tensor, Tensor]]]:
    """Rows of users and rows of items after LightGCN's layers, by ids, and both tables whole.

    few: only rows will be asked for, and where that pays no more is worked out than they need.
    """
    if few and Walk.pays(graph, layers):
        walk = Walk(graph, users, items, layers)
        return walk.users, walk.items, lambda: graph.smooth(users, items, layers)
    whole = graph.smooth(users, items, layers)
    return (lambda ids: embedding(ids, whole[0])), (lambda ids: embedding(ids, whole[1])), lambda: whole


def some_rows(matrix: Matrix, x: Tensor, ids: Tensor) -> Tensor:
    """Rows ids [...] of A x alone, with gradient for x: x [m, D] -> [..., D]."""
    asked: Tensor = _SomeRows.apply(x, matrix, ids.reshape(-1))  # type: ignore[no-untyped-call]
    return asked.view(*ids.shape, -1)


class _SomeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Matrix, ids: Tensor) -> Tensor:
        ctx.matrix, ctx.ids = matrix, ids
        rows = matrix.by_rows()
        ctx.n = len(rows[0]) - 1
        wanted = torch.zeros(ctx.n, dtype=torch.bool, device=ids.device)
        wanted[ids] = True
        out = x.new_empty(ctx.n, x.shape[1])
        return embedding(ids, kernels.multiply_rows(rows, x, wanted.nonzero().squeeze(1), out))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        turned, straight = ctx.matrix.by_rows(turned=True), ctx.matrix.by_rows()
        return kernels.multiply_few(turned, straight, *sum_rows(ctx.ids, gradients[0], ctx.n)), None, None


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
