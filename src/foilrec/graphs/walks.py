"""LightGCN's propagation for the rows that a step needs: the last hop is walked for them alone."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding

from foilrec.graphs.sparse import Graph, walk
from foilrec.numerics import kernels
from foilrec.numerics.rows import add_rows

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
        return self._path.forward(ITEMS, torch.arange(len(self._path.hops[0][ITEMS])))

    def _rows(self, side: int, ids: Tensor) -> Tensor:
        distinct, place = ids.unique(return_inverse=True)  # the same popular items are asked for again and again
        asked: Tensor = _Rows.apply(self._root, self._path, side, distinct)  # type: ignore[no-untyped-call]
        return embedding(place, asked)


class _Path:
    """What a walk remembers for its way back. The root does not belong to it: a circle would keep both alive."""

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
        self.gradients: tuple[Tensor, Tensor] | None = None

    def forward(self, side: int, ids: Tensor) -> Tensor:
        """The mean of layers 0 .. layers for some rows [E], without gradient."""
        total = embedding(ids, self.hops[0][side])
        for hop in self.hops[1:]:
            total += embedding(ids, hop[side])
        if side == ITEMS and self.beside is not None and self.others is not None:
            scale = self.layers + 1.0
            total += kernels.multiply(self.beside.by_rows(), self.others, only=ids, scale=scale)
        last = self.graph.by_rows(turned=side == ITEMS), self.hops[-1][1 - side]
        return kernels.multiply(*last, only=ids, plus=total, scale=1 / (self.layers + 1))

    def backward(self, side: int, ids: Tensor, gradient: Tensor) -> None:
        """Adds the gradient of some rows to what will walk back."""
        if self.gradients is None:
            users, items = self.hops[0]
            self.gradients = torch.zeros_like(users), torch.zeros_like(items)
        add_rows(ids, gradient, self.gradients[side])

    def back(self) -> tuple[Tensor, ...]:
        """The gradients of users, items and others, once all rows have given theirs."""
        users, items = self.gradients or tuple(map(torch.zeros_like, self.hops[0]))
        self.gradients = None
        both = walk(self.graph, users, items, self.layers)
        return both if self.beside is None else (*both, kernels.multiply(self.beside.by_rows(turned=True), items))


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
        ctx.source.backward(ctx.side, ctx.ids, gradients[0])
        return gradients[0].new_zeros(()), None, None, None
