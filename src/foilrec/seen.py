"""The index of what every user has taken: who has seen what, and draws from all the rest."""

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from foilrec.errors import BadData, some
from foilrec.numerics import kernels


class SeenIndex:
    """Which items each user has taken: exact membership, and exact uniform draws from all the others.

    pairs [N, 2] may repeat and come in any order. Memory: 4 bytes a distinct pair and 20 a user.
    """

    def __init__(self, pairs: Tensor, n_users: int, n_items: int) -> None:
        self.n_users, self.n_items = n_users, n_items
        keys = pairs[:, 0].numpy().astype(np.int64) * n_items + pairs[:, 1].numpy()
        if len(keys) > 1 and not (keys[1:] > keys[:-1]).all():
            keys.sort()
            keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])]
        bounds = np.arange(n_users + 1, dtype=np.int64) * n_items
        self.starts = torch.from_numpy(np.searchsorted(keys, bounds).astype(np.int64))
        keys %= n_items
        self.items = torch.from_numpy(keys.astype(np.int32))
        self._elsewhere: SeenIndex | None = None

    def on(self, device: torch.device) -> "SeenIndex":
        """The same index on the device of a question; copied there once."""
        if device == self.starts.device:
            return self
        if self._elsewhere is None or self._elsewhere.starts.device != device:
            moved = object.__new__(SeenIndex)
            moved.n_users, moved.n_items, moved._elsewhere = self.n_users, self.n_items, None
            moved.starts, moved.items = self.starts.to(device), self.items.to(device)
            self._elsewhere = moved
        return self._elsewhere

    @cached_property
    def counts(self) -> Tensor:
        """How many distinct items each user has taken, [U]."""
        return self.starts.diff()

    @cached_property
    def longest(self) -> int:
        """How many items the user has who has taken most."""
        return int(self.counts.max()) if self.n_users else 0

    @cached_property
    def anyone_full(self) -> bool:
        """Whether some user has taken every item."""
        return self.longest >= self.n_items

    @cached_property
    def log_q(self) -> Tensor:
        """The log of a uniform draw's probability for each user, [U]."""
        return -(self.n_items - self.counts).to(torch.get_default_dtype()).log()

    def of(self, user: int) -> Tensor:
        """The items of one user, in order of their ids."""
        return self.items[self.starts[user] : self.starts[user + 1]].long()

    def contains(self, users: Tensor, items: Tensor) -> Tensor:
        """Whether users [B] have taken items [B, K]: bool [B, K]."""
        here = self.on(users.device)
        return kernels.contains(here.starts, here.items, users, items, self.longest)

    def unseen(self, users: Tensor, rows: Tensor, count: int, key: int) -> Tensor:
        """Uniform independent draws [B, count] of items that users [B] have not taken, a function of (key, rows)."""
        self.need_unseen(users)
        here = self.on(users.device)
        return kernels.unseen(here.starts, here.items, users, rows, key, count, self.n_items, self.longest)

    def need_unseen(self, users: Tensor) -> None:
        """Raises BadData if one of the users has taken every item, so that no negative exists."""
        if not self.anyone_full:
            return
        full = self.on(users.device).counts[users] >= self.n_items
        if full.any():
            who = some(users[full].unique().tolist())
            raise BadData(
                f"No negative exists for user {who}: all {self.n_items} items have been taken in training. "
                "Drop such users, or add items."
            )

    def hide(self, scores: Tensor, users: Tensor) -> None:
        """Sets scores [B, I] of the items that users [B] have taken to -inf, in place."""
        starts, items = self.gather(users)
        row = torch.repeat_interleave(torch.arange(len(users)), starts.diff())
        scores[row.to(scores.device), items.to(scores.device)] = -torch.inf

    def gather(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """The items of some users one after another: starts [B + 1], items [E]."""
        counts = self.counts[users]
        starts = torch.zeros(len(users) + 1, dtype=torch.long)
        starts[1:] = counts.cumsum(0)
        place = torch.arange(int(starts[-1])) + torch.repeat_interleave(self.starts[users] - starts[:-1], counts)
        return starts, self.items[place].long()
