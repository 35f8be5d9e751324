"""Customers walk through the shop: each is shown goods, popular ones more often, and takes those that he likes."""

import numpy as np

from foilrec.numerics import streams
from foilrec.world import draws
from foilrec.world.draws import Array
from foilrec.world.tastes import Tastes

_CROWD, _STROLL, _STROLLS = 16384, 64, 48  # users at a time; goods shown in one stroll; strolls at most
_FEWEST, _MOST, _BEND = 8 / 15, 40 / 15, 3.57  # how much users take, for a mean of 1: many take little, few take much


class Visits:
    """Who is shown what, and what comes of it.

    Each user walks until he has taken what he came for, or has strolled 48 times past 64 goods. What he is shown does
    not depend on his tastes; what he likes of it he takes, and only once.

    skew: the most shown item is shown that many times as often as the least (above 1).
    """

    def __init__(self, tastes: Tastes, mean: float, skew: float, seed: int) -> None:
        self._tastes, self._mean, self._skew = tastes, mean, skew
        self._keys = {name: streams.key(seed, "shop", name) for name in ("fame", "shown", "wanted")}
        luck = draws.normal(self._keys["fame"], np.arange(len(tastes.quality)))
        self._by_fame = np.argsort(-(tastes.quality * np.float32(0.5) + luck), kind="stable").astype(np.int32)

    def wanted(self, users: Array) -> Array:
        """How many items each user came for: int64 [B]."""
        share = _FEWEST + (_MOST - _FEWEST) * draws.uniform(self._keys["wanted"], users) ** _BEND
        return np.ceil(share * self._mean).astype(np.int64)

    def shown(self, users: Array, start: int, count: int) -> Array:
        """The goods that users [B] are shown at steps start..start+count-1 of their walk: [B, count]."""
        even = draws.uniform(self._keys["shown"], users[:, None], np.arange(start, start + count))
        # Fame falls as 1 / (rank + a head): the inverse of its sum is an exponential.
        place = (np.exp(even * np.log(self._skew)) - 1) / (self._skew - 1) * len(self._by_fame)
        goods: Array = self._by_fame[np.minimum(place.astype(np.int64), len(self._by_fame) - 1)]
        return goods

    def taken(self) -> tuple[Array, Array]:
        """Users and items of everything taken, by user and then by time: int32 [N] and int32 [N]."""
        everyone = np.arange(self._tastes.n_users)
        crowds = [self._crowd(everyone[at : at + _CROWD]) for at in range(0, len(everyone), _CROWD)]
        users, items = (np.concatenate(column) for column in zip(*crowds, strict=True))
        return users, items

    def _crowd(self, users: Array) -> tuple[Array, Array]:
        wanted, count = self.wanted(users), len(self._by_fame)
        found = np.zeros((0, 3), np.int64)  # user's place in the crowd, item, step
        open_ = np.arange(len(users))
        for stroll in range(_STROLLS):
            items = self.shown(users[open_], stroll * _STROLL, _STROLL)
            row, column = np.nonzero(self._tastes.decided(users[open_], items))
            fresh = np.stack([open_[row], items[row, column], column + stroll * _STROLL], 1)
            found = np.concatenate([found, fresh])
            # Of the times that an item was shown, np.unique keeps the first.
            found = found[np.unique(found[:, 0] * count + found[:, 1], return_index=True)[1]]
            open_ = np.flatnonzero(np.bincount(found[:, 0], minlength=len(users)) < wanted)
            if not len(open_):
                break
        found = found[np.lexsort((found[:, 2], found[:, 0]))]
        sizes = np.bincount(found[:, 0], minlength=len(users))
        turn = np.arange(len(found)) - np.repeat(sizes.cumsum() - sizes, sizes)
        found = found[turn < wanted[found[:, 0]]]
        return users[found[:, 0]].astype(np.int32), found[:, 1].astype(np.int32)
