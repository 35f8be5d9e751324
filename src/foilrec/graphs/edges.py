"""Graphs of k edges a row whose weights are learned: dot products along the edges, and products with both gradients."""

from typing import Any

import torch
from torch import Tensor, nn

from foilrec.graphs.sparse import product
from foilrec.numerics import kernels
from foilrec.numerics.kernels import Rows


class Edges(nn.Module):
    """Where the edges of an item graph go, ids [I, k]; their weights [I, k] come with each call, and may be learned.

    No part of a checkpoint. Nothing of size I x I or I x k x D is ever held.
    """

    ids: Tensor
    starts: Tensor
    columns: Tensor
    order: Tensor
    turned_starts: Tensor
    turned_columns: Tensor

    def __init__(self, ids: Tensor) -> None:
        super().__init__()
        n, k = ids.shape
        flat = ids.reshape(-1)
        order = flat.argsort(stable=True)
        turned_starts = torch.zeros(n + 1, dtype=torch.long, device=ids.device)
        turned_starts[1:] = torch.bincount(flat, minlength=n).cumsum(0)
        held = {
            "ids": ids.contiguous(),
            "starts": torch.arange(n + 1, device=ids.device) * k,
            "columns": flat.int(),
            "order": order,
            "turned_starts": turned_starts,
            "turned_columns": (order // k).int(),
        }
        for name, part in held.items():
            self.register_buffer(name, part, persistent=False)

    def by_rows(self, weights: Tensor, *, turned: bool = False) -> Rows:
        """The matrix of those weights by rows, or its transpose."""
        flat = weights.detach().reshape(-1).float()
        if turned:
            return self.turned_starts, self.turned_columns, flat[self.order]
        return self.starts, self.columns, flat.contiguous()

    def forward(self, weights: Tensor, x: Tensor) -> Tensor:
        """The matrix times x: weights [I, k], x [I, D] -> [I, D], with gradient for both."""
        product: Tensor = _Product.apply(weights, x, self)  # type: ignore[no-untyped-call]
        return product

    def dot(self, x: Tensor) -> Tensor:
        """x_i . x_j along every edge, with gradient: x [I, D] -> [I, k]."""
        dots: Tensor = _Dots.apply(x, self)  # type: ignore[no-untyped-call]
        return dots


class Fixed:
    """Edges with weights [I, k] that stay: a matrix by rows, and its transpose; `fixed(x)` has gradient for x."""

    def __init__(self, edges: Edges, weights: Tensor) -> None:
        self._straight, self._turned = edges.by_rows(weights), edges.by_rows(weights, turned=True)

    def by_rows(self, *, turned: bool = False) -> Rows:
        """The entries by rows, of the matrix or of its transpose."""
        return self._turned if turned else self._straight

    def __call__(self, x: Tensor) -> Tensor:
        """The matrix times x [I, D]: [I, D]."""
        return product(self, x)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, x: Tensor, edges: Edges) -> Tensor:
        ctx.edges = edges
        ctx.save_for_backward(weights, x)
        return kernels.multiply(edges.by_rows(weights), x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (weights, x), edges, gradient = ctx.saved_tensors, ctx.edges, gradients[0]
        to_weights = kernels.candidate_scores(gradient, x, edges.ids) if ctx.needs_input_grad[0] else None
        to_x = kernels.multiply(edges.by_rows(weights, turned=True), gradient) if ctx.needs_input_grad[1] else None
        return to_weights, to_x, None


class _Dots(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, edges: Edges) -> Tensor:
        ctx.edges = edges
        ctx.save_for_backward(x)
        return kernels.candidate_scores(x, x, edges.ids)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,), edges, gradient = ctx.saved_tensors, ctx.edges, gradients[0]
        there = kernels.multiply(edges.by_rows(gradient), x)  # i hears of every j, and j of every i
        return there + kernels.multiply(edges.by_rows(gradient, turned=True), x), None


def normalised(ids: Tensor, weights: Tensor) -> Tensor:
    """D^-1/2 W D^-1/2 with D the row sums, by scaling the weights that are there: ids and weights [I, k] -> [I, k].

    A row that sums to 0 becomes 0. One that sums to less than 0 has no root: not a number.
    """
    degree = weights.sum(1)
    root = torch.where(degree == 0, 1.0, degree).rsqrt() * (degree != 0)
    return root[:, None] * weights * root[ids]
