"""The draws of any sampler, kept for some epochs."""

from typing import Any

import torch
from torch import Tensor

from foilrec.core import Backbone, Batch, Data, Negatives, Sampler, Tables, rows_of
from foilrec.errors import PartsDoNotFit, must_hold

ROWS = 2048  # training rows that the inner sampler is asked about at once
BLANK = {"weights": 1.0, "level": 0, "mask": True, "labels": 0.0}  # of a block that does not tell such a column


class Cached(Sampler):
    """Asks another sampler once in `every` epochs, for every training row, and repeats its answer until the next time.

    What makes dear samplers bearable: NSCaching's cache (Zhang et al., ICDE 2019) and ANCE's index (Xiong et al., ICLR
    2021) hold draws of an older model in the same way. The inner sampler's cost is paid once in `every` epochs, 4 bytes
    a negative are held (and as much for each of the other columns), and the draws grow stale: what was hard for the
    weights of the refresh has been pushed down since. How stale is told as the group of every column, the epochs since
    the refresh, so that the meter says after each epoch how hard draws of that age still are. With every = 1 all rows
    see the weights with which the epoch began. log_q is the inner sampler's at the refresh: the law by which an item
    was drawn, though not the one it would be drawn by now; weights, levels, labels and masks are kept too. Made-up
    vectors cannot be kept, and what a sampler would hear of its draws is not passed on.

    inner: the sampler to ask, a table of its own in a recipe, [sampler.inner]; without one, uniform draws. every:
    epochs from one refresh to the next, 1 .. 20.
    """

    log_q_is = "exact"

    def __init__(self, data: Data, *, inner: Sampler | None = None, every: int = 5) -> None:
        super().__init__(data)
        must_hold(
            "cached",
            every=(every, every >= 1, "at least 1"),
        )
        self.inner, self.every, self.refreshed = inner, every, -1
        self.log_q_is = "exact" if inner is None else inner.log_q_is
        self.kept: dict[str, Tensor] = {}

    def begin_epoch(self, epoch: int, model: Backbone, tables: Tables) -> None:
        """Asks the inner sampler about all rows when it is time, or when there is nothing yet."""
        due = not (epoch % self.every and self.kept)
        if self.inner is not None and (due or self.inner.state_dict()):  # one that learns or remembers hears of all
            self.inner.seed = self.seed
            self.inner.begin_epoch(epoch, model, tables)
        if not due:
            return
        parts: list[dict[str, Tensor]] = []
        with torch.no_grad():
            for each in self.data.batches(ROWS, self.seed, epoch, model.history):  # mixed up, for those that share
                batch = each.to(tables.items.device)
                parts.append(self._columns(batch, self._ask(tables, batch, model.query(tables, batch))))
        joined = _side_by_side(parts)
        rows, count = joined.pop("rows"), len(self.data.train)
        placed = {name: values.new_zeros(count, values.shape[1]) for name, values in joined.items()}
        self.kept, self.refreshed = {name: placed[name].index_copy_(0, rows, joined[name]) for name in joined}, epoch

    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        """What was kept for the batch's rows; before the first epoch, what the inner sampler says now."""
        if not self.kept or batch.rows is None:
            return self._ask(tables, batch, query)
        rows = batch.rows.to(self.kept["ids"].device)
        found: dict[str, Any] = {name: values[rows].to(query.device) for name, values in self.kept.items()}
        found["ids"] = found["ids"].long()
        return Negatives(**found, group=(max(0, batch.epoch - self.refreshed),) * found["ids"].shape[1])

    def own_loss(self, tables: Tables, batch: Batch, query: Tensor) -> Tensor:
        """What the inner sampler must learn, if anything."""
        if self.inner is None:
            return super().own_loss(tables, batch, query)
        return self.inner.own_loss(tables, batch, query)

    def _ask(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        if self.inner is not None:
            self.inner.seed = self.seed
            return self.inner(tables, batch, query)
        free = self.data.n_items - self.data.seen.on(batch.users.device).counts[batch.users]
        return Negatives(ids=self.unseen(batch, 1), log_q=-free.to(query.dtype).log()[:, None])

    def _columns(self, batch: Batch, negatives: Negatives) -> dict[str, Tensor]:
        if negatives.ids is None:
            raise PartsDoNotFit(
                f"cached keeps ids, and {type(self.inner).__name__} makes vectors up: take another one."
            )
        found = {name: getattr(negatives, name) for name in ("weights", "log_q", "level", "mask", "labels")}
        found = {name: values for name, values in found.items() if values is not None}
        return {"rows": rows_of(batch), "ids": negatives.ids.int(), **found}

    def get_extra_state(self) -> dict[str, Any]:
        """What was kept, and since when: part of a checkpoint, since the weights that it was drawn by are gone."""
        return {"kept": self.kept, "refreshed": self.refreshed}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Goes back to what was kept."""
        self.kept, self.refreshed = dict(state["kept"]), int(state["refreshed"])


def _side_by_side(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The columns of all blocks; what only some of them tell, a mask that hides nothing elsewhere, is filled in."""
    widths = {part["ids"].shape[1] for part in parts}
    if len(widths) > 1:
        raise PartsDoNotFit(
            f"cached keeps as many negatives for every row, and its inner sampler gives {min(widths)} to "
            f"{max(widths)}: set its count."
        )
    kinds = {name: values for part in parts for name, values in part.items()}
    return {
        name: torch.cat([p[name] if name in p else kind.new_full(p["ids"].shape, BLANK[name]) for p in parts])
        for name, kind in kinds.items()
        if name in BLANK or all(name in part for part in parts)
    }
