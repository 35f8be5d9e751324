"""Chains back from noise, one step at a time: ancestral sampling and DDIM."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from foilrec.diffusion.gaussian import Gaussian, Prediction
from foilrec.diffusion.schedules import Schedule
from foilrec.errors import BadOption, above, must_hold

Denoise = Callable[[Tensor, Tensor], Tensor]  # x_t [B, ..., D], t [B] or [] -> the network's output, like x_t
Noise = Callable[[int], Tensor] | torch.Generator | None  # step -> normal numbers like x, or a generator of them
Step = tuple[int, Tensor, Tensor]  # t, x after step t, the estimate of x_0 that led there


@runtime_checkable
class Denoiser(Protocol):
    """A backbone that can walk its items back from noise, as `aligned` and `mcdrec` can, for samplers to take pools."""

    @property
    def steps(self) -> int:
        """T."""

    def denoise(self, epoch: int) -> Iterator[tuple[int, Tensor]]:
        """The chain after an epoch: t = T - 1 .. 0, each with the rows [I, D] it leads to."""


class Chains(Gaussian):
    """A Gaussian process with reverse chains; the network is handed in, already given its conditions.

    clip: largest |x_0| that a chain believes. A chain keeps the gradient mode of its caller, and runs only as far as
    it is asked to.
    """

    def __init__(self, schedule: Schedule, prediction: Prediction = "sample", clip: float | None = None) -> None:
        super().__init__(schedule, prediction)
        must_hold("Diffusion", **above(0, clip=clip))
        self.clip = clip

    def estimate(self, denoise: Denoise, x_t: Tensor, t: Tensor) -> Tensor:
        """The network's idea of x_0, within +-clip."""
        x0 = self.to_x0(x_t, t, denoise(x_t, t))
        return x0 if self.clip is None else x0.clamp(-self.clip, self.clip)

    def reverse(
        self, denoise: Denoise, x: Tensor, *, start: int | None = None, stop: int = 0, noise: Noise
    ) -> Iterator[Step]:
        """Ancestral steps t = start - 1 .. stop (Ho et al. 2020, algorithm 2): t, x_{t-1}, the estimate of x_0.

        x: x_{start-1}, in scaled units, as all that is yielded: multiply by scale_of what was noised. The last step
        adds no noise; noise = None adds none at all (DiffRec's inference). start: T unless given; BadOption outside
        1 .. T.
        """
        for t in range(self.first_step(start) - 1, stop - 1, -1):
            x0 = self.estimate(denoise, x, _at(t, x))
            x, sigma = self.posterior(x, t, x0)
            if t and noise is not None:
                x = x + sigma * draw(noise, t, x)
            yield t, x, x0

    def ddim(
        self,
        denoise: Denoise,
        x: Tensor,
        steps: int,
        eta: float = 0.0,
        *,
        start: int | None = None,
        stop: int = 0,
        noise: Noise = None,
    ) -> Iterator[Step]:
        """`reverse` over `steps` of its steps, evenly spaced and the first among them (Song et al. 2021, eq. 12, 16).

        eta = 0 is deterministic, eta = 1 over all steps is `reverse`. BadOption for steps outside 1 .. start -
        stop, and for eta > 0 without noise.
        """
        start = self.first_step(start)
        if not 1 <= steps <= start - stop or not 0 <= eta <= 1 or (eta and noise is None):
            raise BadOption(
                f"ddim: steps = {steps} must lie in 1 .. {start - stop}, eta = {eta} in 0 .. 1, above 0 with noise."
            )
        times = [stop + (start - stop) * k // steps - 1 for k in range(steps, -1, -1)]
        for t, to in pairwise(times):
            x0 = self.estimate(denoise, x, _at(t, x))
            x, sigma = self._jump(x, x0, t, to, eta)
            if eta and to >= 0:
                x = x + sigma * draw(noise, t, x)
            yield t, x, x0

    def _jump(self, x: Tensor, x0: Tensor, t: int, to: int, eta: float) -> tuple[Tensor, Tensor]:
        """DDIM's mean and standard deviation at step `to` from x at step t; -1 is the clean end."""
        signal, spread = self.schedule.signal, self.schedule.spread
        if to < 0:
            return x0, torch.zeros_like(spread[0])
        lost = (spread[t].square() - spread[to].square()) / signal[to].square()  # 1 - abar_t / abar_to
        sigma = eta * spread[to] / spread[t] * lost.sqrt()
        share = (spread[to].square() - sigma.square()).clamp(min=0).sqrt() / spread[t]  # of the noise x - signal_t x_0
        return (signal[to] - share * signal[t]) * x0 + share * x, sigma

    def first_step(self, start: int | None) -> int:
        """How many steps a chain has that starts there: all, unless told."""
        if start is not None and not 1 <= start <= self.steps:
            raise BadOption(f"A chain of {self.steps} steps cannot start at {start}: 1 .. {self.steps}.")
        return self.steps if start is None else start


def _at(t: int, x: Tensor) -> Tensor:
    return torch.full((), t, device=x.device)


def draw(noise: Noise, t: int, like: Tensor) -> Tensor:
    """The normal numbers of step t, like x; zeros for None."""
    if noise is None:
        return torch.zeros_like(like)
    if isinstance(noise, torch.Generator):
        return torch.randn(like.shape, generator=noise, device=noise.device, dtype=like.dtype).to(like.device)
    return noise(t)
