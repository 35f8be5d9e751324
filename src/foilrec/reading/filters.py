"""What is left out before a split: low ratings, repeated pairs, and users and items that occur too seldom."""

import numpy as np
from numpy.typing import NDArray

from foilrec.errors import BadData
from foilrec.reading.log import Log
from foilrec.reading.numbering import Numbers

PARTS = ("train", "valid", "test")


def high_ratings(log: Log, least: float | None) -> tuple[Log, list[str]]:
    """The interactions rated at least so high, and a note of how many were not."""
    if least is None:
        return log, []
    if log.ratings is None:
        raise BadData(
            f"min_rating = {least:g} was asked of {log.name}, which has no column of ratings. Name the column "
            "of ratings, or leave min_rating out."
        )
    keep = log.ratings >= least
    dropped = int((~keep).sum())
    return (log.take(keep), [f"{dropped:,} interactions rated below {least:g} left out"]) if dropped else (log, [])


def first_of_each_pair(log: Log) -> tuple[Log, list[str]]:
    """Every (user, item) once, the earliest by time or else by place in the source, and a note of how many went.

    A pair that occurs in two parts of a given split is an error: what is tested would have been seen in training.
    """
    keys = log.users * log.n_items + log.items
    ordered = np.sort(keys)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(repeated):
        return log, []
    nearest = np.minimum(np.searchsorted(repeated, keys), len(repeated) - 1)
    rows = np.flatnonzero(repeated[nearest] == keys)  # few as a rule, and only these are put in order
    order = rows[np.lexsort((keys[rows],) if log.times is None else (log.times[rows], keys[rows]))]
    again = keys[order[1:]] == keys[order[:-1]]
    if log.labels is not None:
        _refuse_leaks(log, order[:-1][again], order[1:][again])
    keep = np.ones(len(log), bool)
    keep[order[1:][again]] = False
    return log.take(keep), [f"{int(again.sum()):,} duplicate pairs dropped, the earliest kept"]


def _refuse_leaks(log: Log, first: Numbers, second: Numbers) -> None:
    """Raises BadData when two rows of one pair lie in different parts: places [M] of the one and the other."""
    assert log.labels is not None
    leaks = np.flatnonzero(log.labels[first] != log.labels[second])
    if not len(leaks):
        return
    rows = sorted((int(first[leaks[0]]), int(second[leaks[0]])), key=lambda row: int(log.rows[row]))
    one, other = (f"{log.where(int(log.rows[r]))} ({PARTS[log.labels[r]]})" for r in rows)
    user, item = log.raw_user(int(log.users[rows[0]])), log.raw_item(int(log.items[rows[0]]))
    raise BadData(
        f"{log.name}: user {user} and item {item} occur in two parts of the split, at {one} and at {other}; "
        f"{len(leaks):,} such pairs in all. What is tested must not be seen in training: drop one of the two "
        'lines, or let foilrec split anew with split = "random".'
    )


def k_core(users: Numbers, items: Numbers, k: int) -> NDArray[np.bool_]:
    """Which rows [N] belong to the k-core: the largest part where every user and every item has k rows or more."""
    keep = np.ones(len(users), bool)
    places = np.arange(len(users))
    n_users, n_items = (int(x.max(initial=-1)) + 1 for x in (users, items))
    while len(places):
        u, i = users[places], items[places]
        good = (np.bincount(u, minlength=n_users) >= k)[u] & (np.bincount(i, minlength=n_items) >= k)[i]
        if good.all():
            break
        keep[places[~good]] = False
        places = places[good]
    return keep


def dense_core(log: Log, k: int) -> tuple[Log, list[str]]:
    """The k-core of the log, and a note of how many interactions lie outside it; k below 2 keeps everything."""
    if k < 2:
        return log, []
    keep = k_core(log.users, log.items, k)
    if not keep.any():
        raise BadData(f"{log.name}: no interaction is left in the {k}-core of its {len(log):,}. Take a smaller core.")
    dropped = int((~keep).sum())
    return (log.take(keep), [f"{dropped:,} interactions outside the {k}-core left out"]) if dropped else (log, [])
