"""Hard negatives mined offline for any model of dot products, in blocks, with rank windows and margins."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from foilrec.errors import BadOption
from foilrec.graphs.nearest import Search, approximate, inverted_file
from foilrec.numerics import kernels, streams
from foilrec.seen import SeenIndex

BLOCK = 32 * 2**20  # bytes of scores held at once
ROWS = 4096  # queries that an approximate search is asked about at once
FILTERS = ("max_score", "margin", "relative")
Window = tuple[Tensor, Tensor, Tensor, Tensor]  # places of pairs, their scores; ids and scores [p, last - first + 1]


@dataclass(frozen=True)
class Rules:
    """Which of a query's best unseen items are hard negatives of its positives.

    ranks: first and last place, from 1, among the items that are no positive of the query; the first few are skipped
    because they are often false. count: how many a positive. Then, left out are items scoring above max_score, less
    than `margin` below the positive, or above (1 - relative) times a positive's score that is above 0. pick: the "best"
    that are left, or "random" ones of them, by seed.
    """

    ranks: tuple[int, int] = (1, 100)
    count: int = 5
    max_score: float | None = None
    margin: float | None = None
    relative: float | None = None
    pick: Literal["best", "random"] = "best"
    seed: int = 0

    def __post_init__(self) -> None:
        first, last = self.ranks
        if not 1 <= first <= last or self.count < 1:
            raise BadOption(
                f"Mining: ranks {first} to {last} must rise from 1, and count = {self.count} be at least 1."
            )
        if self.pick not in ("best", "random"):
            raise BadOption(f"Mining: pick = {self.pick!r} must be best or random.")
        for name in FILTERS:
            if (value := getattr(self, name)) is not None and not math.isfinite(value):
                raise BadOption(f"Mining: {name} = {value} must be a finite number.")
        if self.relative is not None and not 0 <= self.relative <= 1:
            raise BadOption(f"Mining: relative = {self.relative} must lie in 0 .. 1.")


@dataclass(frozen=True)
class Mined:
    """What was found: pairs [P, 2], and for each its score [P], negatives [P, count] (-1: none) and their scores.

    within: candidates in the rank window, of all pairs together. removed: how many of them each filter took out, one
    filter after the other.
    """

    pairs: Tensor
    positive: Tensor
    ids: Tensor
    scores: Tensor
    within: int
    removed: dict[str, int]

    def table(self) -> list[tuple[str, list[float]]]:
        """Percentiles 1, 25, 50, 75 and 99 of the scores of positives, of negatives, and of the gaps between them."""
        at = torch.tensor([0.01, 0.25, 0.5, 0.75, 0.99], dtype=torch.float64)
        there = self.ids >= 0
        gaps = (self.positive[:, None] - self.scores)[there]
        rows = (("positives", self.positive), ("negatives", self.scores[there]), ("positive less negative", gaps))
        return [(name, torch.quantile(_thinned(x).double(), at).tolist()) for name, x in rows if len(x)]


@torch.no_grad()
def mine(
    queries: Tensor,
    items: Tensor,
    pairs: Tensor,
    rules: Rules,
    seen: SeenIndex | None = None,
    block: int = BLOCK,
    search: Search = "auto",
) -> Mined:
    """Hard negatives of every pair (query, positive): queries [Q, D], items [I, D], pairs [P, 2].

    seen: what each query is never given, its positives in `pairs` if left out. block: bytes of scores at once. search:
    "exact", "approximate" (faiss: candidates that its lists miss are passed over), or "auto": exact up to 100,000
    items.
    """
    if queries.shape[1] != items.shape[1]:
        raise BadOption(f"Mining: queries are {queries.shape[1]} wide and items {items.shape[1]}: they must agree.")
    if not len(pairs):
        raise BadOption("Mining: there are no pairs to mine for.")
    for side, (name, rows) in enumerate((("query", queries), ("item", items))):
        if not 0 <= int(pairs[:, side].min()) <= int(pairs[:, side].max()) < len(rows):
            row = int(((pairs[:, side] < 0) | (pairs[:, side] >= len(rows))).nonzero()[0])
            raise BadOption(
                f"Mining: pair {row} names {name} {int(pairs[row, side])}, of {len(rows)} (counted from 0)."
            )
    if rules.ranks[0] > len(items):
        raise BadOption(f"Mining: ranks begin at {rules.ranks[0]}, and there are {len(items):,} items.")
    pairs = pairs[pairs[:, 0].argsort(stable=True)]
    index = SeenIndex(pairs, len(queries), len(items)) if seen is None else seen
    if approximate(len(items), search):
        windows = _nearby(queries, items, pairs, index, rules)
    else:
        windows = _everything(queries, items, pairs, index, rules, block)
    found = [_of_block(*part, pairs, rules) for part in windows]
    positive, ids, scores = (torch.cat(column) for column in list(zip(*found, strict=True))[:3])
    removed = {name: sum(part[4][name] for part in found) for name in FILTERS if getattr(rules, name) is not None}
    return Mined(pairs, positive, ids, scores, sum(part[3] for part in found), removed)


def _everything(
    queries: Tensor, items: Tensor, pairs: Tensor, seen: SeenIndex, rules: Rules, block: int
) -> Iterator[Window]:
    """Windows of candidates out of all items."""
    distinct, owner = pairs[:, 0].unique(return_inverse=True)
    for rows in torch.arange(len(distinct)).split(max(1, block // (4 * len(items)))):
        scores = queries[distinct[rows]].float() @ items.float().T
        mine = ((owner >= rows[0]) & (owner <= rows[-1])).nonzero().squeeze(1)
        line = owner[mine] - rows[0]
        own = scores[line, pairs[mine, 1]]
        starts, gone = seen.gather(distinct[rows])
        scores[torch.repeat_interleave(torch.arange(len(rows)), starts.diff()), gone] = torch.nan
        ids, values = kernels.best(scores, min(rules.ranks[1], len(items)))
        window = slice(rules.ranks[0] - 1, None)
        yield mine, own, ids[line, window], values[line, window]


def _nearby(queries: Tensor, items: Tensor, pairs: Tensor, seen: SeenIndex, rules: Rules) -> Iterator[Window]:
    """Windows of candidates out of the lists that lie nearest to each query."""
    index = inverted_file(items, f"Mining among {len(items):,} items (--search exact does without, in hours)")
    distinct, owner = pairs[:, 0].unique(return_inverse=True)
    for rows in torch.arange(len(distinct)).split(ROWS):
        users = distinct[rows]
        many = min(rules.ranks[1] + int(seen.counts[users].max()), len(items))
        values, ids = (torch.from_numpy(each) for each in index.search(queries[users].float().numpy(), many))
        none = (ids < 0) | seen.contains(users, ids.clamp(min=0))
        order = none.int().argsort(dim=1, stable=True)[:, rules.ranks[0] - 1 : rules.ranks[1]]
        ids, values = torch.where(none, -1, ids).gather(1, order), values.gather(1, order)
        mine = ((owner >= rows[0]) & (owner <= rows[-1])).nonzero().squeeze(1)
        line = owner[mine] - rows[0]
        own = (queries[pairs[mine, 0]].float() * items[pairs[mine, 1]].float()).sum(1)
        yield mine, own, ids[line], values[line]


def _of_block(
    places: Tensor, own: Tensor, ids: Tensor, values: Tensor, pairs: Tensor, rules: Rules
) -> tuple[Tensor, Tensor, Tensor, int, dict[str, int]]:
    left, removed = ids >= 0, {}
    within = int(left.sum())
    most = {
        "max_score": torch.full_like(own, rules.max_score or 0.0),
        "margin": own - (rules.margin or 0.0),
        "relative": torch.where(own > 0, own * (1 - (rules.relative or 0.0)), torch.inf),
    }
    for name in FILTERS:
        if getattr(rules, name) is not None:
            kept = left & (values <= most[name][:, None])
            removed[name] = int(left.sum() - kept.sum())
            left = kept
    key = torch.arange(ids.shape[1]).expand_as(ids)
    if rules.pick == "random":
        row = pairs[places, 0] * (1 << 32) + pairs[places, 1]
        key = kernels.words(row, streams.key(rules.seed, "mine"), ids.shape[1]) >> 2
    chosen = torch.where(left, key, torch.iinfo(torch.long).max).argsort(dim=1, stable=True)[:, : rules.count]
    there = left.gather(1, chosen)
    picked = torch.where(there, ids.gather(1, chosen), -1)
    scores = torch.where(there, values.gather(1, chosen), -torch.inf)
    short = rules.count - picked.shape[1]
    if short > 0:
        picked = torch.nn.functional.pad(picked, (0, short), value=-1)
        scores = torch.nn.functional.pad(scores, (0, short), value=-torch.inf)
    return own, picked, scores, within, removed


def _thinned(x: Tensor, most: int = 2**20) -> Tensor:
    """At most so many of the values, evenly spaced: torch.quantile takes no more than 16 million."""
    return x[:: -(-len(x) // most)] if len(x) > most else x
