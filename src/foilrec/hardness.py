"""The hardness meter: how hard, how false and how varied the negatives of any sampler are, changing nothing."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foilrec.core import Backbone, Batch, Data, Loss, Negatives, Sampler, Tables
from foilrec.errors import BadOption
from foilrec.measures import beside, gauges, metrics
from foilrec.measures.beside import Columns
from foilrec.numerics import streams
from foilrec.numerics.angles import cosine
from foilrec.seen import SeenIndex

ROWS = 1024  # training rows a sampler is asked about at once
MOST_STAGES = 12  # more different levels than that are a scale and no stages
UNIFORM = 32  # uniform draws a row, to know how likely a random item is liked
_MEANS = ("gap", "height", "liked", "norm", "nearest_cosine", "nearest", "nearest_taken", "to_positive")


@dataclass(frozen=True)
class Reading:
    """What was measured on some draws; None where it does not apply.

    percentile, similarity: mean place among all items that the user has not taken in training, by the user's score
    and by cosine to the row's positive: 0 the easiest, 1 the hardest, ties half; and their quartiles.
    gap: mean score less the positive's. height: mean of how far a negative stands above the user's mean score, over
    how far the positive does, each within 0 .. 1.5: 0 an average item, 1 as high as the positive. above: share that
    scores above its positive. gradient_top: share of |d loss / d score| that the 1 % with the largest have: .01 if all
    weigh alike.
    hits: draws that are validation positives of their user. false_rate: their share. false_ratio: that over what
    uniform draws give, exactly, with its 95 % bounds false_low and false_high (Poisson; draws of one row that depend on
    each other make them a little too narrow). liked: mean true probability of being liked, where an oracle knows
    it; liked_ratio: over uniform's.
    coverage: distinct items / I; coverage_ratio: over what as many uniform draws reach. gini: of the items' counts.
    repeats: share of draws that repeat an earlier one of the same row.
    Of vectors that are no items: norm (mean length over the items'), nearest_cosine and nearest (distance to the
    nearest item, the latter in mean item lengths), nearest_taken and to_positive (the same to the user's nearest
    item and to the row's).
    drift: of the model, not of the draws: how long the mean of all items' vectors is, in mean lengths of one. Near 1
    all items point one way, and ranks follow popularity.
    """

    draws: int
    percentile: float
    percentile_quartiles: tuple[float, ...]
    similarity: float
    similarity_quartiles: tuple[float, ...]
    gap: float
    above: float
    gradient_top: float
    hits: int | None = None
    false_rate: float | None = None
    false_ratio: float | None = None
    false_low: float | None = None
    false_high: float | None = None
    liked: float | None = None
    liked_ratio: float | None = None
    coverage: float | None = None
    coverage_ratio: float | None = None
    gini: float | None = None
    repeats: float | None = None
    height: float | None = None
    norm: float | None = None
    nearest_cosine: float | None = None
    nearest: float | None = None
    nearest_taken: float | None = None
    to_positive: float | None = None
    drift: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a line of JSON: what does not apply is left out, five digits are kept."""
        return {name: _short(value) for name, value in asdict(self).items() if value is not None}

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> "Reading":
        """The reading that as_dict wrote; names that are not known here are passed over."""
        known = {f.name for f in fields(cls)}
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items() if k in known}
        return cls(**values)


def _short(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_short(one) for one in value]
    return float(f"{value:.5g}") if isinstance(value, float) and math.isfinite(value) else value


class Meter:
    """Measures a sampler's negatives on a fixed sample of training rows, the same in every epoch.

    Draws are functions of names, so asking for some takes nothing from the training: weights, modes, generators and
    what a sampler has heard stay as they are. They are other draws than the training's, by another name: those have
    just been pushed down, and would look easier than what comes next. Backbone and sampler are asked in evaluation
    mode. False negatives are counted on validation; the test split is never looked at.

    rows: how many training rows, all if there are fewer. seed: of the choice of rows. history: the backbone's.
    """

    def __init__(self, data: Data, rows: int = ROWS, *, seed: int = 0, history: int = 0) -> None:
        if rows < 1:
            raise BadOption(f"A hardness meter needs at least 1 training row, not rows = {rows}.")
        self.data, self.seed = data, seed
        trained = data.trained(history)
        order = torch.randperm(len(trained), generator=streams.generator(seed, "meter"))
        self.rows = trained[order[:rows].sort().values]
        self.users, self.positives = (column.contiguous() for column in data.train[self.rows].unbind(1))
        self.free = data.n_items - data.seen.counts[self.users]
        held_out = data.valid[~data.seen.contains(data.valid[:, 0], data.valid[:, 1:])[:, 0]]
        self.wanted = SeenIndex(held_out, data.n_users, data.n_items)

    @torch.no_grad()
    def __call__(self, model: Backbone, sampler: Sampler, loss: Loss, epoch: int = 0) -> dict[str, Reading]:
        """Readings of the sampler as it stands in that epoch: "all", and "stage 0", "group 1" where there are any."""
        with _undisturbed(model, sampler, loss):
            tables = model.propagate()
            asked = self._batches(epoch, tables.items.device, model.history)
            parts = [self._draw(model, tables, sampler, loss, *each) for each in asked]
            columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
            drift = gauges.drift(tables.items)
        named = {"all": torch.ones_like(columns["row"], dtype=torch.bool)}
        for name, label in (("level", "stage"), ("group", "group")):
            values = columns[name].unique().tolist() if name in columns else []
            if len(values) <= MOST_STAGES:
                named |= {f"{label} {value:g}": columns[name] == value for value in values}
        return {
            name: replace(self._reading({key: values[chosen] for key, values in columns.items()}), drift=drift)
            for name, chosen in named.items()
            if chosen.any()
        }

    def _batches(self, epoch: int, device: torch.device, history: int) -> Iterator[tuple[Tensor, Batch]]:
        """A few rows at a time: their numbers among the meter's rows, and the batch they make."""
        for which in torch.arange(len(self.rows)).split(ROWS):
            batch = self.data.batch(self.rows[which], epoch, seed=streams.key(self.seed, "meter"), history=history)
            yield which, batch.to(device)

    def _draw(
        self, model: Backbone, tables: Tables, sampler: Sampler, loss: Loss, which: Tensor, batch: Batch
    ) -> Columns:
        """What there is to know of each draw for a batch, one value a draw: [N]."""
        query = model.query(tables, batch)
        negatives = sampler(tables, batch, query)
        made = None if negatives.ids is not None else negatives.look_up(model, tables)
        users, seen, items = self.users[which], self.data.seen, tables.items
        drawn = batch.positives[:, None] if negatives.ids is None else negatives.ids
        found = beside.ranked(items, query, batch.positives, users, seen, drawn, made)
        positive, negative = found.pop("positive"), found.pop("negative")
        heard = positive[:, 0], negative
        if loss.cosine:
            vectors = negatives.look_up(model, tables) if made is None else made
            heard = cosine(query, items[batch.positives]), cosine(query, vectors)
        middle = (query @ items.mean(0))[:, None]
        found["height"] = gauges.heights(negative - middle, positive - middle)
        found |= {"gap": negative - positive, "gradient": _gradient(loss, *heard, negatives)}
        if made is not None:
            found |= beside.placed(items, made, batch.positives, users, seen)
        else:
            found["id"] = drawn
            if self.data.oracle is not None:
                found["liked"] = self.data.oracle.probability(batch.users, drawn)
        if negatives.level is not None:
            found["level"] = negatives.level
        if negatives.group:
            found["group"] = torch.tensor(negatives.group).expand(negatives.shape)
        found["row"] = which[:, None].expand(negatives.shape)
        mask = torch.ones(negatives.shape, dtype=torch.bool) if negatives.mask is None else negatives.mask.bool().cpu()
        return {name: values.cpu()[mask] for name, values in found.items()}

    def _reading(self, draws: Columns) -> Reading:
        places = {name: draws[name].numpy() for name in ("percentile", "similarity")}
        found: dict[str, Any] = {name: float(values.mean()) for name, values in places.items()}
        for name, values in places.items():
            found[f"{name}_quartiles"] = tuple(np.quantile(values, (0.25, 0.5, 0.75)).tolist())
        found |= {name: float(draws[name].double().mean()) for name in _MEANS if name in draws}
        found["above"] = float((draws["gap"] > 0).double().mean())
        found["gradient_top"] = gauges.largest_share(draws["gradient"])
        if "id" in draws:
            found |= self._false(draws["row"], draws["id"]) | self._varied(draws["row"], draws["id"])
        if "liked" in found:
            found["liked_ratio"] = found["liked"] / float(self._uniform_liked[draws["row"]].mean())
        return Reading(len(draws["row"]), **found)

    def _false(self, row: Tensor, ids: Tensor) -> dict[str, Any]:
        """How many draws [N] are validation positives, beside what uniform draws of the same rows would be."""
        users, n = self.users[row], len(row)
        hits = int(self.wanted.contains(users, ids[:, None]).sum())
        found: dict[str, Any] = {"hits": hits, "false_rate": hits / n}
        expected = float((self.wanted.counts[users] / self.free[row].double()).sum())
        if expected > 0:
            low, high = (min(bound, n) / expected for bound in gauges.poisson_bounds(hits))
            found |= {"false_ratio": hits / expected, "false_low": low, "false_high": high}
        return found

    def _varied(self, row: Tensor, ids: Tensor) -> dict[str, Any]:
        """How much of the catalogue the draws [N] reach, and how often they say the same again."""
        users, n, n_items = self.users[row], len(row), self.data.n_items
        counts = torch.bincount(ids, minlength=n_items)
        distinct = int((counts > 0).sum())
        uniform = gauges.reached(users, self.free[row], *self.data.seen.gather(users.unique()), n_items)
        return {
            "coverage": distinct / n_items,
            "coverage_ratio": distinct / uniform,
            "gini": metrics.gini(counts, counts),
            "repeats": 1 - len((row * n_items + ids).unique()) / n,
        }

    @cached_property
    def _uniform_liked(self) -> Tensor:
        """The mean true probability that each row's user likes an item he has not taken, from a few draws: [rows]."""
        assert self.data.oracle is not None
        key, found = streams.key(self.seed, "meter", "evenly"), []
        for users, rows in zip(self.users.split(ROWS), self.rows.split(ROWS), strict=True):
            items = self.data.seen.unseen(users, rows, UNIFORM, key)
            found.append(self.data.oracle.probability(users, items).double().mean(1))
        return torch.cat(found)


def _gradient(loss: Loss, positive: Tensor, negative: Tensor, negatives: Negatives) -> Tensor:
    """How much each negative's score weighs in the loss, |d loss / d negative| times B: [B, K]."""
    with torch.enable_grad():
        leaf = negative.detach().requires_grad_()
        (slope,) = torch.autograd.grad(loss(positive, leaf, negatives), leaf)
    return slope.abs() * len(positive)


@contextmanager
def _undisturbed(*parts: nn.Module) -> Iterator[None]:
    """Evaluation mode and draws of another name inside; afterwards modes, seeds and global generators are what they
    were."""
    modules = [module for part in parts for module in part.modules()]
    modes = [(module, module.training) for module in modules]
    seeds = [(module, module.seed) for module in modules if isinstance(module, Sampler)]
    cuda = {p.device.index for part in parts for p in part.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(cuda)):
        try:
            for part in parts:
                part.eval()
            for sampler, seed in seeds:
                sampler.seed = streams.key(seed, "meter")
            yield
        finally:
            for module, training in modes:
                module.training = training
            for sampler, seed in seeds:
                sampler.seed = seed
