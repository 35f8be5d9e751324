"""From a log to Data: filters, split, order, and the checks that every data set must pass."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from foilrec import splits
from foilrec.data import Data, Features, Neighbours
from foilrec.errors import BadData, at_least, must_hold
from foilrec.reading.filters import PARTS, dense_core, first_of_each_pair, high_ratings
from foilrec.reading.log import Log
from foilrec.reading.numbering import unless_plain
from foilrec.reading.places import one_of

SPLITS = ("given", "random", "leave-one-out", "time")


@dataclass(frozen=True)
class Choices:
    """The options that all readers share.

    split: "given" (the labels of the source), "random" (a seeded draw per user, MMRec's rule), "leave-one-out" (the
    last of each user is test, the last but one valid) or "time" (one clock: the first 80 %, the next 10 %, the rest).
    split_seed: of the random draw. min_rating: interactions rated lower are left out. core: users and items with fewer
    interactions are left out, again and again until none is left (0: all stay).
    """

    split: str = "given"
    split_seed: int = 0
    min_rating: float | None = None
    core: int = 0

    def __post_init__(self) -> None:
        one_of("split", self.split, SPLITS)
        must_hold("dataset", **at_least(0, core=self.core), min_rating=(self.min_rating, True, "a number, or None"))

    @property
    def needs_times(self) -> bool:
        """Whether the split goes by time."""
        return self.split in ("leave-one-out", "time")

    def told(self) -> str:
        """The split in words, for reports."""
        return {
            "given": "given",
            "random": f"random per user, seed {self.split_seed}",
            "time": "time, 80/10/10 %",
            "leave-one-out": "leave-one-out by time",
        }[self.split]


@dataclass(frozen=True)
class Extras:
    """What a reader knows about the items besides the log: everything in the order of the items left, [I]."""

    features: Mapping[str, Features] = field(default_factory=dict)
    neighbours: Mapping[str, Neighbours] = field(default_factory=dict)
    titles: Sequence[str] | None = None
    descriptions: Sequence[str] | None = None
    pictures: Sequence[Any] | None = None
    notes: Sequence[str] = ()


def assemble(log: Log, choices: Choices, extras: Callable[[Log], Extras], told: str | None = None) -> Data:
    """The data set of a log; extras is asked once the items are numbered. told replaces the words for the split."""
    if choices.split != "given":
        log = replace(log, labels=None)
    elif log.labels is None:
        raise BadData(
            f'{log.name} has no column of labels (0 train, 1 valid, 2 test), and split = "given" needs one. '
            'Name it, or choose split = "random", "leave-one-out" or "time".'
        )
    if choices.needs_times and log.times is None:
        raise BadData(
            f"{log.name} has no column of times, and split = {choices.split!r} goes by time. Name the column, or "
            'choose split = "random".'
        )
    log, notes = _filtered(log, choices)
    log = _split(log, choices)
    if log.times is not None:
        log = log.take(splits.by_user(log.users, np.argsort(log.times, kind="stable")))
    parts, cold = _parts(log, choices)
    more = extras(log)
    return Data(
        n_users=log.n_users,
        n_items=log.n_items,
        train=parts[0],
        valid=parts[1],
        test=parts[2],
        features=more.features,
        neighbours=more.neighbours,
        user_ids=unless_plain(log.user_ids),
        item_ids=unless_plain(log.item_ids),
        titles=more.titles,
        descriptions=more.descriptions,
        pictures=more.pictures,
        name=log.name,
        split=told or choices.told(),
        notes=(*_blanks(log), *notes, *cold, *more.notes),
        timed=_timed(log, choices),
    )


def _blanks(log: Log) -> list[str]:
    """A note of raw ids with blanks around them, which no other file may have."""
    notes = []
    for kind, ids in (("users", log.user_ids), ("items", log.item_ids)):
        found = [raw for raw in ids or () if isinstance(raw, str) and raw != raw.strip()]
        notes += [f"{len(found):,} {kind} have blanks around their ids, such as {found[0]!r}"] if found else []
    return notes


def _filtered(log: Log, choices: Choices) -> tuple[Log, list[str]]:
    log, low = high_ratings(log, choices.min_rating)
    if not len(log):
        raise BadData(f"{log.name}: no interaction is rated {choices.min_rating} or higher. Lower min_rating.")
    log, twice = first_of_each_pair(log)
    log, loose = dense_core(log, choices.core)
    return log.compact() if low or loose or choices.core > 1 else log, low + twice + loose


def _split(log: Log, choices: Choices) -> Log:
    if choices.split == "given":
        return log
    if choices.split == "random":
        return replace(log, labels=splits.random_per_user(log.users, choices.split_seed))
    assert log.times is not None
    by_user = choices.split == "leave-one-out"
    return replace(log, labels=splits.leave_one_out(log.users, log.times) if by_user else splits.global_time(log.times))


def _timed(log: Log, choices: Choices) -> bool:
    """Whether train, valid and test follow each other in time within each user: so by two splits, seldom by labels."""
    if log.times is None or log.labels is None or choices.split != "given":
        return choices.needs_times
    order = np.lexsort((log.labels, log.times, log.users))
    users, labels = log.users[order], log.labels[order]
    return not bool(((users[1:] == users[:-1]) & (labels[1:] < labels[:-1])).any())


def _parts(log: Log, choices: Choices) -> tuple[list[torch.Tensor], list[str]]:
    """The pairs [N, 2] of train, valid and test; users without training rows are left out of valid and test."""
    assert log.labels is not None
    trained = np.zeros(log.n_users, bool)
    trained[log.users[log.labels == splits.TRAIN]] = True
    parts: list[torch.Tensor] = []
    notes: list[str] = []
    for label, part in enumerate(PARTS):
        there = log.labels == label
        keep = there & trained[log.users]
        dropped = int(there.sum() - keep.sum())
        if dropped:
            users = len(np.unique(log.users[there & ~keep]))
            notes.append(f"{users:,} users ({dropped:,} rows) left out of {part}: they have no training rows")
        pairs = np.empty((int(keep.sum()), 2), np.int64)
        pairs[:, 0], pairs[:, 1] = log.users[keep], log.items[keep]
        parts.append(torch.from_numpy(pairs))
        if not len(pairs):
            raise BadData(_nothing_in(log, part, dropped, choices))
    return parts, notes


def _nothing_in(log: Log, part: str, dropped: int, choices: Choices) -> str:
    counts = ", ".join(f"{name} {np.count_nonzero(log.labels == label):,}" for label, name in enumerate(PARTS))
    why = f" once {dropped:,} rows of users without training rows are left out" if dropped else ""
    cure = {
        "given": "mend the labels (reader mmrec: or valid_label and test_label), or choose another split",
        "time": "rows at one time stay together, so that times must differ more, or choose another split",
    }.get(choices.split, "of users with fewer than three rows nothing is held out, so that some need more rows")
    return f"{log.name}: nothing is in {part}{why} (rows by label: {counts}). All three parts are needed: {cure}."
