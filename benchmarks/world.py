"""Made-up data of a given shape: Zipf popularity, log-normal activity, random features."""

import numpy as np
import torch

from foilrec.data import Data, Features, Neighbours


def pairs(n_users: int, n_items: int, count: int, seed: int = 0) -> np.ndarray:
    """About `count` distinct (user, item) keys u * I + i, sorted."""
    rng = np.random.default_rng(seed)
    activity = rng.lognormal(0, 0.6, n_users)
    drawn = rng.multinomial(int(count * 1.06), activity / activity.sum())
    users = np.repeat(np.arange(n_users, dtype=np.int64), drawn)
    ranks = (n_items ** rng.random(len(users)) - 1).astype(np.int64)  # log-uniform: Zipf with exponent 1
    mixed = np.where(rng.random(len(users)) < 0.5, rng.integers(0, n_items, len(users)), ranks)
    keys = users * n_items + mixed
    keys.sort()
    distinct: np.ndarray = keys[np.concatenate([[True], keys[1:] != keys[:-1]])]
    return distinct


def like_baby(widths: dict[str, int] | None = None, seed: int = 0) -> Data:
    """19,445 users, 7,050 items, about 118,500 training pairs, a test pair for nearly each user; features by width."""
    n_users, n_items = 19445, 7050
    keys = torch.from_numpy(pairs(n_users, n_items, 131_000, seed))
    every = torch.stack([keys // n_items, keys % n_items], 1)
    rng = torch.Generator().manual_seed(seed)
    last = torch.cat([every[1:, 0] != every[:-1, 0], torch.tensor([True])])  # one row a user is held out
    held = last & (torch.bincount(every[:, 0], minlength=n_users)[every[:, 0]] > 1)
    features, neighbours = {}, {}
    for name, width in (widths or {}).items():
        features[name] = Features(torch.randn(n_items, width, generator=rng).numpy())
        near = torch.randint(n_items, (n_items, 10), generator=rng)
        near[:, 0] = torch.arange(n_items)
        neighbours[name] = Neighbours(near)
    return Data(n_users, n_items, every[~held], every[held][::2], every[held], features, neighbours, name="like baby")


def like_beauty(seed: int = 0) -> Data:
    """22,363 users, 12,101 items, about 154,000 training pairs in an order of time, a pair of every tenth held out."""
    n_users, n_items = 22363, 12101
    keys = torch.from_numpy(pairs(n_users, n_items, 156_000, seed))
    every = torch.stack([keys // n_items, keys % n_items], 1)[torch.randperm(len(keys))]
    every = every[every[:, 0].argsort(stable=True)]
    last = torch.cat([every[1:, 0] != every[:-1, 0], torch.tensor([True])]) & (every[:, 0] % 10 == 0)
    return Data(n_users, n_items, every[~last], every[last][::2], every[last], timed=True, name="like beauty")
