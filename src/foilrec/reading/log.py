"""The log: interactions as a reader found them, before they are filtered, numbered and split."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foilrec.reading.numbering import Numbers


@dataclass(frozen=True)
class Log:
    """N interactions: users [N] and items [N] as numbers, and what else the source says of each.

    labels [N] are 0, 1, 2 for train, valid, test. times [N] are in whatever unit the source has. where(row) words the
    place of a row of the source for a message; rows [N] are the rows of the source that are left. user_ids and
    item_ids hold the raw id of each number, or None where a number is its own id. item_numbers [I] are the numbers
    that the items had in the source, of which there were source_items, or None while they are the same.
    """

    users: Numbers
    items: Numbers
    n_users: int
    n_items: int
    where: Callable[[int], str]
    rows: Numbers
    name: str = "data"
    user_ids: list[Any] | None = None
    item_ids: list[Any] | None = None
    labels: NDArray[np.int8] | None = None
    ratings: NDArray[np.float64] | None = None
    times: NDArray[np.float64] | None = None
    item_numbers: Numbers | None = None
    source_items: int | None = None

    def __len__(self) -> int:
        return len(self.users)

    def take(self, keep: NDArray[Any]) -> "Log":
        """The rows that a mask [N] or places [M] choose; numbers stay as they are."""
        cut = {
            name: None if column is None else column[keep]
            for name, column in vars(self).items()
            if name in ("users", "items", "rows", "labels", "ratings", "times")
        }
        return replace(self, **cut)  # type: ignore[arg-type]

    def raw_user(self, number: int) -> Any:
        """The id that the source uses for a user."""
        return number if self.user_ids is None else self.user_ids[number]

    def raw_item(self, number: int) -> Any:
        """The id that the source uses for an item."""
        return number if self.item_ids is None else self.item_ids[number]

    def compact(self) -> "Log":
        """Numbers without gaps, in the same order, when rows were dropped; raw ids follow."""
        users, kept_users = _squeeze(self.users, self.n_users)
        items, kept = _squeeze(self.items, self.n_items)
        if len(kept_users) == self.n_users and len(kept) == self.n_items:
            return self
        before = kept if self.item_numbers is None else self.item_numbers[kept]
        return replace(
            self,
            users=users,
            items=items,
            n_users=len(kept_users),
            n_items=len(kept),
            user_ids=[self.raw_user(n) for n in kept_users.tolist()],
            item_ids=[self.raw_item(n) for n in kept.tolist()],
            item_numbers=self.item_numbers if len(kept) == self.n_items else before,
            source_items=self.source_items or self.n_items,
        )


def _squeeze(numbers: Numbers, count: int) -> tuple[Numbers, Numbers]:
    """Numbers [N] -> numbers without gaps [N], and the old number of each new one."""
    kept = np.flatnonzero(np.bincount(numbers, minlength=count))
    if len(kept) == count:
        return numbers, kept
    new = np.full(count, -1, np.int64)
    new[kept] = np.arange(len(kept))
    return new[numbers], kept
