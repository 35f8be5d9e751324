"""Where the generated negatives of an item stand among all of them, and which of them a training row draws."""

import torch
from torch import Tensor, nn


class Shelf(nn.Module):
    """Some of N negatives, in the order of the items [N] that they vary and the users [N] they are for (-1: everyone).

    chosen [N]: which of them. shuffled: every item gets those of another, for the ablation of random edits.
    """

    keys: Tensor
    rows: Tensor

    def __init__(self, items: Tensor, users: Tensor, chosen: Tensor, n_users: int, *, shuffled: bool = False) -> None:
        super().__init__()
        self.n_users = n_users
        rows = chosen.nonzero().squeeze(1)
        keys = items[rows] * (n_users + 1) + users[rows] + 1
        order = keys.argsort(stable=True)
        self.register_buffer("keys", keys[order], persistent=False)
        self.register_buffer("rows", rows[order].roll(len(rows) // 2 if shuffled else 0), persistent=False)

    def draw(self, users: Tensor | None, items: Tensor, chance: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
        """`count` of the N rows [B, count] for users and items [B], no row twice, and which of them exist.

        Those made for the user if there are any, else those made for everyone; without users, whoever they are for.
        chance [B], in 0 .. 1, decides.
        """
        first = items * (self.n_users + 1)
        if users is None:
            low, size = self._between(first, first + self.n_users + 1)
        else:
            low, size = self._between(first + users + 1, first + users + 2)
            others, many = self._between(first, first + 1)
            low, size = torch.where(size > 0, low, others), torch.where(size > 0, size, many)
        column = torch.arange(count, device=items.device)
        start = (chance * size).long()[:, None]
        place = low[:, None] + (start + column) % size.clamp(min=1)[:, None]
        has = column < size[:, None]
        return self.rows[place.where(has, 0)] if len(self.rows) else torch.zeros_like(place), has

    def of(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """All rows for some items [n], whoever they are for: rows [E], and the place 0 .. n - 1 of each one's item."""
        first = items * (self.n_users + 1)
        low, size = self._between(first, first + self.n_users + 1)
        owner = torch.repeat_interleave(size)
        return self.rows[torch.arange(len(owner), device=items.device) + (low + size - size.cumsum(0))[owner]], owner

    def _between(self, first: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """Where keys first .. end - 1 begin, and how many there are."""
        low = torch.searchsorted(self.keys, first)
        return low, torch.searchsorted(self.keys, end) - low
