"""UFNRec: negatives that go on scoring above the positive are false, and become positives."""

import copy
import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from foilrec.core import Backbone, Batch, Data, Negatives, Sampler, Tables, rows_of, score
from foilrec.errors import must_hold


@dataclass
class Served(Negatives):
    """Negatives, how often each was served again, [B, K], and the scores of the positives beside them, [B]."""

    times: Tensor = field(default_factory=lambda: torch.empty(0))
    bar: Tensor = field(default_factory=lambda: torch.empty(0))


class UFNRec(Sampler):
    """Uses false negatives. Liu et al., 2022 (arXiv 2208.04116).

    From epoch `start` on, a uniform negative that scores above the positive is served again for the same row, a place
    of a sequence, in the next epoch, and so on as long as it does. The `patience` + 1st time its label is 1: losses
    that take labels (bce) pull it up as a positive. Then it is let go, as published, and its count with it (published:
    counts are kept for ever, of items that do not come back too). own_loss is consistency times the mean over such
    items of BCE(s, sigma(teacher's s)), the teacher an average of the weights, theta' = decay theta' + (1 - decay)
    theta a step. The published code begins once the loss falls slowly, where here an epoch says so, and evaluates with
    the teacher's weights, which a sampler cannot: it is thrown away.

    Of a row at most `memory` items are kept, those of longest standing first: 10 bytes each and training row, part of
    a checkpoint, and so is the teacher, a copy of the weights. The meter tells new negatives from those served again
    and those made positive, stages 0, 1 and 2. srns avoids false negatives instead.

    count: negatives a row, 4 .. 100 (published: 100). memory: 1 .. count. patience: m, 5. start: 5 .. 20. consistency:
    0 .. .5; .15 is the published .3, beside twice the mean that bce is; 0 goes without a teacher. decay: .99 .. .9999.
    """

    items: Tensor
    times: Tensor
    next_items: Tensor
    next_times: Tensor

    def __init__(
        self,
        data: Data,
        *,
        count: int = 16,
        memory: int = 8,
        patience: int = 5,
        start: int = 8,
        consistency: float = 0.15,
        decay: float = 0.999,
    ) -> None:
        super().__init__(data)
        must_hold(
            "ufnrec",
            count=(count, count >= 1, "at least 1"),
            memory=(memory, 1 <= memory <= count, f"in 1 .. count = {count}"),
            patience=(patience, 1 <= patience <= 100, "in 1 .. 100"),
            start=(start, start >= 0, "at least 0"),
            consistency=(consistency, consistency >= 0, "at least 0"),
            decay=(decay, 0 <= decay < 1, "at least 0 and below 1"),
        )
        self.count, self.memory, self.patience, self.start = count, memory, patience, start
        self.begins = start + 1
        self.consistency, self.decay = consistency, decay
        for name in ("", "next_"):
            self.register_buffer(f"{name}items", torch.full((len(data.train), memory), -1, dtype=torch.int32))
            self.register_buffer(f"{name}times", torch.zeros(len(data.train), memory, dtype=torch.int8))
        self._average: dict[str, Tensor] = {}
        self._model: weakref.ref[Backbone] | None = None
        self._teacher: list[Backbone] = []  # in a list, so that its weights are none of the sampler's

    def begin_epoch(self, epoch: int, model: Backbone, tables: Tables) -> None:
        """What was noted in the last epoch is served in this one; the teacher starts as the model stands."""
        self.items.copy_(self.next_items)
        self.times.copy_(self.next_times)
        if epoch < self.start or not self.consistency:
            return
        self._model = weakref.ref(model)
        state = model.state_dict()  # what is in no state, and the data, no training changes
        constants = (buffer for name, buffer in model.named_buffers() if name not in state)
        kept = (model.data, model.data.features, *model.data.features.values(), *constants)
        self._teacher = [copy.deepcopy(model, {id(one): one for one in kept}).requires_grad_(False).eval()]
        if self._average:
            self._teacher[0].load_state_dict(self._average)
        self._average = self._teacher[0].state_dict()

    @torch.no_grad()
    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Served:
        """ids [B, count], those served again first, with labels and level."""
        rows, ids = rows_of(batch), self.unseen(batch, self.count)
        kept = self.items[rows].long()
        again = torch.zeros_like(ids, dtype=torch.bool)
        again[:, : self.memory] = kept >= 0
        ids[:, : self.memory] = torch.where(kept >= 0, kept, ids[:, : self.memory])
        times = torch.zeros_like(ids)
        times[:, : self.memory] = torch.where(kept >= 0, self.times[rows].long() + 1, 0)
        liked = times > self.patience
        bar = score(query, tables.item_rows(batch.positives))
        return Served(ids=ids, labels=liked.to(query.dtype), level=again.long() + liked, times=times, bar=bar)

    @torch.no_grad()
    def feedback(self, batch: Batch, negatives: Negatives, scores: Tensor) -> None:
        """Notes which negatives scored above the positive, and moves the teacher."""
        assert isinstance(negatives, Served) and negatives.ids is not None
        if batch.epoch < self.start:
            return
        high = (scores > negatives.bar[:, None]) & (negatives.times <= self.patience)
        first = (~high).int().argsort(dim=1, stable=True)[:, : self.memory]
        ids, there = negatives.ids.gather(1, first), high.gather(1, first)
        there &= ~((ids[:, :, None] == ids[:, None]) & there[:, None]).tril(-1).any(2)  # an item once
        rows = rows_of(batch)
        self.next_items[rows] = torch.where(there, ids, -1).int()
        self.next_times[rows] = torch.where(there, negatives.times.gather(1, first), 0).to(torch.int8)
        model = None if self._model is None else self._model()
        if model is not None:
            for name, value in model.state_dict().items():
                if isinstance(value, Tensor) and value.is_floating_point():
                    self._average[name].lerp_(value, 1 - self.decay)
                elif isinstance(value, Tensor):
                    self._average[name].copy_(value)

    def own_loss(self, tables: Tables, batch: Batch, query: Tensor) -> Tensor:
        """The consistency with the teacher on the items made positive, which reaches the backbone."""
        line, column = (self.times[rows_of(batch)] >= self.patience).nonzero().unbind(1)
        if not self._teacher or not len(line):
            return super().own_loss(tables, batch, query)
        ids, (teacher,) = self.items[rows_of(batch)][line, column].long(), self._teacher
        with torch.no_grad():
            theirs = teacher.propagate()
            soft = score(teacher.query(theirs, batch)[line], theirs.item_rows(ids)).sigmoid()
        mine = score(query[line], tables.item_rows(ids))
        return self.consistency * binary_cross_entropy_with_logits(mine, soft)

    def get_extra_state(self) -> dict[str, Any]:
        """The teacher's weights."""
        return {"teacher": self._average}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Goes back to them."""
        self._average = dict(state["teacher"])
