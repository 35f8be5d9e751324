"""Each user's rows as a sequence: what came before a row, steps of whole sequences, and how an encoder reads them.

A sequence of more than `length` + 1 rows is cut, from its end, into stretches of `length` + 1 that share one item: the
last of one is the first of the next. A row sees what its stretch holds before it, so that every row but a user's first
is trained on, once an epoch, and a sequence is encoded once for all its rows.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from torch.nn.utils.rnn import PackedSequence

SHORT = 2  # sequences of up to 2**SHORT items are encoded together
RowsOf = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Blocks:
    """How rows [n, D], the places of sequences one below another, are blocks of s sequences of one length h.

    shapes: (s, h) of each block, the longest first. What works on every place alone takes the rows as they are.
    """

    shapes: tuple[tuple[int, int], ...]

    def each(self, work: Callable[..., Tensor], *rows: Tensor) -> Tensor:
        """What a function of whole sequences, [s, h, D] each -> [s, h, D'], makes of rows [n, D] each: [n, D']."""
        sizes = [s * h for s, h in self.shapes]
        parts = zip(self.shapes, *(x.split(sizes) for x in rows), strict=True)
        return torch.cat([work(*(x.view(*shape, -1) for x in part)).flatten(0, 1) for shape, *part in parts])

    def through(self, layer: nn.Module, rows: Tensor) -> Tensor:
        """The states of a recurrent layer, [n, H], which goes through all sequences at once, place by place."""
        place = torch.cat([torch.arange(h).repeat(s) for s, h in self.shapes])
        order = place.argsort(stable=True)
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
        states: Tensor = layer(PackedSequence(rows[order.to(rows.device)], place.bincount()))[0].data
        return states[back.to(rows.device)]


Encode = Callable[[Tensor, Blocks], Tensor]


@dataclass
class Past:
    """What the rows of a batch know: row b's user had taken items[sequence[b], :place[b]] before, oldest first.

    items [S, H] are sequences, -1 after their end; sequence [B] and place [B] point into them, place 0 into nothing.
    All stay on the CPU, where shapes can be told from them at once; `device` is where they are read.
    """

    items: Tensor
    sequence: Tensor
    place: Tensor
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def to(self, device: torch.device) -> "Past":
        """The same, read on another device."""
        return replace(self, device=device)

    def read(self, look_up: RowsOf, encode: Encode) -> Tensor:
        """What a causal encoder says after each row's last item: [B, D], 0 for a row without one.

        look_up: items [n] -> rows [n, D]. encode: those rows, and which sequences they are -> states [n, D]. Sequences
        of like length are a block, cut to what is asked of them: what comes after an item changes nothing there.
        Behind the end of a sequence stands its first item again.
        """
        asked = self.place.new_zeros(len(self.items)).scatter_reduce(0, self.sequence, self.place, "amax")
        size = asked.clamp(min=1).double().log2().ceil().clamp(min=SHORT).where(asked > 0, 0)
        groups = [(size == like).nonzero()[:, 0] for like in size[asked > 0].unique().flip(0)]
        parts = [self.items[group, : int(asked[group].max())] for group in groups]
        first, start = torch.zeros_like(asked), 0  # where each sequence's states begin
        for group, part in zip(groups, parts, strict=True):
            first[group] = start + torch.arange(len(group)) * part.shape[1]
            start += part.numel()
        parts = [part.where(part >= 0, part[:, :1]).flatten() for part in parts]
        rows = look_up(torch.cat([self.items.new_empty(0), *parts]).to(self.device))
        shapes = tuple((len(group), len(part) // len(group)) for group, part in zip(groups, parts, strict=True))
        states = encode(rows, Blocks(shapes)) if shapes else rows
        at = (first[self.sequence] + self.place).where(self.place > 0, 0).to(self.device)
        return embedding(at, torch.cat([states.new_zeros(1, states.shape[1]), states]))


class Histories:
    """Rows [N, 2] of (user, item), which stand in order of time within each user, as one sequence a user."""

    def __init__(self, pairs: Tensor, n_users: int) -> None:
        self.order = pairs[:, 0].argsort(stable=True)  # the row at each place
        self.users, self.items = pairs[self.order].unbind(1)
        self.places = torch.empty_like(self.order)
        self.places[self.order] = torch.arange(len(pairs))
        self.starts = torch.zeros(n_users + 1, dtype=torch.long)
        self.starts[1:] = torch.bincount(self.users, minlength=n_users).cumsum(0)

    @property
    def trained(self) -> Tensor:
        """The rows that have a past: all but each user's first, in order of their numbers."""
        return self.order[self._have_past()].sort().values

    def _have_past(self) -> Tensor:
        return (torch.arange(len(self.users)) > self.starts[self.users]).nonzero()[:, 0]

    def before(self, rows: Tensor, length: int) -> Past:
        """What came before some rows [B], at most `length` items: whole stretches, each once."""
        at = self.places[rows]
        ends, sequence = self._end_of_stretch(at, length).unique(return_inverse=True)
        begins = (ends - length).maximum(self.starts[self.users[ends]])
        return Past(self._between(begins, ends), sequence, at - begins[sequence])

    def after(self, users: Tensor, length: int) -> Past:
        """The last items of some users [B], at most `length`: what a question about the next one knows."""
        ends = self.starts[users + 1]
        begins = (ends - length).maximum(self.starts[users])
        return Past(self._between(begins, ends), torch.arange(len(users)), ends - begins)

    def steps(self, size: int, length: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """The rows that have a past, stretch by stretch in random order, about `size` a step and no stretch parted."""
        at = self._have_past()
        _, stretch, counts = self._end_of_stretch(at, length).unique_consecutive(
            return_inverse=True, return_counts=True
        )
        turn = torch.randperm(len(counts), generator=generator)
        place = torch.empty_like(turn)
        place[turn] = torch.arange(len(turn))
        step = (counts[turn].cumsum(0) - counts[turn]) // size
        sizes = torch.zeros(int(step[-1]) + 1 if len(step) else 0, dtype=torch.long).index_add_(0, step, counts[turn])
        rows = self.order[at[place[stretch].argsort(stable=True)]]
        return tuple(rows.split(sizes[sizes > 0].tolist()))

    def _end_of_stretch(self, at: Tensor, length: int) -> Tensor:
        """The place of the last row of the stretch that rows at some places belong to."""
        last = self.starts[self.users[at] + 1] - 1
        return last - (last - at) // length * length

    def _between(self, begins: Tensor, ends: Tensor) -> Tensor:
        """The items from some places to others, [S, the longest], -1 after the end."""
        place = begins[:, None] + torch.arange(int((ends - begins).max()) if len(ends) else 0)
        inside = place < ends[:, None]
        return torch.where(inside, self.items[place.where(inside, 0)], -1) if len(self.items) else place
