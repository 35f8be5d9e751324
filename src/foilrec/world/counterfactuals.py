"""The shop's ideal negatives: goods that differ from an item in a few attributes, seen as if they existed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from foilrec.data import Data
from foilrec.errors import PartsDoNotFit
from foilrec.negatives.generated import write
from foilrec.numerics import streams
from foilrec.world import draws
from foilrec.world.catalogue import Catalogue, Values
from foilrec.world.draws import Array
from foilrec.world.tastes import Tastes

TRIED = 16  # edits among which the least liked is found
ASKED = 64  # buyers of an item who are asked about an edit


def write_counterfactuals(
    data: Data,
    folder: Path,
    *,
    difficulty: Sequence[int] = (1, 2, 3),
    edits: Literal["random", "disliked"] = "random",
    personal: bool = False,
    seed: int = 0,
) -> None:
    """Writes for every item of the shop a variant with so many attributes changed, as `foilrec generate` would.

    What a perfect editor and a perfect encoder would give, so that methods can be tried without either: features are
    those of the imagined good itself. edits: new values as frequent as in the catalogue, or, of 16 such edits, the one
    that buyers of the item like least: nobody can know that elsewhere, and it bounds what better prompts can gain.
    personal: one for each training row instead, disliked by its user. A column `liked` holds the true mean probability
    that those buyers (or that user) like it.
    """
    tastes = data.oracle
    if not isinstance(tastes, Tastes):
        raise PartsDoNotFit(f"{data.name} is no shop: what would be seen of goods that do not exist is not known.")
    users, items = data.train.T.numpy() if personal else (None, np.arange(data.n_items))
    levels = np.repeat(difficulty, len(items))
    rows = np.tile(np.arange(len(items)), len(difficulty))
    of, by = items[rows], None if users is None else users[rows]
    values, liked = _chosen(data, tastes, of, by, levels, TRIED if edits == "disliked" else 1, seed)
    after, before = ({m: _seen(data, tastes.catalogue, m, what, of) for m in data.features} for what in (values, of))
    write(
        folder,
        data.raw_items(of.tolist()),
        after,
        before,
        users=None if by is None else data.raw_users(by.tolist()),
        difficulty=levels.tolist(),
        encoder="shop",
        title=tastes.catalogue.title(values, of),
        liked=liked.tolist(),
    )


def edited(catalogue: Catalogue, items: Array, changes: Array, key: int, rows: Array) -> dict[str, Array]:
    """The attributes of items [n], `changes` [n] of them with other values: a function of (key, rows) alone."""
    names = list(catalogue.vocabularies)
    order = draws.uniform(key, rows[:, None], np.arange(len(names))).argsort(1).argsort(1)
    values = {}
    for place, (name, old) in enumerate(catalogue.of(items).items()):
        count = len(catalogue.vocabularies[name])
        weights = np.where(np.arange(count) == old[:, None], 0, catalogue.shares(name)).cumsum(1)
        chance = draws.uniform(key, rows, len(names) + place)[:, None] * weights[:, -1:]
        values[name] = np.where(order[:, place] < changes, (weights <= chance).sum(1), old)
    return values


def _chosen(
    data: Data, tastes: Tastes, items: Array, users: Array | None, changes: Array, tries: int, seed: int
) -> tuple[Values, Array]:
    """The least liked of some edits of every row, {attribute: [n]}, and how well it is liked, [n]."""
    key, rows = streams.key(seed, "counterfactuals"), np.arange(len(items))
    tried = [edited(tastes.catalogue, items, changes, streams.key(key, n), rows) for n in range(tries)]
    values = {name: np.stack([each[name] for each in tried], 1) for name in tried[0]}
    if users is not None:
        liked = tastes.like(torch.from_numpy(users), {m: torch.from_numpy(v) for m, v in values.items()}).numpy()
    else:
        liked = _by_buyers(data, tastes, items, values)
    best = liked.argmin(1)
    return {name: each[rows, best] for name, each in values.items()}, liked[rows, best]


def _by_buyers(data: Data, tastes: Tastes, items: Array, values: Values) -> Array:
    """The mean probability that buyers of items [n] like edits {attribute: [n, t]}, of everyone if none did: [n, t]."""
    train, found = data.train.numpy(), np.zeros(values["category"].shape)
    for item in np.unique(items):
        rows = np.flatnonzero(items == item)
        buyers = train[train[:, 1] == item, 0][:ASKED]
        who = torch.from_numpy(buyers if len(buyers) else np.arange(min(ASKED, data.n_users)))
        told = {name: torch.from_numpy(each[rows].reshape(1, -1)).expand(len(who), -1) for name, each in values.items()}
        found[rows] = tastes.like(who, told).double().mean(0).view(len(rows), -1).numpy()
    return found


def _seen(data: Data, catalogue: Catalogue, modality: str, what: Values | Array, of: Array) -> Array:
    """Features of imagined goods, 0 where the item lacks the modality: [n, F]."""
    has = data.features[modality].has(torch.from_numpy(of)).numpy()
    rows: Array = catalogue.features(modality, what, of) * has[:, None]
    return rows
