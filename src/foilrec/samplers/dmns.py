"""DMNS's negatives: what a diffusion conditioned on the user is making, looked at on its way."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from foilrec.core import Backbone, Batch, Data, Negatives, Sampler, Tables, rows_of
from foilrec.diffusion.film import Film
from foilrec.diffusion.gaussian import Prediction
from foilrec.diffusion.guidance import must_end_in_noise
from foilrec.diffusion.process import Diffusion
from foilrec.diffusion.schedules import schedule as make_schedule
from foilrec.errors import PartsDoNotFit, above, at_least, must_hold
from foilrec.faithful import promise
from foilrec.negatives.calibration import calibrate
from foilrec.negatives.moments import Moments
from foilrec.negatives.pushed import pushing
from foilrec.numerics import kernels
from foilrec.numerics.chances import normals


class DMNS(Sampler):
    """Vectors off the reverse chain of a diffusion of items given their user: the later its step, the harder.

    Nguyen and Fang, WWW 2024, from link prediction: the positive is the neighbour, its user the query node, to which
    the network (diffusion/film.py) listens. Generation starts from noise; of the chain's states those after steps
    T / 2, T / 4, T / 8 and T / 10 are negatives, with weights .7, .8, .9 and 1, beside a uniform one (data.easy) of
    weight 1: with bpr the mean of all, as published. Vectors carry no gradient, and a backbone's penalties on negatives
    fall away. The network learns from own_loss, on detached vectors. Knowing the user alone, a chain that has learned
    well ends at what he likes best, above the positive itself: calibrate holds it down. gdnsm is guided by the positive
    too.

    steps: T, 40 .. 100. schedule, prediction, error, clip: of the diffusion ("linear", "epsilon", "absolute" and None
    as published: with 50 steps that chain never ends in noise). normalise: diffuse vectors off their mean, in their own
    size. levels: which states, as shares of T, falling: level 1, 2, ... weights: one for each. calibrate: what scores
    above this share of its positive's standardised score is moved down to it; where that cannot be, it is left out
    (None: neither). start_epoch: uniform negatives alone before, 0 .. 10. inner_steps: noised copies of a row that
    own_loss sees, 1 .. 5. dim: width of the backbone's vectors. push: which item learns in the place of a vector, as
    with adar. lr: the network's own learning rate (None: the optimizer's). passes: "joint", or "alternate": network and
    backbone in passes of their own. faithful: raise if an option differs from what was published.
    """

    def __init__(
        self,
        data: Data,
        *,
        steps: int = 50,
        schedule: str = "cosine",
        prediction: Prediction = "sample",
        error: Literal["square", "absolute"] = "square",
        clip: float | None = 4.0,
        normalise: bool = True,
        levels: tuple[float, ...] = (0.5, 0.25, 0.125, 0.1),
        weights: tuple[float, ...] = (0.7, 0.8, 0.9, 1.0),
        calibrate: float | None = 0.95,
        start_epoch: int = 1,
        inner_steps: int = 1,
        dim: int = 64,
        push: Literal["none", "easy"] = "none",
        lr: float | None = None,
        passes: Literal["joint", "alternate"] = "joint",
        faithful: bool = False,
    ) -> None:
        super().__init__(data)
        published = {
            "schedule": (schedule, "linear"),
            "prediction": (prediction, "epsilon"),
            "error": (error, "absolute"),
            "clip": (clip, None),
            "normalise": (normalise, False),
            "levels": (tuple(levels), (0.5, 0.25, 0.125, 0.1)),
            "weights": (tuple(weights), (0.7, 0.8, 0.9, 1.0)),
            "calibrate": (calibrate, None),
            "start_epoch": (start_epoch, 0),
            "push": (push, "none"),
        }
        promise("dmns", faithful, published)
        places = [steps * level // 1 for level in levels]
        falling = bool(places) and steps > places[0] and places[-1] >= 0 and places == sorted(set(places), reverse=True)
        must_hold(
            "dmns",
            **at_least(1, steps=steps, inner_steps=inner_steps, dim=dim),
            levels=(levels, falling, f"falling from below 1, each at a step of its own (steps = {steps})"),
            weights=(
                weights,
                len(weights) == len(levels) and all(weight >= 0 for weight in weights),
                "as many as levels, none below 0",
            ),
            **at_least(0, start_epoch=start_epoch),
            **above(0, calibrate=calibrate, lr=lr),
        )
        self.places = [int(place) for place in places]
        self.weights, self.most, self.start = [1.0, *weights], calibrate, start_epoch
        self.begins = start_epoch
        self.normalise, self.absolute, self.inner_steps, self.dim = normalise, error == "absolute", inner_steps, dim
        self.lr, self.alternates, self.push = lr, passes == "alternate", push == "easy"
        self.diffusion = Diffusion(make_schedule(schedule, steps), prediction, clip=clip)
        if not faithful:
            must_end_in_noise("dmns", self.diffusion.schedule)
        self.net = Film(dim, steps)
        self.frames: tuple[Moments, Moments, Moments] | None = None
        self.begun = False

    def begin_epoch(self, epoch: int, model: Backbone, tables: Tables) -> None:
        """Looks where items and users lie."""
        items = tables.items.detach()
        if items.shape[1] != self.dim:
            raise PartsDoNotFit(
                f"dmns is {self.dim} wide and the backbone's vectors {items.shape[1]}: set sampler.dim."
            )
        cloud, plain = Moments.of(items), Moments.standard(items)
        users = cloud if tables.users is None else Moments.of(tables.users)
        self.frames = (cloud, cloud, users) if self.normalise else (cloud, plain, plain)
        self.begun = epoch >= self.start

    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        """vectors [B, 1 + levels, D], the uniform one first, with weights and levels; ids [B, 1] before start_epoch."""
        easy = self.data.easy(batch)[:, None]
        if self.frames is None or not self.begun:
            return Negatives(ids=easy, level=torch.zeros_like(easy))
        with torch.set_grad_enabled(self.training):
            beside = tables.item_rows(easy)
        query, own = query.detach(), tables.item_rows(batch.positives).detach()
        made = self._make(self.frames, batch, query)
        mask = None
        if self.most is not None:
            made, good = calibrate(made, query, own, self.frames[0], self.most)
            mask = None if bool(good.all()) else pad(good, (1, 0), value=True)
        level = torch.arange(len(self.weights), device=easy.device).expand(len(batch), -1)
        weights = made.new_tensor(self.weights).expand(len(batch), -1)
        with torch.set_grad_enabled(self.training):
            vectors = torch.cat([beside, pushing(made, beside) if self.push else made], 1)
        return Negatives(vectors=vectors, weights=weights, mask=mask, level=level)

    def own_loss(self, tables: Tables, batch: Batch, query: Tensor) -> Tensor:
        """The diffusion's error on the batch's positives, each at a random step."""
        if self.frames is None:
            return query.new_zeros(())
        _, items, users = self.frames
        own, user = items.inside(tables.item_rows(batch.positives).detach()), users.inside(query.detach())
        denoise, losses = self.net.prepare([user]), []
        steps = torch.tensor(self.diffusion.steps, device=query.device)
        for copy in range(self.inner_steps):
            t = kernels.below(kernels.words(rows_of(batch), self.key(batch, f"step {copy}"), 1)[:, 0], steps)
            eps = normals(rows_of(batch), self.key(batch, f"noise {copy}"), self.dim).to(own.dtype)
            gaps = denoise(self.diffusion.noise(own, t, eps), t) - self.diffusion.target(own, t, eps)
            losses.append(gaps.abs().mean() if self.absolute else gaps.square().mean())
        return torch.stack(losses).mean()

    @torch.no_grad()
    def _make(self, frames: tuple[Moments, Moments, Moments], batch: Batch, query: Tensor) -> Tensor:
        """The states [B, levels, D] of each row's chain, in the order of levels."""
        _, items, users = frames

        def noise(step: int | str) -> Tensor:
            return normals(rows_of(batch), self.key(batch, f"chain {step}"), self.dim).to(query.dtype)

        denoise = self.net.prepare([users.inside(query)])
        chain = self.diffusion.reverse(denoise, noise("begin"), stop=self.places[-1], noise=noise)
        return items.outside(torch.stack([x for t, x, _ in chain if t in self.places], 1))
