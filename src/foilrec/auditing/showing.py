"""What a run's sampler gives for an interaction, level by level, told by the real items that come nearest."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from foilrec.core import Backbone, Batch, Data, Sampler, score
from foilrec.errors import BadOption, did_you_mean, some
from foilrec.numerics import streams
from foilrec.run import Run

POSITIVES = 3  # of a user, unless told which
NEAR = 50_000  # ids among which a mistyped one is looked for
CONTEXT = 255  # rows beside the asked one where a sampler draws from the batch
BLOCK = 2**23  # cosines held at once


@dataclass(frozen=True)
class Shown:
    """Some draws that come to one item, or, at level "positive", the item that was taken.

    level: "positive", "stage 0" ..., "group 0" ..., or "all" of a sampler that tells no levels apart. draws: how many
    of the level's came to the item, share: of them all. item, title: as the source has them. score: the draws' mean;
    item_score: the item's own. cosine: of the draws to the positive, on average. nearest: of the draws to the item: 1
    where they are items. seen: whether the user took the item in training. liked: the true probability that he likes
    it, where an oracle knows.
    """

    user: Any
    positive: Any
    epoch: int
    level: str
    item: Any
    title: str | None
    draws: int
    share: float
    score: float
    item_score: float
    cosine: float
    nearest: float
    seen: bool
    liked: float | None
    number: int  # of the item, for its picture

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as JSON and tables have them, in five digits; what is not known is left out, and the number."""
        values = {name: value for name, value in asdict(self).items() if value is not None and name != "number"}
        return {name: float(f"{value:.5g}") if isinstance(value, float) else value for name, value in values.items()}


@torch.no_grad()
def show(
    run: Run,
    user: object,
    items: Sequence[object] = (),
    *,
    epochs: Sequence[int] = (),
    draws: int = 64,
    top: int = 5,
) -> list[Shown]:
    """The positives (some of the user's, by default) and the `top` most frequent items of every level, hardest last.

    The sampler is asked `draws` times with the best epoch's weights, as it stands in that epoch, or at the stages of
    the given ones. BadOption for a user or an item that the data does not have, or that the user did not take.
    """
    data = run.data
    rows = rows_of_user(data, user, items, data.trained(run.model.history))
    found = []
    for epoch in epochs or (int(run.scores["best_epoch"]),):
        model, sampler, _ = run.primed(epoch)
        for row in rows:
            asked = _Asked(data, model.eval(), sampler.eval(), row, epoch, run.recipe.seed)
            found += [asked.positive(), *asked.negatives(draws, top)]
    return found


def rows_of_user(data: Data, user: object, items: Sequence[object], trained: Tensor) -> list[int]:
    """The training rows of a user that hold those items, or his first few among the trained ones."""
    number = data.user_number(user)
    if number is None:
        raise BadOption(f"{data.name} has no user {user}{_meant(user, data.raw_users(range(data.n_users)))}")
    mine = trained[data.train[trained, 0] == number].tolist()
    if not mine:
        raise BadOption(f"User {user} took nothing in training that a sampler is asked about.")
    taken: dict[str, int] = {}
    for row, raw in zip(mine, data.raw_items(data.train[mine, 1].tolist()), strict=True):
        taken.setdefault(str(raw), row)
    for item in map(str, items):
        if item not in taken and item not in map(str, data.raw_items(range(data.n_items))):
            raise BadOption(f"{data.name} has no item {item}{_meant(item, data.raw_items(range(data.n_items)))}")
        if item not in taken:
            raise BadOption(f"User {user} did not take {item} in training. He took {some(taken)}.")
    return [taken[str(item)] for item in items] if items else list(taken.values())[:POSITIVES]


def _meant(word: object, known: Sequence[Any]) -> str:
    return did_you_mean(str(word), map(str, known[:NEAR])) or "."


class _Asked:
    """A sampler about one training row, in one epoch."""

    def __init__(self, data: Data, model: Backbone, sampler: Sampler, row: int, epoch: int, seed: int) -> None:
        self.data, self.model, self.sampler, self.epoch, self.seed = data, model, sampler, epoch, seed
        others = data.trained(model.history)
        order = torch.randperm(len(others), generator=streams.generator(seed, "show"))
        beside = others[order[: CONTEXT if sampler.shares_batch else 0]]
        self.rows = torch.cat([torch.tensor([row]), beside[beside != row]])
        self.user, self.item = data.train[row].tolist()
        self.tables = model.propagate()
        self.query = model.query(self.tables, self._batch(0))[0]
        self.own = self.tables.items[self.item]

    def _batch(self, seed: int) -> Batch:
        return self.data.batch(self.rows, self.epoch, seed=seed, history=self.model.history)

    def positive(self) -> Shown:
        """The item that was taken."""
        return self._shown("positive", self.item, self.own[None], 1)

    def negatives(self, draws: int, top: int) -> Iterator[Shown]:
        """The most frequent items of every level, the easiest first."""
        parts = [self._drawn(n) for n in range(draws)]
        vectors, ids, places = (torch.cat(column) for column in zip(*(part[:3] for part in parts), strict=True))
        for place in places.unique().tolist():
            chosen = places == place
            items, counts = ids[chosen].unique(return_counts=True)
            for item in items[counts.argsort(descending=True, stable=True)[:top]].tolist():
                level = parts[0][3].format(place)
                yield self._shown(level, item, vectors[chosen & (ids == item)], int(chosen.sum()))

    def _drawn(self, n: int) -> tuple[Tensor, Tensor, Tensor, str]:
        """One answer: vectors [k, D], the nearest items [k], their levels [k], and how a level is called."""
        self.sampler.seed = streams.key(self.seed, "show", n)
        batch = self._batch(self.sampler.seed)
        told = self.sampler(self.tables, batch, self.model.query(self.tables, batch))
        vectors = told.look_up(self.model, self.tables)[0]
        places, name = torch.zeros(len(vectors)), "all"
        if told.level is not None:
            places, name = told.level[0].float(), "stage {:g}"
        elif told.group:
            places, name = torch.tensor(told.group).float(), "group {:g}"
        ids = self._nearest(vectors) if told.ids is None else told.ids[0]
        kept = torch.ones(len(vectors), dtype=torch.bool) if told.mask is None else told.mask[0].bool()
        return vectors[kept], ids[kept], places[kept], name

    def _nearest(self, vectors: Tensor) -> Tensor:
        unit = normalize(self.tables.items)
        blocks = normalize(vectors).split(max(1, BLOCK // len(unit)))
        return torch.cat([(block @ unit.T).argmax(1) for block in blocks])

    def _shown(self, level: str, item: int, vectors: Tensor, of: int) -> Shown:
        data, at = self.data, self.tables.items[item]
        liked = None
        if data.oracle is not None:
            liked = float(data.oracle.probability(torch.tensor([self.user]), torch.tensor([[item]]))[0, 0])
        return Shown(
            user=data.raw_users([self.user])[0],
            positive=data.raw_items([self.item])[0],
            epoch=self.epoch,
            level=level,
            item=data.raw_items([item])[0],
            title=None if data.titles is None else data.titles[item],
            draws=len(vectors),
            share=len(vectors) / of,
            score=float(score(self.query[None], vectors[None]).mean()),
            item_score=float(self.query @ at),
            cosine=float((normalize(vectors) @ normalize(self.own, dim=0)).mean()),
            nearest=float((normalize(vectors) @ normalize(at, dim=0)).mean()),
            seen=bool(data.seen.contains(torch.tensor([self.user]), torch.tensor([[item]]))[0, 0]),
            liked=liked,
            number=item,
        )
