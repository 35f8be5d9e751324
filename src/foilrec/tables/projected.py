"""Constant features of the items of one modality, through a linear map."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from foilrec.errors import at_least, must_hold
from foilrec.numerics.principal import principal


class Projected(nn.Module):
    """W F + b for every item, [I, dim], from features that are no parameters and no part of a checkpoint.

    rows [I, F], present [I] or None when every item has the modality. dim: width, 0 for the features as they are. axes:
    put wider rows on so many principal axes first. unit: rows of length 1. null: where an item lacks the modality
    stands a learned vector; otherwise 0, and the reader leaves it out by `has` [I, 1].
    """

    rows: Tensor
    has: Tensor | None

    def __init__(
        self,
        rows: Tensor,
        present: Tensor | None,
        dim: int,
        *,
        axes: int | None = None,
        unit: bool = False,
        null: bool = False,
    ) -> None:
        super().__init__()
        must_hold("content", **at_least(0, dim=dim), **at_least(1, axes=axes))
        rows = normalize(rows) if unit else rows
        rows = principal(rows, axes, present) if axes and rows.shape[1] > axes else rows
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("has", None if present is None else present[:, None], persistent=False)
        self.linear = nn.Linear(rows.shape[1], dim) if dim else None
        if self.linear is not None:
            nn.init.xavier_normal_(self.linear.weight)
        self.null = nn.Parameter(nn.init.normal_(torch.empty(dim), std=0.1)) if null and present is not None else None

    @property
    def width(self) -> int:
        """How wide it comes out."""
        return int(self.rows.shape[1] if self.linear is None else self.linear.out_features)

    def forward(self) -> Tensor:
        """[I, dim]."""
        made: Tensor = self.rows if self.linear is None else self.linear(self.rows)
        if self.has is None:
            return made
        return made * self.has if self.null is None else torch.where(self.has, made, self.null)
