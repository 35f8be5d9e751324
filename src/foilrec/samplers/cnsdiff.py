"""CNSDiff's negatives: a random item, mixed with what a diffusion makes of the positive once it has been noised."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from foilrec.core import Backbone, Batch, Data, Negatives, Sampler, Tables, rows_of
from foilrec.diffusion.chains import Denoise
from foilrec.diffusion.mlp import MLP
from foilrec.diffusion.process import Diffusion
from foilrec.diffusion.schedules import schedule as make_schedule
from foilrec.errors import PartsDoNotFit, above, at_least, must_hold
from foilrec.faithful import promise
from foilrec.negatives.calibration import calibrate
from foilrec.negatives.moments import Moments
from foilrec.negatives.pacing import drifted
from foilrec.negatives.pushed import pushing
from foilrec.numerics import kernels
from foilrec.numerics.chances import betas, normals


class CNSDiff(Sampler):
    """«Causal Negative Sampling via Diffusion Model for Out-of-Distribution Recommendation»: synthesised, no item's.

    The positive is noised to each of some steps and denoised again without further noise; of these candidates the one
    that its user scores highest is the hard negative h. With r a uniform one (data.easy) the negative is w h +
    (1 - w) r, w ~ Beta drifting from mostly random to mostly hard. Gradient flows into r, none into h; penalties
    on negatives fall away. own_loss is the diffusion's error, on detached vectors, and `contrast` times a contrast that
    reaches the items: the positive and itself with a little noise, against every h and r of the batch. dmns starts from
    noise and knows the user alone; adar noises as far as the user's score says.

    steps: T. starts: the steps that positives are noised to, in 1 .. T: level 0 stands for the last of them. schedule,
    clip: of the diffusion; "diffrec" and None as released, which noises so little that candidates are the positive.
    normalise: diffuse vectors off their mean, in their own size. reverse: from the "start" step, or the "whole" chain
    whatever the start, as released. first, last: the Beta law's numbers in epoch 0 and from epoch `epochs` on. least: w
    becomes least + (1 - least) w. calibrate: h is moved down to this share of its positive's standardised score; where
    that cannot be, r stays alone (None: neither). contrast: its weight, 0 .. .3, a product of the batch with itself;
    temperature, jitter: of it. causal: weight of a divergence between the estimate and the state one step earlier.
    reweight: weigh rows by what a step adds in signal to noise. unit: the network sees directions alone. learns: the
    "denoiser", or as released the "items": the network stays as it was drawn, and its error, times 1e-6, moves items.
    hidden: width of its layer. dim: width of the backbone's vectors. push: "easy" gives r the whole gradient of what is
    made with it, not its share 1 - w of it, as with adar. lr: its learning rate (None: the optimizer's). faithful:
    raise if an option differs from what was released.
    """

    def __init__(
        self,
        data: Data,
        *,
        steps: int = 20,
        starts: tuple[int, ...] = (10, 14, 18),
        schedule: str = "cosine",
        clip: float | None = 4.0,
        normalise: bool = True,
        reverse: Literal["start", "whole"] = "start",
        first: tuple[float, float] = (1.0, 9.0),
        last: tuple[float, float] = (9.0, 1.0),
        epochs: int = 120,
        least: float = 0.0,
        calibrate: float | None = 0.95,
        contrast: float = 0.3,
        temperature: float = 2.0,
        jitter: float = 0.01,
        causal: float = 0.1,
        reweight: bool = False,
        unit: bool = False,
        learns: Literal["denoiser", "items"] = "denoiser",
        hidden: int = 64,
        dim: int = 64,
        push: Literal["none", "easy"] = "none",
        lr: float | None = None,
        faithful: bool = False,
    ) -> None:
        super().__init__(data)
        released = {
            "schedule": (schedule, "diffrec"),
            "clip": (clip, None),
            "normalise": (normalise, False),
            "reverse": (reverse, "whole"),
            "calibrate": (calibrate, None),
            "contrast": (contrast, 0.3),
            "temperature": (temperature, 2),
            "jitter": (jitter, 0.01),
            "causal": (causal, 0.1),
            "reweight": (reweight, True),
            "unit": (unit, True),
            "learns": (learns, "items"),
            "push": (push, "none"),
        }
        promise("cnsdiff", faithful, released)
        must_hold(
            "cnsdiff",
            **at_least(1, hidden=hidden, dim=dim, epochs=epochs),
            **at_least(0, contrast=contrast, jitter=jitter, causal=causal),
            **above(0, temperature=temperature, calibrate=calibrate, lr=lr),
            steps=(steps, steps >= 2, "at least 2"),
            starts=(starts, bool(starts) and min(starts) >= 1 and max(starts) <= steps, "steps, in 1 .. steps"),
            first=(first, len(first) == 2 and min(first) > 0, "two numbers above 0"),
            last=(last, len(last) == 2 and min(last) > 0, "two numbers above 0"),
            least=(least, 0 <= least <= 1, "in 0 .. 1"),
        )
        self.starts, self.whole, self.normalise = sorted(starts, reverse=True), reverse == "whole", normalise
        self.first, self.last, self.epochs, self.least = first, last, epochs, least
        self.most, self.contrast, self.temperature, self.jitter = calibrate, contrast, temperature, jitter
        self.causal, self.reweight, self.unit, self.joint = causal, reweight, unit, learns == "items"
        self.dim, self.lr, self.push = dim, lr, push == "easy"
        shape = make_schedule(schedule, steps, **({"first": None} if schedule == "diffrec" else {}))
        self.diffusion = Diffusion(shape, "sample", clip=clip)
        self.net = MLP(dim, steps, hidden=[hidden], activation="tanh", step_dim=dim).requires_grad_(not self.joint)
        self.frames: tuple[Moments, Moments] | None = None

    def begin_epoch(self, epoch: int, model: Backbone, tables: Tables) -> None:
        """Looks where items lie."""
        items = tables.items.detach()
        if items.shape[1] != self.dim:
            raise PartsDoNotFit(
                f"cnsdiff is {self.dim} wide and the backbone's vectors {items.shape[1]}: set sampler.dim."
            )
        cloud = Moments.of(items)
        self.frames = cloud, cloud if self.normalise else Moments.standard(items)

    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        """vectors [B, 1, D], and as their level how little the chosen candidate was noised."""
        easy = self.data.easy(batch)[:, None]
        if self.frames is None:
            return Negatives(ids=easy)
        with torch.set_grad_enabled(self.training):
            random = tables.item_rows(easy)
        own = tables.item_rows(batch.positives).detach()
        hard, good, level = self._hard(self.frames, batch, query.detach(), own)
        a, b = (drifted(batch.epoch, self.epochs, *ends) for ends in zip(self.first, self.last, strict=True))
        share = self.least + (1 - self.least) * betas(rows_of(batch), self.key(batch, "mix"), 1, a, b).to(hard.dtype)
        with torch.set_grad_enabled(self.training):
            made = torch.lerp(random, hard[:, None], (share * good)[..., None])
            return Negatives(vectors=pushing(made.detach(), random) if self.push else made, level=level)

    def own_loss(self, tables: Tables, batch: Batch, query: Tensor) -> Tensor:
        """The diffusion's error and the contrast."""
        if self.frames is None:
            return query.new_zeros(())
        own = tables.item_rows(batch.positives)
        error = self._error(self.frames[1], batch, own if self.joint else own.detach())
        total = 1e-6 * error if self.joint else error
        return (
            total + self.contrast * self._contrast(self.frames, tables, batch, query, own) if self.contrast else total
        )

    def _error(self, items: Moments, batch: Batch, own: Tensor) -> Tensor:
        """The squared error of x_0 at a random step, and the causal term, KL between N(x_0's estimate, var_t) and
        N(x_(t-1), var_(t-1)), with the same noise in x_(t-1) as in x_t."""
        rows, chain, clean = rows_of(batch), self.diffusion.schedule, items.inside(own)
        steps = torch.tensor(len(chain), device=own.device)
        t = kernels.below(kernels.words(rows, self.key(batch, "step"), 1)[:, 0], steps)
        eps = normals(rows, self.key(batch, "noise"), self.dim).to(own.dtype)
        gains = torch.where(t > 0, chain.snr[t - 1] - chain.snr[t], 1.0) if self.reweight else None
        loss, estimate = self.diffusion.loss(self._denoiser(), clean, t, eps, weights=gains)
        if not self.causal:
            return loss
        before = self.diffusion.noise(clean, (t - 1).clamp(min=0), eps)
        spread = 2 * chain.sigma.log()
        spread[0] = spread[1]
        now, then = spread[t][:, None], torch.where(t > 0, spread[t - 1], 0.0)[:, None]
        apart = (estimate - before).square() * (-then).exp()
        return loss + self.causal * 0.5 * (then - now - 1 + (now - then).exp() + apart).mean()

    def _denoiser(self) -> Denoise:
        net = self.net.prepare()
        return (lambda x, t: net(normalize(x, dim=-1), t)) if self.unit else net

    @torch.no_grad()
    def _hard(
        self, frames: tuple[Moments, Moments], batch: Batch, query: Tensor, own: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The best candidate of each row [B, D], whether it may be used [B, 1], and its place among the starts."""
        cloud, items = frames
        clean, denoise, found = items.inside(own), self._denoiser(), []
        for start in self.starts:
            noise = normals(rows_of(batch), self.key(batch, f"start {start}"), self.dim).to(own.dtype)
            noised = self.diffusion.noise(clean, start - 1, noise)
            *_, (_, x, _) = self.diffusion.reverse(denoise, noised, start=None if self.whole else start, noise=None)
            found.append(items.outside(x))
        candidates = torch.stack(found, 1)
        level = torch.bmm(candidates, query[:, :, None]).squeeze(2).argmax(1, keepdim=True)
        hard = candidates.gather(1, level[..., None].expand(-1, -1, self.dim))
        good = torch.ones_like(level, dtype=torch.bool)
        if self.most is not None:
            hard, good = calibrate(hard, query, own, cloud, self.most)
        return hard[:, 0], good, level

    def _contrast(
        self, frames: tuple[Moments, Moments], tables: Tables, batch: Batch, query: Tensor, own: Tensor
    ) -> Tensor:
        """- cos(p, p + jitter) / temperature + log sum of exp(cos(p, n) / temperature) over the batch's h and r."""
        hard, _, _ = self._hard(frames, batch, query.detach(), own.detach())
        others = torch.cat([hard, tables.item_rows(self.data.easy(batch)[:, None])[:, 0]])
        near = own + self.jitter * normals(rows_of(batch), self.key(batch, "jitter"), self.dim).to(own.dtype)
        anchor = normalize(own) / self.temperature
        apart = (anchor @ normalize(others).T).logsumexp(1)
        return (apart - (anchor * normalize(near)).sum(1)).mean()
