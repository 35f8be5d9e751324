"""The embedded synthetic shop: a world whose goods can be drawn and described, and whose tastes are known."""

from typing import Literal

import numpy as np
import torch

from foilrec import splits
from foilrec.core import Reader
from foilrec.data import Data, Features
from foilrec.errors import above, at_least, must_hold
from foilrec.numerics import streams
from foilrec.world import draws
from foilrec.world.catalogue import Catalogue
from foilrec.world.draws import Array
from foilrec.world.features import WIDTH
from foilrec.world.lazy import Lazy, Rows
from foilrec.world.tastes import Tastes
from foilrec.world.visits import Visits

_LAZY_ABOVE = 20_000  # items; with more, features are computed when they are asked for
_HASHED_BELOW = 200_000  # items; with more, the options stand for the features in the fingerprint


class Shop(Reader):
    """An invented clothes shop, made on the spot: nothing to download, and the truth behind every interaction known.

    Goods have a category, colour, material, pattern and style, from which come a title, a description and a drawn
    picture; the "image" features are computed from the picture and the "text" features from the words. Users have
    sparse personal tastes, are shown goods (popular ones more often) and take what they like. data.oracle gives the
    true probability for every pair, and for goods that do not exist; data.oracle.catalogue draws and describes them.

    users, items: how many (items at least 30); of more than 20,000 items the features are computed only when asked for,
        as texts and pictures always are, so that a million of each can be had.
    seed: another seed, another world.
    interactions: how many a user has on average (3 to a tenth of the items, or 15); they vary from half of that to
        nearly three times as many, and in a shop of few items a user may find fewer that he likes.
    skew: the most shown item is shown that many times as often as the least (above 1; 10 to 1000 are usual).
    noise: what is added to the features, as a share of their own spread (0 for none, 1 strong).
    no_picture: share of the items without a picture and image features (0 to 1).
    split: "random" holds out a fifth of what each user took, half of it for test; "leave-one-out" the last item for
        test and the last but one for validation, for backbones that read histories. What a user took before does not
        change what he takes next, but for the things he has.
    """

    def __init__(
        self,
        *,
        users: int = 800,
        items: int = 500,
        seed: int = 0,
        interactions: float = 15.0,
        skew: float = 12.0,
        noise: float = 0.3,
        no_picture: float = 0.0,
        split: Literal["random", "leave-one-out"] = "random",
    ) -> None:
        must_hold(
            "shop",
            **at_least(1, users=users),
            items=(items, 30 <= items < 2**31, "30 or more"),
            interactions=(interactions, 3 <= interactions <= max(15, items / 10), "3 to a tenth of the items"),
            **above(1, skew=skew),
            **at_least(0, noise=noise),
            no_picture=(no_picture, 0 <= no_picture <= 1, "a share, 0 to 1"),
        )
        self.users, self.items, self.seed, self.interactions = users, items, seed, interactions
        self.skew, self.noise, self.no_picture, self.split = skew, noise, no_picture, split

    def read(self) -> Data:
        """The whole world, split."""
        catalogue = Catalogue(self.items, self.seed, self.noise)
        tastes = Tastes(catalogue, self.users, self.seed)
        users, items = Visits(tastes, self.interactions, self.skew, self.seed).taken()
        labels = _last(users) if self.split == "leave-one-out" else _random(users, self.users, self.seed)
        pairs = torch.from_numpy(np.stack([users, items], 1).astype(np.int64))
        train, valid, test = (pairs[torch.from_numpy(labels == part)] for part in range(3))
        pictured = self._pictured()
        return Data(
            n_users=self.users,
            n_items=self.items,
            train=train,
            valid=valid,
            test=test,
            features={name: self._features(catalogue, name, pictured) for name in ("image", "text")},
            user_ids=_names("u", 4, self.users),
            item_ids=_names("item-", 5, self.items),
            titles=Lazy(self.items, catalogue.title),
            descriptions=Lazy(self.items, catalogue.describe),
            pictures=Lazy(self.items, lambda at: _drawn(catalogue, at, pictured)),
            oracle=tastes,
            name="shop",
            split=self.split,
            timed=self.split == "leave-one-out",
        )

    def _pictured(self) -> Array:
        key = streams.key(self.seed, "shop", "pictured")
        return draws.uniform(key, np.arange(self.items)) >= self.no_picture

    def _features(self, catalogue: Catalogue, modality: str, pictured: Array) -> Features:
        present = pictured if modality == "image" else np.ones_like(pictured)

        def make(items: Array) -> Array:
            return catalogue.features(modality, items) * present[items, None]

        told = (modality, self.items, self.seed, self.noise, self.no_picture)
        rows = Rows(self.items, WIDTH, make, digest=repr(told).encode() if self.items > _HASHED_BELOW else b"")
        known: Array = np.asarray(rows) if self.items <= _LAZY_ABOVE else rows  # type: ignore[assignment]
        return Features(known, None if present.all() else torch.from_numpy(present))


def _names(prefix: str, digits: int, count: int) -> Lazy[str]:
    width = max(digits, len(str(count - 1)))
    return Lazy(count, lambda numbers: [f"{prefix}{number:0{width}d}" for number in numbers.tolist()])


def _drawn(catalogue: Catalogue, items: Array, pictured: Array) -> list[Array | None]:
    drawings = catalogue.draw(items)
    return [drawing if there else None for drawing, there in zip(drawings, pictured[items], strict=True)]


def _last(users: Array) -> Array:
    return splits.leave_one_out(users.astype(np.int64), np.arange(len(users), dtype=np.float64))


def _random(users: Array, n_users: int, seed: int) -> Array:
    """0 train, 1 valid, 2 test for each row; a user with 10 or more rows holds out a fifth, rounded down.

    Half of what is held out, rounded down, is for validation; fewer rows give one to each, and fewer than 3 give none.
    """
    counts = np.bincount(users, minlength=n_users)
    held = np.where(counts >= 10, counts // 5, np.where(counts >= 3, 2, 0))
    place = np.arange(len(users)) - np.repeat(counts.cumsum() - counts, counts)
    lot = draws.bits(streams.key(seed, "shop", "split"), users, place) >> np.uint64(32)
    order = np.argsort(users.astype(np.uint64) << np.uint64(32) | lot, kind="stable")
    turn = np.empty_like(place)
    turn[order] = place
    labels: Array = np.where(
        turn >= held[users], splits.TRAIN, np.where(turn < held[users] // 2, splits.VALID, splits.TEST)
    )
    return labels
