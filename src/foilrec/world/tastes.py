"""What customers truly like: the probability for every user and every good, sold in the shop or only imagined."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from foilrec.numerics import streams
from foilrec.world import draws
from foilrec.world.catalogue import Catalogue
from foilrec.world.draws import Array

# Tuned at 800 users and 500 items: a twelfth of the shop is liked, and neighbours in taste can be found.
_BASE, _STRENGTH, _THRESHOLD, _QUALITY, _WHIM = -2.6, 3.0, 0.6, 0.3, 0.5
_TUNED_AT = 500
_CIRCLES, _SHARED = 12, 0.9  # circles of taste, and the correlation of a user's taste with his circle's


class Tastes:
    """The oracle of a shop: p(u, i) = sigmoid(taste for i's attributes + quality of i + a whim of u about i).

    Each user likes some attribute values and dislikes some; about half leave him cold. He shares much of that with his
    circle, one of 12, and the rest is his own. Whether u likes i is decided once, with probability p(u, i), and told
    by likes().

    catalogue: the goods; quality [I] is each item's own appeal, of mean 0.
    """

    def __init__(self, catalogue: Catalogue, n_users: int, seed: int) -> None:
        self.catalogue, self.n_users = catalogue, n_users
        names = ("weights", "circle", "quality", "whim", "decision")
        self._keys = {name: streams.key(seed, "shop", name) for name in names}
        self._shares = np.concatenate([catalogue.shares(name) for name in catalogue.vocabularies])
        sizes = [len(words) for words in catalogue.vocabularies.values()]
        self._sizes, self._starts = np.array(sizes), np.cumsum([0, *sizes[:-1]])
        self._first = dict(zip(catalogue.vocabularies, self._starts.tolist(), strict=True))
        self._width = sum(sizes)
        # Every value of every attribute has one place in a user's weights: five small numbers say what an item is.
        columns = [catalogue.attributes[name] + first for name, first in self._first.items()]
        self._places = np.stack([column.astype(np.uint8) for column in columns])
        # In a small shop customers are less choosy: everyone must find something.
        self._base = np.float32(_BASE + np.log(max(1.0, _TUNED_AT / catalogue.n_items)))
        self.quality = draws.normal(self._keys["quality"], np.arange(catalogue.n_items))

    def weights(self, users: Array) -> Array:
        """What each attribute value adds to the log-odds, values in the order of the vocabularies: [B] -> [B, V]."""
        circles = draws.below(_CIRCLES, self._keys["circle"], users)
        values = np.arange(self._width)
        shared = draws.normal(self._keys["circle"], np.arange(_CIRCLES)[:, None], values)
        own = draws.normal(self._keys["weights"], users[:, None], values)
        raw = shared[circles] * np.float32(_SHARED) + own * np.float32((1 - _SHARED**2) ** 0.5)
        sparse: Array = np.sign(raw) * np.maximum(abs(raw) - np.float32(_THRESHOLD), 0) * np.float32(_STRENGTH)
        # Level: each attribute takes away on average what it gives, so that everyone finds something to like.
        gains = np.log(np.add.reduceat(np.exp(sparse / 2) * self._shares, self._starts, axis=1)) * 2
        level: Array = (sparse - np.repeat(gains, self._sizes, axis=1)).astype(np.float32)
        return level

    def odds(self, users: Array, items: Array) -> Array:
        """The log-odds that users [B] like items [B, K]: float32 [B, K]."""
        row = np.arange(len(users))[:, None] * self._width
        weights = self.weights(users).ravel()
        total = draws.normal(self._keys["whim"], users[:, None], items) * np.float32(_WHIM)
        total += self.quality[items] * np.float32(_QUALITY) + self._base
        for places in self._places:
            total += weights[places[items] + row]
        return total

    def decided(self, users: Array, items: Array) -> Array:
        """Whether users [B] like items [B, K], numpy in and out: bool [B, K]."""
        chance = 1 / (1 + np.exp(-self.odds(users, items).astype(np.float64)))
        yes: Array = draws.uniform(self._keys["decision"], users[:, None], items) < chance
        return yes

    def probability(self, users: Tensor, items: Tensor) -> Tensor:
        """The true probability that users [B] like items [B, K]: float32 [B, K]."""
        odds = self.odds(users.cpu().numpy(), items.cpu().numpy())
        return torch.from_numpy(odds).to(items.device).sigmoid()

    def likes(self, users: Tensor, items: Tensor) -> Tensor:
        """Whether users [B] would take items [B, K] if shown: bool [B, K], true of everything they did take."""
        return torch.from_numpy(self.decided(users.cpu().numpy(), items.cpu().numpy())).to(items.device)

    def like(self, users: Tensor, attributes: Mapping[str, Tensor]) -> Tensor:
        """The probability that users [B] like goods of any attributes {name: [B, K]}: float32 [B, K].

        The goods need not exist: they are of middling quality, and no user has a whim about them.
        """
        weights = torch.from_numpy(self.weights(users.cpu().numpy()))
        places = [attributes[name].cpu().long() + first for name, first in self._first.items()]
        total = sum((weights.gather(1, place) for place in places), start=torch.tensor(self._base))
        return total.sigmoid().to(users.device)
