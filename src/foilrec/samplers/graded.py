"""Negatives of a stated hardness: a curriculum of percentiles that is met whatever the model, epoch and catalogue."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from foilrec.core import Backbone, Batch, Data, Negatives, Sampler, Tables, rows_of
from foilrec.diffusion.chains import Denoiser
from foilrec.errors import PartsDoNotFit, must_hold
from foilrec.numerics import kernels
from foilrec.numerics.chances import chances


class Graded(Sampler):
    """A candidate of the percentile that the epoch's stage asks for: foilrec's calibrated form of CCDRec's curriculum.

    Of M uniform unseen candidates the j-th best lies above a share 1 - j / (M + 1) of the unseen items, on average and
    whatever the scores are. So j = (1 - target)(M + 1), rounded up or down at random to be met in the mean, draws
    negatives of exactly the target percentile, with standard deviation sqrt(target (1 - target) / (M + 2)). A published
    curriculum states epochs or noise levels instead, and how hard those are depends on everything else. dns is the case
    j = 1 throughout.

    targets: a percentile a stage, between 0 and 1. delta: epochs a stage; the last one stays. by: what a percentile is
    of: the "user"'s present score, likeness (cosine) to the "positive" among the present item vectors, or "aligned",
    the same among the rows E^0 of backbone aligned. candidates: M, raised where a target needs more. omega: weight of
    this negative beside an easy one (data.easy); 1 leaves the easy one out. ceiling: a guard against false negatives:
    candidates scoring above the positive by more than this are passed over for the next easier one (0: none may beat
    the positive). likeness: the same for a cosine to the positive above this. What a guard costs in hardness, `foilrec
    audit` tells.
    """

    def __init__(
        self,
        data: Data,
        *,
        targets: tuple[float, ...] = (0.6, 0.75, 0.85, 0.95),
        delta: int = 5,
        by: Literal["user", "positive", "aligned"] = "user",
        candidates: int = 32,
        omega: float = 1.0,
        ceiling: float | None = None,
        likeness: float | None = None,
    ) -> None:
        super().__init__(data)
        must_hold(
            "graded",
            targets=(
                targets,
                bool(targets) and all(0 < target < 1 for target in targets),
                "percentiles between 0 and 1, one a stage",
            ),
            delta=(delta, delta >= 1, "at least 1"),
            candidates=(candidates, candidates >= 2, "at least 2"),
            omega=(omega, 0 <= omega <= 1, "in 0 .. 1"),
            ceiling=(ceiling, True, "a number, or None"),
            likeness=(likeness, likeness is None or -1 <= likeness <= 1, "a cosine, or None"),
        )
        self.targets, self.delta, self.by, self.candidates = tuple(targets), delta, by, candidates
        self.omega, self.ceiling, self.likeness = omega, ceiling, likeness
        self.stage = 0
        self.pool: Tensor | None = None

    def begin_epoch(self, epoch: int, model: Backbone, tables: Tables) -> None:
        """Moves to the epoch's stage; by = "aligned" runs the chain for E^0."""
        self.stage, self.pool = min(epoch // self.delta, len(self.targets) - 1), None
        if self.by == "aligned":
            if not isinstance(model, Denoiser):
                raise PartsDoNotFit('graded by = "aligned" needs backbone aligned; take by = "positive" with another.')
            for _, rows in model.denoise(epoch - 1):
                self.pool = normalize(rows)

    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        """ids [B, 1], or easy and graded, [B, 2], with weights (2 - 2 omega, 2 omega)."""
        target = self.targets[self.stage]
        least = math.ceil(target / (1 - target) - 1e-6)  # with fewer, even the best would be too easy on average
        many = min(max(self.candidates, least), self.data.n_items)
        ids = self.unseen(batch, many)
        hard = self._at(batch, ids, *self._hardness(tables, batch, query, ids), target)[:, None]
        level = torch.full_like(hard, self.stage + 1)
        if self.omega == 1:
            return Negatives(ids=hard, level=level)
        easy = self.data.easy(batch)[:, None]
        weights = query.new_tensor([2 - 2 * self.omega, 2 * self.omega]).expand(len(hard), 2)
        level = torch.cat([torch.zeros_like(level), level], 1)
        return Negatives(ids=torch.cat([easy, hard], 1), weights=weights, level=level)

    def _hardness(self, tables: Tables, batch: Batch, query: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """What candidates are ordered by, [B, M], and which of them may be taken."""
        items = tables.items.detach()
        scores = kernels.candidate_scores(query, items, ids)
        allowed = torch.ones_like(ids, dtype=torch.bool)
        if self.ceiling is not None:
            own = (query.detach() * items[batch.positives]).sum(1, keepdim=True)
            allowed &= scores <= own + self.ceiling
        if self.by == "user" and self.likeness is None:
            return scores, allowed
        rows = normalize(items) if self.pool is None else self.pool
        alike = kernels.candidate_scores(rows[batch.positives], rows, ids)
        if self.likeness is not None:
            allowed &= alike <= self.likeness
        return (scores if self.by == "user" else alike), allowed

    def _at(self, batch: Batch, ids: Tensor, hardness: Tensor, allowed: Tensor, target: float) -> Tensor:
        """The candidate of the target's rank, or the next easier one that may be taken, or the easiest of all."""
        exact = (1 - target) * (ids.shape[1] + 1)
        chance = chances(rows_of(batch), self.key(batch, "round"), 1)
        rank = torch.where(chance < exact % 1, int(exact) + 1, int(exact)).clamp(1, ids.shape[1]) - 1
        order = hardness.argsort(dim=1, descending=True, stable=True)
        place = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        may = allowed.gather(1, order) & (place >= rank)
        may[:, -1] |= ~may.any(1)
        return ids.gather(1, order.gather(1, may.int().argmax(1, keepdim=True))).squeeze(1)
