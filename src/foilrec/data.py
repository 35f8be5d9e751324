"""Who took what, when, and what the items look like: the data class that every part is given."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from foilrec.errors import BadData, BadOption, PartsDoNotFit
from foilrec.numerics import kernels, memory, streams
from foilrec.numerics.shapes import wrong_ids, wrong_pairs
from foilrec.seen import SeenIndex
from foilrec.sequences import Histories, Past


@dataclass
class Batch:
    """Some observed interactions: users [B] took positives [B].

    rows [B] says which training rows these are: together with the epoch it decides every random draw for them, so
    that neither the batch size nor the order of the batches changes a negative. history says what each user took
    before, for backbones that read it: whole sequences, into which the rows point. seed is that of the run: what parts
    draw by it, they agree on.
    """

    users: Tensor
    positives: Tensor
    rows: Tensor | None = None
    epoch: int = 0
    history: Past | None = None
    seed: int = 0
    _first: int | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if wrong := wrong_ids(users=self.users, positives=self.positives, rows=self.rows):
            raise BadOption(wrong)

    def __len__(self) -> int:
        return len(self.users)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        if self.users.device == device:
            return self
        rows = None if self.rows is None else self.rows.to(device)
        history = None if self.history is None else self.history.to(device)
        there = replace(self, users=self.users.to(device), positives=self.positives.to(device), rows=rows)
        there.history, there._first = history, self.first
        return there

    @property
    def first(self) -> int:
        """The first of the rows, by which a step's random streams are told (-1 without rows); known before it moves."""
        if self._first is None:
            self._first = -1 if self.rows is None else int(self.rows[0])
        return self._first

    @property
    def past(self) -> Past:
        """The history, which a backbone that reads it needs."""
        if self.history is None:
            raise BadOption("This batch tells no history: make it with data.batch(..., history=model.history).")
        return self.history


@dataclass(frozen=True)
class Features:
    """One modality of the items: rows [I, F] (any float type, memory-mapped if large), and which items have it.

    An item without the modality is marked in `present`; its row is never used as if it were content. surrogate says
    that these are stand-ins for features that could not be had: reports repeat the word.
    """

    rows: np.ndarray[Any, Any]
    present: Tensor | None = None
    surrogate: bool = False
    _there: dict[torch.device, Tensor | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def dim(self) -> int:
        """How wide a row is."""
        return int(self.rows.shape[1])

    def __len__(self) -> int:
        return int(self.rows.shape[0])

    def of(self, ids: Tensor) -> Tensor:
        """The rows of some items in float32, zero where the item lacks the modality: ids [...] -> [..., F]."""
        flat, there = ids.reshape(-1), self._on(ids.device)
        if there is None:
            rows = torch.from_numpy(np.asarray(self.rows[flat.cpu().numpy()], np.float32)).to(ids.device)
        else:
            rows = there[flat].float()
        if self.present is not None:
            rows = rows.masked_fill_(~self.has(flat)[:, None], 0)
        return rows.view(*ids.shape, self.dim)

    def _on(self, device: torch.device) -> Tensor | None:
        """All rows on a device that is not the CPU, if half of what is free there holds them; kept once asked for."""
        if device.type == "cpu" or not isinstance(self.rows, np.ndarray):
            return None
        if device not in self._there:
            fits = 2 * self.rows.nbytes <= memory.free_on(device)
            self._there[device] = torch.tensor(self.rows).to(device) if fits else None
        return self._there[device]

    def differences(self, plus: Tensor, minus: Tensor) -> Tensor:
        """Rows of some items less rows of others in float32, zero where one lacks the modality: ids [B] -> [B, F]."""
        if self._on(plus.device) is None:
            made = kernels.differences(self.rows, plus.cpu(), minus.cpu()).to(plus.device)
        else:
            made = self.of(plus) - self.of(minus)
        if self.present is not None:
            made = made.masked_fill_(~(self.has(plus) & self.has(minus))[:, None], 0)
        return made

    def has(self, ids: Tensor) -> Tensor:
        """Whether each item has the modality: ids [...] -> bool [...]."""
        everyone = torch.ones_like(ids, dtype=torch.bool)
        return everyone if self.present is None else self.present.to(ids.device)[ids]

    def digest(self) -> bytes:
        """A digest of the rows; rows computed when asked for bring their own, in an attribute `digest`: what
        they follow from, which a converted copy does not know."""
        own = getattr(self.rows, "digest", None)
        if own is not None:
            return bytes(own)
        digest = blake2b(digest_size=16)
        for block in range(0, len(self), 65536):
            digest.update(np.ascontiguousarray(self.rows[block : block + 65536]).data)
        return digest.digest()

    def all(self) -> Tensor:
        """Every row in float32, zero where missing: [I, F]."""
        return self.of(torch.arange(len(self)))


@dataclass(frozen=True)
class Neighbours:
    """A ready-made neighbour graph of one modality: ids [I, k], the item itself included, and their cosines [I, k]."""

    ids: Tensor
    cosines: Tensor | None = None


class Oracle(Protocol):
    """Knows the true probability that a user likes an item: only a synthetic world has one."""

    def probability(self, users: Tensor, items: Tensor) -> Tensor:
        """users [B], items [B, K] -> [B, K] in 0..1."""


@dataclass(frozen=True)
class Data:
    """A data set, split and numbered from 0.

    train, valid and test hold (user, item) rows as int64 [N, 2], in time order within a user where times are known.
    Raw ids, titles and pictures stand at the place of the number that stands for them. notes say what the reader
    found worth telling (duplicates dropped, users left out). timed says that times are known and the split goes by
    them: within a user train, valid and test follow each other, so that histories can be told.
    """

    n_users: int
    n_items: int
    train: Tensor
    valid: Tensor
    test: Tensor
    features: Mapping[str, Features] = field(default_factory=dict)
    neighbours: Mapping[str, Neighbours] = field(default_factory=dict)
    user_ids: Sequence[Any] | None = None
    item_ids: Sequence[Any] | None = None
    titles: Sequence[str] | None = None
    descriptions: Sequence[str] | None = None
    pictures: Sequence[Any] | None = None
    oracle: Oracle | None = None
    name: str = "data"
    split: str = "given"
    notes: tuple[str, ...] = ()
    timed: bool = False

    def __post_init__(self) -> None:
        for phase in ("train", "valid", "test"):
            if wrong := wrong_pairs(getattr(self, phase), self.n_users, self.n_items):
                raise BadData(f"{self.name}: {phase} {wrong}")
        sizes = {name: len(known) for name, known in self.features.items()}
        for name, rows in (*sizes.items(), *((name, len(graph.ids)) for name, graph in self.neighbours.items())):
            if rows != self.n_items:
                raise BadData(f"{self.name}: {name} has {rows:,} rows for {self.n_items:,} items.")

    @cached_property
    def seen(self) -> SeenIndex:
        """What was taken in training: the only knowledge a sampler may have."""
        return SeenIndex(self.train, self.n_users, self.n_items)

    def seen_in(self, *phases: str) -> SeenIndex:
        """What was taken in several phases together, for masks at evaluation: seen_in("train", "valid")."""
        if phases == ("train",):
            return self.seen
        return SeenIndex(torch.cat([self.train[:0], *(getattr(self, p) for p in phases)]), self.n_users, self.n_items)

    @cached_property
    def popularity(self) -> Tensor:
        """How often each item was taken in training, [I]."""
        return torch.bincount(self.train[:, 1], minlength=self.n_items)

    def histories(self, *phases: str) -> Histories:
        """What each user took in some phases, in order of time; PartsDoNotFit where that is not known."""
        if not self.timed:
            raise PartsDoNotFit(
                f"{self.name} does not tell what a user had taken before what (split {self.split!r}), and a backbone "
                'that reads histories asks for it: take split = "leave-one-out" with a column of times, or the reader '
                "sequences."
            )
        if phases not in self._histories:
            self._histories[phases] = Histories(torch.cat([getattr(self, p) for p in phases]), self.n_users)
        return self._histories[phases]

    @cached_property
    def _histories(self) -> dict[tuple[str, ...], Histories]:
        return {}

    def trained(self, history: int = 0) -> Tensor:
        """The training rows that a backbone with so much history learns from: all, or those that have a past."""
        return self.histories("train").trained if history else torch.arange(len(self.train))

    def steps(self, size: int, seed: int, epoch: int = 0, history: int = 0) -> tuple[Tensor, ...]:
        """The rows of each step of an epoch, in random order, a function of (seed, epoch): `size` rows a step.

        With history, whole sequences in random order, about `size` rows a step: see foilrec.sequences.
        """
        generator = streams.generator(seed, "batches", epoch)
        if history:
            return self.histories("train").steps(size, history, generator)
        return tuple(torch.randperm(len(self.train), generator=generator).split(size))

    def batch(self, rows: Tensor, epoch: int = 0, *, seed: int = 0, history: int = 0) -> Batch:
        """Some training rows [B]; history: how many past items the backbone reads."""
        users, positives = self.train.index_select(0, rows).T.contiguous()
        past = self.histories("train").before(rows, history) if history else None
        return Batch(users, positives, rows, epoch, past, seed)

    def batches(self, size: int, seed: int, epoch: int = 0, history: int = 0) -> Iterator[Batch]:
        """The training rows of one epoch, step by step."""
        for rows in self.steps(size, seed, epoch, history):
            yield self.batch(rows, epoch, seed=seed, history=history)

    def ask(self, users: Tensor, history: int = 0, known: tuple[str, ...] = ("train",)) -> Batch:
        """What some users [B] will like next, positives -1; of their history that of the `known` phases is told."""
        past = self.histories(*known).after(users, history) if history else None
        return Batch(users, torch.full_like(users, -1), history=past)

    def easy(self, batch: Batch) -> Tensor:
        """One uniform unseen item a row, [B]: the same for every part that asks, so that they can agree on it."""
        if batch.rows is None:
            raise BadOption("This batch does not say which training rows it holds: take it from data.batches().")
        key = streams.key(batch.seed, "easy", batch.epoch)
        return self.seen.unseen(batch.users, batch.rows, 1, key)[:, 0]

    def user_number(self, raw: object) -> int | None:
        """The number of a raw user id, or None when the data has no such user."""
        return self._user_numbers.get(str(raw))

    @cached_property
    def _user_numbers(self) -> dict[str, int]:
        return {str(raw): number for number, raw in enumerate(self.raw_users(range(self.n_users)))}

    def raw_users(self, numbers: Sequence[int]) -> list[Any]:
        """The ids that the source used for some users."""
        return list(numbers) if self.user_ids is None else [self.user_ids[n] for n in numbers]

    def raw_items(self, numbers: Sequence[int]) -> list[Any]:
        """The ids that the source used for some items."""
        return list(numbers) if self.item_ids is None else [self.item_ids[n] for n in numbers]

    def modalities(self, wanted: Sequence[str] | None, what: str, cure: str) -> tuple[str, ...]:
        """The modalities that a part uses, all by default; PartsDoNotFit, worded by the part, if they are not there."""
        names = tuple(self.features) if wanted is None else tuple(wanted)
        if not names or set(names) - set(self.features):
            raise PartsDoNotFit(
                f"{what} item features{f' {list(names)}' if names else ''}, and {self.name} has "
                f"{', '.join(self.features) or 'none'}: {cure}."
            )
        return names

    @property
    def interactions(self) -> str:
        """A digest of interactions, split and ids alone: what two runs must share for their users to be compared."""
        return self._interactions().hexdigest()

    def _interactions(self) -> blake2b:
        digest = blake2b(f"{self.n_users} {self.n_items}".encode(), digest_size=16)
        for part in (self.train, self.valid, self.test):
            digest.update(np.ascontiguousarray(part.numpy()).data)
        for ids in (self.user_ids, self.item_ids):
            digest.update("\x1f".join(map(str, () if ids is None else ids)).encode())
        return digest

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the content (interactions, ids, features, graphs without cosines) that tells data sets apart."""
        digest = self._interactions()
        for name, modality in sorted(self.features.items()):
            digest.update(f"{name} {modality.surrogate}".encode())
            digest.update(modality.digest())
            digest.update(b"" if modality.present is None else modality.present.numpy().tobytes())
        for name, graph in sorted(self.neighbours.items()):
            digest.update(name.encode() + np.ascontiguousarray(graph.ids.numpy()).tobytes())
        return digest.hexdigest()
