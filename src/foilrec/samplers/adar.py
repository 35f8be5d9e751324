"""ADAR's negatives: each positive corrupted as far as its user's scores stop counting it as one."""

import math
from statistics import NormalDist
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import embedding, normalize

from foilrec.core import Backbone, Batch, Data, Negatives, Sampler, Tables, rows_of
from foilrec.diffusion.backwards import back
from foilrec.diffusion.mlp import MLP
from foilrec.diffusion.process import Diffusion
from foilrec.diffusion.schedules import schedule as make_schedule
from foilrec.errors import BadOption, PartsDoNotFit, above, at_least, must_hold
from foilrec.negatives.boundary import Boundary, Kind
from foilrec.negatives.calibration import calibrate
from foilrec.negatives.moments import Moments
from foilrec.negatives.pacing import drifted
from foilrec.negatives.pushed import item_beside, pushing
from foilrec.negatives.transition import cosine_crossing, crossing, step_of
from foilrec.numerics import streams
from foilrec.numerics.chances import chances, normals

CLIP = 4.0  # largest |x_0| believed of a predicted noise: divided by the little that is left of x_0, errors explode


class ADAR(Sampler):
    """The positive on its way to noise, x_t = m + a_t (x_0 - m) + sqrt(1 - a_t^2) xi, at the step where it turns
    negative for its user. After Li et al. (ADAR), arXiv 2601.01448, 2026.

    The forward process, a denoiser and a step that depends on the score of the pair are the paper's; the closed forms
    for that step are our own derivation (transition.py, docs/fidelity/adar.md). With the boundary of the user's scores
    at height theta above m and the positive at S, the expected score meets it at a* = theta / S, and t* is the first
    step with a_t <= a*: the higher a positive stands, the more it is corrupted. Where S <= max(theta, 0) the model does
    not count the positive as one, and there is no such step. mixgcf mixes the positive into real items instead, and
    knows no boundary.

    A row has its uniform negative (data.easy) and `count` corrupted positives, in bpr (1 - weight) L(uniform) + weight
    L(corrupted); a row without a transition, and every row in the warmup, has the uniform one at full weight. No
    gradient flows into what a vector was made of, and penalties on negatives fall away. Level: 0 the uniform one, else
    10 (1 - q) rounded: 1 where nine draws of ten lie below the boundary, 5 where half of them do.

    boundary, place, sample: the estimate of tau, as boundary.Boundary tells. transition: "confidence", where a share q
    of the draws is below it, or "draw", where this very draw passes it (one that never would is turned around).
    confidence: q, .5 .. .9. start: q after the warmup, .9 say, from where it goes to `confidence` in a line, for `ramp`
    epochs (None: no curriculum). warmup: epochs of uniform negatives alone, 1 .. 5. noise: "catalogue" has mean and
    covariance of the items, "plain" is N(0, 1) as published. cosine: tell scores as cosines, for losses that do; knows
    the expected transition alone. noises: how many an epoch has, which the rows take in turn, half of them the others
    turned around, so that their mean is 0; 0: each vector draws one of its own, which costs more. steps, schedule: of
    the chain; steps = None stops at a* itself. t_min: the first step allowed. band: go on by a number of steps drawn
    between these two. undecided: what a row without a transition gets, "skip" nothing, "t_min" the positive at that
    step. weight: .1 .. .9. count: 1 .. 4. pool: the item beside is the one that scores highest of so many uniform ones,
    as dns draws it, 2 .. 8, also in the warmup and as what "pair" hears; 1: data.easy's. push: "easy" lets the item
    beside learn in the place of a corrupted positive, as if it scored so; with "none" the items' mean drifts
    (pushed.py). reverse: steps back, 1 .. 5, by a denoiser that is trained beside, so that negatives lie where items
    do; one that then scores above the boundary is moved to it (0: none). prediction: what the denoiser is asked for.
    dim: width of the backbone's vectors, for it. lr: its own learning rate (None: the optimizer's).
    """

    shares: Tensor  # [2, 1 + count], the weights of a row without and with a transition
    first: Tensor  # [1 + count], which column is the uniform one

    def __init__(
        self,
        data: Data,
        *,
        boundary: Kind = "quantile",
        place: float | None = None,
        sample: int = 19,
        transition: Literal["confidence", "draw"] = "confidence",
        confidence: float = 0.5,
        start: float | None = None,
        ramp: int = 20,
        warmup: int = 1,
        noise: Literal["catalogue", "plain"] = "catalogue",
        cosine: bool = False,
        noises: int = 4096,
        steps: int | None = 50,
        schedule: str = "cosine",
        t_min: int = 0,
        band: tuple[int, int] = (0, 0),
        undecided: Literal["skip", "t_min"] = "skip",
        weight: float = 0.5,
        count: int = 1,
        push: Literal["none", "easy"] = "none",
        pool: int = 1,
        reverse: int = 0,
        prediction: Literal["sample", "epsilon"] = "sample",
        dim: int = 64,
        lr: float | None = None,
    ) -> None:
        super().__init__(data)
        begin = confidence if start is None else start
        must_hold(
            "adar",
            **at_least(1, steps=steps, dim=dim),
            **at_least(0, noises=noises),
            **above(0, lr=lr),
            confidence=(confidence, 0 < confidence < 1, "between 0 and 1"),
            start=(start, 0 < begin < 1, "between 0 and 1"),
            ramp=(ramp, ramp >= 1, "at least 1"),
            warmup=(warmup, warmup >= 0, "at least 0"),
            t_min=(t_min, 0 <= t_min < (steps or 1), "a step of the chain"),
            band=(band, len(band) == 2 and 0 <= band[0] <= band[1], "two numbers of steps that rise from 0"),
            weight=(weight, 0 <= weight <= 1, "in 0 .. 1"),
            count=(count, count >= 1, "at least 1"),
            pool=(pool, pool >= 1, "at least 1"),
            reverse=(reverse, 0 <= reverse <= (steps or reverse), "at least 0, and no more than the chain's steps"),
        )
        if steps is None and (undecided, reverse, max(band)) != ("skip", 0, 0):
            raise BadOption('adar: steps = None has no steps for undecided = "t_min", reverse or band: give it some.')
        if (transition == "draw" or cosine) and (begin, confidence) != (0.5, 0.5):
            raise BadOption('adar: q belongs to transition = "confidence" of dot products: leave confidence and start.')
        if cosine and (transition == "draw" or reverse):
            raise BadOption("adar: cosine knows the expected transition alone: take neither draw nor reverse with it.")
        self.boundary, self.drawn, self.cosine = Boundary(boundary, place, sample), transition == "draw", cosine
        self.confidence, self.begin, self.ramp, self.warmup = confidence, begin, ramp, warmup
        self.begins = warmup
        self.plain, self.t_min, self.band, self.skip = noise == "plain", t_min, tuple(band), undecided == "skip"
        self.weight, self.count, self.reverse, self.dim, self.lr, self.many = weight, count, reverse, dim, lr, noises
        self.push, self.pool = push == "easy", pool
        clip = CLIP if prediction == "epsilon" else None
        self.process = None if steps is None else Diffusion(make_schedule(schedule, steps), prediction, clip=clip)
        self.denoiser = MLP(dim, steps, [dim], droppable=False) if steps and reverse else None
        shares = torch.tensor([1 - weight, *[weight / count] * count]) * (1 + count)
        self.register_buffer("shares", torch.stack([torch.eye(1 + count)[0], shares]), persistent=False)
        self.register_buffer("first", torch.arange(1 + count) == 0, persistent=False)
        self.cloud: Moments | None = None
        self.noises: Tensor | None = None
        self.levels: Tensor | None = None
        self.q: float | None = None

    def quantile_of(self, epoch: int) -> float | None:
        """q of an epoch: from `start` to `confidence`, linear over `ramp` epochs; None in the warmup."""
        if epoch < self.warmup:
            return None
        return drifted(epoch - self.warmup, self.ramp, self.begin, self.confidence)

    def begin_epoch(self, epoch: int, model: Backbone, tables: Tables) -> None:
        """Takes in where the items lie, and the epoch's q."""
        items = tables.items.detach()
        if self.denoiser is not None and items.shape[1] != self.dim:
            raise PartsDoNotFit(
                f"adar's denoiser is {self.dim} wide and the backbone's vectors {items.shape[1]}: set sampler.dim."
            )
        key = streams.key(self.seed, "draw", "boundary", epoch)
        scored = self.boundary.look(normalize(items) if self.cosine else items, key)
        if self.plain:
            self.cloud = Moments.standard(items)
        else:  # cosines are told from 0, so that noise must lie around 0 too
            self.cloud = Moments.of(torch.cat([items, -items])) if self.cosine else scored
        self.q = self.quantile_of(epoch)
        self.levels = torch.where(self.first, 0, max(1, round(10 - 10 * self.q))) if self.q else None
        if self.many:
            self.noises = self._noises(self.cloud, items, streams.key(self.seed, "draw", "noises", epoch))

    @torch.no_grad()
    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        """vectors [B, 1 + count, D], the item beside first, with weights and mask; ids [B, 1] in the warmup."""
        item = item_beside(self, tables, batch, query, self.pool)
        if self.cloud is None or self.levels is None:
            return Negatives(ids=item, level=torch.zeros_like(item))
        with torch.set_grad_enabled(self.training):  # the loss will ask for the same rows
            beside, own = tables.item_rows(item), tables.item_rows(batch.positives)
        made, turns = self._made(self.cloud, batch, query.detach(), own.detach(), beside.detach()[:, 0])
        with torch.set_grad_enabled(self.training):
            vectors = torch.cat([beside, pushing(made, beside) if self.push else made], 1)
        return Negatives(
            vectors=vectors,
            weights=embedding(turns.long(), self.shares),
            mask=turns[:, None] | self.first,
            level=self.levels.expand(vectors.shape[:2]),
        )

    def own_loss(self, tables: Tables, batch: Batch, query: Tensor) -> Tensor:
        """The denoiser's error on the batch's positives, each at a random step; "bayes" hears the batch's scores."""
        if self.denoiser is None and self.boundary.kind != "bayes":
            return query.new_zeros(())
        cloud, own, query = self.cloud, tables.item_rows(batch.positives).detach(), query.detach()
        if self.boundary.kind == "bayes":
            other = tables.item_rows(self.data.easy(batch)[:, None]).detach()[:, 0]
            heard = (query, own, other)
            self.boundary.hear(*(normalize(x) for x in heard) if self.cosine else heard)
        if self.denoiser is None or self.process is None or cloud is None:
            return query.new_zeros(())
        rows, steps = rows_of(batch), self.process.steps
        t = (chances(rows, self.key(batch, "time"), 1)[:, 0] * steps).long()
        eps = cloud.shape(normals(rows, self.key(batch, "denoiser"), self.dim).to(own.dtype)) / cloud.scale
        denoise = self.denoiser.prepare([_directions(query)])
        return self.process.loss(denoise, cloud.inside(own), t, eps)[0]

    def _made(self, cloud: Moments, batch: Batch, query: Tensor, own: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """Corrupted positives [B, count, D], finite in every row, and which rows have some, bool [B]."""
        noise = self._noise(cloud, batch, own)
        theta, height = self._heights(cloud, query, own, other)
        turns = height > theta.clamp(min=0)
        theta = theta.where(turns, 0)[:, None]
        share, noise = self._share(cloud, query, own, theta, height[:, None], noise)
        t = None
        if self.process is None:
            signal, spread = share, (1 - share.square()).sqrt()
        else:
            chain = self.process.schedule
            t = self._step(batch, chain.signal, share if self.skip else share.where(turns[:, None], 1))
            signal, spread = chain.signal[t].to(own.dtype), chain.spread[t].to(own.dtype)
        left = torch.lerp(cloud.mean.expand(1, 1, -1), own[:, None], signal[..., None])
        made = left.addcmul_(spread[..., None], noise)
        if t is not None and self.denoiser is not None:
            most = (theta / height[:, None]).where(turns[:, None], 1)
            made = self._denoised(cloud, made, t, query, own, most)
        return made, turns if self.skip else torch.ones_like(turns)

    def _noises(self, cloud: Moments, items: Tensor, key: int) -> Tensor:
        """[many, D] around 0, in the shape of the cloud, the first half followed by its negative."""
        half = torch.arange((self.many + 1) // 2, device=items.device)
        shaped = cloud.shape(normals(half, key, items.shape[1]).to(items.dtype))
        return torch.cat([shaped, -shaped])[: self.many]

    def _noise(self, cloud: Moments, batch: Batch, own: Tensor) -> Tensor:
        """[B, count, D], likewise: what each vector is corrupted with."""
        rows, width = rows_of(batch), own.shape[1]
        if self.noises is not None:
            columns = torch.arange(self.count, device=rows.device)
            return embedding((rows[:, None] * self.count + columns) % self.many, self.noises)
        plain = normals(rows, self.key(batch, "noise"), self.count * width).to(own.dtype)
        return cloud.shape(plain.view(-1, width)).view(len(batch), self.count, width)

    def _heights(self, cloud: Moments, query: Tensor, own: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """The boundary and the positive above the middle of the noise, [B] each; their cosines with `cosine`."""
        if self.cosine:
            query, own, other = normalize(query), normalize(own), normalize(other)
        told = self.boundary.moments
        assert told is not None
        height = (query * own).sum(1) - query @ told.mean
        theta = self.boundary(query, height, other)
        if cloud is told:
            return theta, height
        centre = query @ (told.mean if self.cosine else told.mean - cloud.mean)
        return theta + centre, height + centre

    def _share(
        self, cloud: Moments, query: Tensor, own: Tensor, theta: Tensor, height: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """a* [B, count], and the noise, turned around where only that crosses: theta and height [B, 1]."""
        if self.cosine:
            square, trace = own.square().sum(1, keepdim=True), cloud.covariance.trace()
            return cosine_crossing(theta, height, square, trace).expand(noise.shape[:2]), noise
        if self.drawn:
            told = (noise * query[:, None]).sum(2)
            around = torch.where(told > theta, -1.0, 1.0)
            return crossing(theta, height, around * told), around[..., None] * noise
        k = NormalDist().inv_cdf(self.q or 0.5)
        width = k * cloud.spread(query)[1][:, None] if k else None
        return crossing(theta, height, width).expand(noise.shape[:2]), noise

    def _step(self, batch: Batch, signal: Tensor, share: Tensor) -> Tensor:
        """t [B, count]: the first step at or past a*, and on by the band."""
        t = step_of(signal, share)
        low, high = self.band
        if high:
            chance = chances(rows_of(batch), self.key(batch, "band"), self.count)
            t = t + low + (chance * (high - low + 1)).long()
        return t.clamp(self.t_min, len(signal) - 1)

    def _denoised(self, cloud: Moments, made: Tensor, t: Tensor, query: Tensor, own: Tensor, most: Tensor) -> Tensor:
        """What the denoiser makes of corrupted vectors, none above `most` [B, 1] of the positive's height."""
        assert self.denoiser is not None and self.process is not None
        conditions = [_directions(query).repeat_interleave(self.count, 0)]
        x = cloud.inside(made).flatten(0, 1)
        clean = back(self.process, self.denoiser.prepare(conditions), x, t.flatten(), self.reverse)
        return calibrate(cloud.outside(clean.view_as(made)), query, own, cloud, most)[0]


def _directions(query: Tensor) -> Tensor:
    """Users as a denoiser hears them: rows of mean square 1, whatever the others of the batch."""
    return normalize(query) * math.sqrt(query.shape[1])
