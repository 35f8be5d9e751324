"""Uniform negatives with exact exclusion on one core, ours beside a loop by rows and a batch loop."""

import numpy as np
import torch

from benchmarks import world
from benchmarks.clock import Row, timed
from benchmarks.usual import one_of
from foilrec.numerics import kernels
from foilrec.seen import SeenIndex


def by_rows(history: list[set[int]], users: list[int], count: int, n_items: int) -> list[list[int]]:
    """The usual loop: one draw at a time, as the usual form has it, against a set."""
    drawn, every = [], list(range(n_items))
    for user in users:
        row: list[int] = []
        while len(row) < count:
            item = one_of(every)
            if item not in history[user]:
                row.append(item)
        drawn.append(row)
    return drawn


def by_batch(history: list[set[int]], users: np.ndarray, count: int, n_items: int) -> np.ndarray:
    """The better usual loop: draw a whole batch, test it against sets, draw again what was seen."""
    rng, owner = np.random.default_rng(0), np.repeat(users, count)
    drawn = rng.integers(0, n_items, len(owner))
    left = np.arange(len(owner))
    while len(left):
        again = [i for i, user, item in zip(left, owner[left], drawn[left], strict=True) if item in history[user]]
        left = np.array(again, dtype=np.int64)
        drawn[left] = rng.integers(0, n_items, len(left))
    return drawn.reshape(len(users), count)


def at_baby_size(count: int = 64) -> list[Row]:
    """2,048 rows with K = 64."""
    data = world.like_baby()
    seen, users = data.seen, data.train[torch.randperm(len(data.train))[:2048], 0].contiguous()
    rows = torch.arange(len(users))
    mine = timed(lambda: seen.unseen(users, rows, count, 1), 20)
    history: list[set[int]] = [set() for _ in range(data.n_users)]
    for user, item in data.train.tolist():
        history[user].add(item)
    loop = timed(lambda: by_rows(history, users.tolist(), count, data.n_items), 2)
    batch = timed(lambda: by_batch(history, users.numpy(), count, data.n_items), 2)
    speed = f"{len(users) * count / mine.cpu / 1e6:.1f} million a second, K = {count} (bar: 20)"
    return [
        Row("uniform negatives beside a loop by rows", mine.cpu, mine.wall, loop.cpu, loop.wall, None, speed),
        Row("uniform negatives beside a batch loop", mine.cpu, mine.wall, batch.cpu, batch.wall, None, speed),
    ]


def at_scale(n: int = 1_000_000, count: int = 100_000_000) -> list[Row]:
    """A million users and items, 100 million pairs, one negative for each of a million rows in random order."""
    keys = world.pairs(n, n, count)
    pairs = torch.empty(len(keys), 2, dtype=torch.long)
    pairs[:, 0], pairs[:, 1] = torch.from_numpy(keys // n), torch.from_numpy(keys % n)
    build = timed(lambda: SeenIndex(pairs, n, n))
    seen = SeenIndex(pairs, n, n)
    users, rows = pairs[torch.randperm(len(pairs))[:n], 0].contiguous(), torch.arange(n)
    mine = timed(lambda: seen.unseen(users, rows, 1, 1), 5)
    note = (
        f"{n / mine.cpu / 1e6:.2f} million a second (bar: 1); {len(keys):,} pairs; index built in {build.cpu:.0f} CPU s"
    )
    return [Row("uniform negatives, 1 million x 1 million", mine.cpu, mine.wall, note=note)]


def rows() -> list[Row]:
    """Every figure; numba must be there."""
    if kernels.compiled() is None:
        raise SystemExit("Install the extra `fast` (numba) for these figures.")
    return [*at_baby_size(), *at_scale()]
