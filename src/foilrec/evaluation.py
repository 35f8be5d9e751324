"""Exact full ranking in bounded memory: every metric at every cut-off from the places of the held-out items."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from foilrec.core import Backbone, Data, Tables
from foilrec.errors import BadOption, RunBroken, did_you_mean
from foilrec.measures.metrics import LISTS, METRICS, recommended
from foilrec.numerics import kernels
from foilrec.numerics.products import panel
from foilrec.seen import SeenIndex

if TYPE_CHECKING:
    import polars as pl

BLOCK = 8 * 2**20  # bytes of scores held at once: what stays in a cache is ranked faster
ASKED = 1024  # users whose vectors are made at once: an encoder of histories reads many at the price of few


@dataclass(frozen=True)
class Protocol:
    """How a ranking is scored, as data: it is stored, and hashed, with every result.

    split: "valid" or "test". masked: phases whose items are hidden from a user's ranking, ("train",) as in MMRec's
    published tables, or ("train", "valid"). An item that is wanted in the split is never hidden. ks: cut-offs.
    metrics: names out of METRICS. Means are over the users with at least one item in the split. A backbone that reads
    histories is told what came before the split, whatever is masked: train, and for test valid too.
    """

    split: str = "test"
    masked: tuple[str, ...] = ("train",)
    ks: tuple[int, ...] = (5, 10, 20, 50)
    metrics: tuple[str, ...] = ("recall", "ndcg", "precision", "map", "hit", "mrr")

    def __post_init__(self) -> None:
        if self.split not in ("valid", "test"):
            raise BadOption(f"split = {self.split!r} must be valid or test.")
        if set(self.masked) not in ({"train"}, {"train", "valid"}):
            raise BadOption(f"masked = {list(self.masked)} must be ['train'], or ['train', 'valid'].")
        if not self.ks or min(self.ks) < 1:
            raise BadOption(f"ks = {list(self.ks)} must be whole numbers above 0, one at least.")
        for name in self.metrics:
            if name not in METRICS:
                raise BadOption(
                    f"There is no metric {name!r}{did_you_mean(name, METRICS) or '.'} There are {', '.join(METRICS)}."
                )

    @property
    def known(self) -> tuple[str, ...]:
        """The phases that came before the split."""
        return ("train",) if self.split == "valid" else ("train", "valid")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as JSON has them."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @property
    def hash(self) -> str:
        """A digest of every field."""
        return blake2b(json.dumps(self.as_dict(), sort_keys=True).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Scores:
    """What a model scored: means over users, values by user ([n] each), and the users' numbers [n]."""

    protocol: Protocol
    means: dict[str, float]
    per_user: dict[str, Tensor]
    users: Tensor

    def to_frame(self, data: Data) -> "pl.DataFrame":
        """One row a user, in the source's ids."""
        import polars as pl

        columns: dict[str, Any] = {"user": data.raw_users(self.users.tolist())}
        return pl.DataFrame({**columns, **{name: values.numpy() for name, values in self.per_user.items()}})


@torch.no_grad()
def evaluate(model: Backbone, protocol: Protocol, *, lists: bool = False, block: int = BLOCK) -> Scores:
    """Ranks the whole catalogue for every user of the split.

    lists: also make top-k lists, and from them coverage, gini and popularity. block: bytes of scores held at once.
    """
    data, tables = model.data, model.eval().propagate()
    split = SeenIndex(getattr(data, protocol.split), data.n_users, data.n_items)
    users = split.counts.nonzero().squeeze(1)
    if not len(users):
        raise BadOption(f"{data.name} has no {protocol.split} rows to score: choose a split that holds some out.")
    masked = _without(data.seen_in(*(phase for phase in protocol.masked if phase != protocol.split)), split)
    most, found, best = min(max(protocol.ks), data.n_items), [], []
    for rows, scores in _blocks(model, tables, users, masked, protocol.known, block):
        starts, items = (x.to(scores.device) for x in split.gather(rows))
        found.append(kernels.places(scores, starts, items))
        best += [kernels.best(scores, most)[0].cpu()] if lists else []
    ranks, wanted = torch.cat(found).cpu(), split.counts[users]
    owner = torch.repeat_interleave(torch.arange(len(users)), wanted)
    per_user = {f"{name}@{k}": METRICS[name](ranks, owner, wanted, k) for name in protocol.metrics for k in protocol.ks}
    means = {name: float(values.mean()) for name, values in per_user.items()}
    if lists:
        for k in protocol.ks:
            counts = recommended(torch.cat(best)[:, :k], data.n_items)
            means |= {f"{name}@{k}": metric(counts, data.popularity) for name, metric in LISTS.items()}
    return Scores(protocol, means, per_user, users)


def _blocks(
    model: Backbone, tables: Tables, users: Tensor, masked: SeenIndex | None, known: tuple[str, ...], block: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Users a few at a time, and their scores of every item, NaN where masked; the next block overwrites them.

    How many at a time depends on the number of items alone, so that a rerun is equal to the last bit: a matrix product
    may round a score differently in a block of another shape.
    """
    dtype = torch.promote_types(tables.items.dtype, torch.float32)
    device, items = tables.items.device, tables.items.T.to(dtype).contiguous()
    peak, room = _peak(items, "item") * len(items), panel(max(16, block // (4 * items.shape[1])), device)
    buffer = torch.empty(min(room, len(users)), items.shape[1], dtype=dtype, device=device)
    for asked in users.split(room * math.ceil(ASKED / room)):
        queries = model.query(tables, model.data.ask(asked, model.history, known).to(device)).to(dtype)
        for rows, query in zip(asked.split(room), queries.split(room), strict=True):
            scores = torch.mm(query, items, out=buffer[: len(rows)])
            if not _peak(query, "user") * peak < torch.finfo(dtype).max and not bool(scores.isfinite().all()):
                raise RunBroken("The model's scores overflow: it has diverged. Lower optimizer.lr.")
            if masked is not None:
                starts, gone = masked.gather(rows)
                row = torch.repeat_interleave(torch.arange(len(rows)), starts.diff())
                scores[row.to(device), gone.to(device)] = torch.nan
            yield rows, scores


def _peak(vectors: Tensor, whose: str) -> float:
    """The largest size of a coordinate, if all are numbers."""
    peak = float(vectors.abs().amax()) if vectors.numel() else 0.0
    if not math.isfinite(peak):
        raise RunBroken(f"The model's {whose} vectors are not finite: it has diverged. Lower optimizer.lr.")
    return peak


def _without(masked: SeenIndex, wanted: SeenIndex) -> SeenIndex:
    """The masked items less the wanted ones: what is wanted in a split stays in its user's ranking."""
    users = torch.repeat_interleave(torch.arange(masked.n_users), masked.counts)
    both = wanted.contains(users, masked.items.long()[:, None])[:, 0]
    if not both.any():
        return masked
    pairs = torch.stack([users, masked.items.long()], 1)[~both]
    return SeenIndex(pairs, masked.n_users, masked.n_items)


@torch.no_grad()
def top_k(
    model: Backbone,
    users: Tensor,
    k: int,
    masked: SeenIndex | None = None,
    *,
    hidden: Tensor | None = None,
    known: tuple[str, ...] = ("train",),
    block: int = BLOCK,
) -> tuple[Tensor, Tensor]:
    """The k best items of some users, the lower id first where scores are equal: ids [n, k], scores [n, k].

    masked: items that are left out, by user; hidden [m]: for everybody. known: the phases that a backbone with a
    history is told of. Where fewer than k are left, ids are -1 and scores -inf.
    """
    if k < 1:
        raise BadOption(f"A list of {k} items cannot be made: ask for at least 1.")
    tables, found = model.eval().propagate(), []
    for _, scores in _blocks(model, tables, users, masked, known, block):
        if hidden is not None:
            scores[:, hidden.to(scores.device)] = torch.nan
        found.append(kernels.best(scores, k))
    if not found:
        return torch.empty(0, k, dtype=torch.long), torch.empty(0, k)
    return torch.cat([ids for ids, _ in found]), torch.cat([values for _, values in found])
