"""Ways to split interactions: each gives every row its part, 0 train, 1 valid, 2 test."""

import numpy as np
from numpy.typing import NDArray

from foilrec.numerics import streams

Labels = NDArray[np.int8]
Numbers = NDArray[np.int64]
TRAIN, VALID, TEST = 0, 1, 2


def random_per_user(users: Numbers, seed: int) -> Labels:
    """The rule of MMRec: users [N] -> labels [N], drawn per user from his n rows without regard to time.

    n < 3: all train. 3 <= n < 10: one valid, one test. n >= 10: floor(n / 5) rows are held out, of which the smaller
    half, floor(floor(n / 5) / 2), is valid and the rest test. The same seed and the same order of rows give the same
    split.
    """
    rank, count = _rank_from_the_end(users, _shuffled(len(users), seed))
    held = np.where(count < 3, 0, np.where(count < 10, 2, count // 5))
    labels = np.zeros(len(users), np.int8)
    labels[rank < held] = TEST
    labels[rank < held // 2] = VALID
    return labels


def leave_one_out(users: Numbers, times: NDArray[np.float64]) -> Labels:
    """The last row of each user by time is test, the last but one valid: users [N], times [N] -> labels [N].

    Users with fewer than three rows stay in train. Of rows at the same time, the one further down counts as later.
    """
    rank, count = _rank_from_the_end(users, np.argsort(times, kind="stable"))
    labels = np.zeros(len(users), np.int8)
    labels[(rank == 0) & (count >= 3)] = TEST
    labels[(rank == 1) & (count >= 3)] = VALID
    return labels


def global_time(times: NDArray[np.float64], valid_from: float = 0.8, test_from: float = 0.9) -> Labels:
    """One clock for all users: times [N] -> labels [N], with cuts at two quantiles of the times of all N rows.

    A row is train up to and with the time of row ceil(valid_from * N) in order of time, valid up to and with that of
    row ceil(test_from * N), and test after it: rows at the same time are never parted.
    """
    ordered = np.sort(times)
    last_train, last_valid = (
        ordered[max(int(np.ceil(share * len(times))) - 1, 0)] for share in (valid_from, test_from)
    )
    labels: Labels = (times > last_train).astype(np.int8) + (times > last_valid).astype(np.int8)
    return labels


def carve_valid(users: Numbers, seed: int, share: float = 0.1) -> Labels:
    """A validation part out of train, per user at random: users [N] of the train rows -> labels [N], 0 or 1.

    A user with n rows gives max(1, floor(share * n)) of them, and none if n < 3.
    """
    rank, count = _rank_from_the_end(users, _shuffled(len(users), seed))
    held = np.where(count < 3, 0, np.maximum(1, np.floor(share * count + 1e-9).astype(np.int64)))
    return (rank < held).astype(np.int8)


def by_user(users: Numbers, order: Numbers | None = None) -> Numbers:
    """The places [N] of the rows, user after user, and within a user in the order [N] given (or as they come)."""
    places = np.arange(len(users)) if order is None else order
    packed = users[places] << 32 | np.arange(len(users))  # sorting values is ten times faster than sorting places
    packed.sort()
    grouped: Numbers = places[packed & 0xFFFFFFFF]
    return grouped


def _shuffled(count: int, seed: int) -> Numbers:
    return np.random.default_rng(streams.key(seed, "split")).permutation(count)


def _rank_from_the_end(users: Numbers, order: Numbers) -> tuple[Numbers, Numbers]:
    """For each row, how many rows of its user come after it in that order, and how many the user has: [N], [N]."""
    if not len(users):
        return users, users
    counts = np.bincount(users)
    grouped = by_user(users, order)
    rank = np.empty(len(users), np.int64)
    rank[grouped] = np.repeat(counts.cumsum(), counts) - 1 - np.arange(len(users))
    return rank, counts[users]
