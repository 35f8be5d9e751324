"""Tables that are worked out when someone asks for them."""

from collections.abc import Callable

import torch
from torch import Tensor

from foilrec.core import RowsOf, Tables


class LateTables(Tables):
    """Tables that are worked out when someone asks for them, because a step may need no more than the batch's rows.

    both: () -> (users [U, D] or None, items [I, D]), asked at most once with gradient and once without. user_rows,
    item_rows: ids [...] -> [..., D]. every_item: () -> items [I, D] where that is less work than both, asked without
    gradient alone: samplers that rank candidates look at all items and at no user. Good until the parameters change.
    """

    def __init__(
        self,
        both: Callable[[], tuple[Tensor | None, Tensor]],
        user_rows: RowsOf,
        item_rows: RowsOf,
        every_item: Callable[[], Tensor] | None = None,
    ) -> None:
        self.layers, self._looked_up = (), {}
        self._both, self._user_rows, self._item_rows, self._every_item = both, user_rows, item_rows, every_item
        self._made: dict[bool, tuple[Tensor | None, Tensor]] = {}
        self._alone: Tensor | None = None

    @property
    def users(self) -> Tensor | None:  # type: ignore[override]
        """The whole table of users, [U, D]."""
        return self._whole()[0]

    @property
    def items(self) -> Tensor:  # type: ignore[override]
        """The whole table of items, [I, D]."""
        if self._every_item is None or torch.is_grad_enabled() or self._made:
            return self._whole()[1]
        if self._alone is None:
            self._alone = self._every_item()
        return self._alone

    def _whole(self) -> tuple[Tensor | None, Tensor]:
        with_gradient = torch.is_grad_enabled()
        if with_gradient not in self._made:
            self._made[with_gradient] = self._both()
        return self._made[with_gradient]

    def compose_items(self, ids: Tensor) -> Tensor:
        """Rows of items alone."""
        return self._item_rows(ids)

    def compose_users(self, ids: Tensor) -> Tensor:
        """Rows of users alone."""
        return self._user_rows(ids)
