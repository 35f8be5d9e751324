"""A diffusion process: the scale of what it noises, its training loss, its random steps, and its chains."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from foilrec.diffusion.chains import Chains, Denoise, Noise, Step, draw
from foilrec.diffusion.gaussian import Prediction, rows_at
from foilrec.diffusion.schedules import Schedule
from foilrec.errors import must_hold


class Diffusion(Chains):
    """A schedule with a loss and chains; the network is handed in, already given its conditions.

    scale: what vectors are divided by before they are noised: "none", "unit" (their root mean square, so that noise of
    variance 1 is measured in their own size), or a number. clip: largest |x_0| that a chain believes, in those units.
    """

    def __init__(
        self,
        schedule: Schedule,
        prediction: Prediction = "sample",
        scale: Literal["none", "unit"] | float = "none",
        clip: float | None = None,
    ) -> None:
        super().__init__(schedule, prediction, clip)
        known = scale in ("none", "unit") or (isinstance(scale, float | int) and scale > 0)
        must_hold("Diffusion", scale=(scale, known, "'none', 'unit' or a number above 0"))
        self.scale = scale

    def scale_of(self, x: Tensor) -> Tensor:
        """The scalar that x is divided by on the way in and multiplied by on the way out, without gradient."""
        if self.scale == "unit":
            return x.detach().square().mean().sqrt().clamp(min=torch.finfo(x.dtype).tiny)
        return x.new_tensor(1.0 if isinstance(self.scale, str) else self.scale)

    def loss(
        self,
        denoise: Denoise,
        x0: Tensor,
        t: Tensor,
        eps: Tensor,
        *,
        weights: Tensor | None = None,
        min_snr: float | None = None,
        scale: Tensor | None = None,
        stop_target: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Mean squared error of the output over all elements, and the estimate of x_0 from the same forward pass.

        x0 and the estimate [B, ..., D] are in the caller's units; the error is in scaled ones, with scale_of(x0) unless
        `scale` is given. weights: [B], one a row. min_snr: weigh each row as min(snr_t, min_snr) weighs the error of
        x_0 (Hang et al. 2023, eq. 7-8). Gradient also flows into x0, as noised vector and, unless stop_target, target.
        """
        scale = self.scale_of(x0) if scale is None else scale
        clean = x0 / scale
        x_t = self.noise(clean, t, eps)
        output = denoise(x_t, t)
        target = self.target(clean, t, eps)
        errors = (output - (target.detach() if stop_target else target)).square()
        if min_snr is not None:
            errors = errors * rows_at(self.min_snr_weights(min_snr), t, errors)
        if weights is not None:
            errors = errors * weights.reshape(-1, *[1] * (errors.dim() - 1))
        return errors.mean(), self.to_x0(x_t, t, output) * scale

    def min_snr_weights(self, most: float) -> Tensor:
        """[T]: min(snr, most), divided by what turns an error of x_0 into one of the predicted quantity."""
        snr = self.schedule.snr
        capped = snr.clamp(max=most)
        if self.prediction == "sample":
            return capped
        return capped / (snr if self.prediction == "epsilon" else snr + 1)

    def regenerate(self, denoise: Denoise, x0: Tensor, *, start: int | None = None, noise: Noise) -> Iterator[Step]:
        """Noise x0 to step start - 1, then `reverse`, in the caller's units throughout: CCDRec's inference.

        The first noise is that of step `start`, the chain's are those of start - 1 .. 1.
        """
        start, scale = self.first_step(start), self.scale_of(x0)
        clean = x0 / scale
        noised = self.noise(clean, start - 1, draw(noise, start, clean))
        for t, x, estimate in self.reverse(denoise, noised, start=start, noise=noise):
            yield t, x * scale, estimate * scale

    def uniform(self, count: int, generator: torch.Generator) -> Tensor:
        """Steps [count], each uniform over 0 .. T - 1."""
        drawn = torch.randint(self.steps, (count,), generator=generator, device=generator.device)
        return drawn.to(self.schedule.betas.device)

    def antithetic(self, count: int, generator: torch.Generator) -> Tensor:
        """Steps [count]: count // 2 + 1 uniform ones, then their mirror images T - 1 - s, cut to count (CCDRec)."""
        drawn = self.uniform(count // 2 + 1, generator)
        return torch.cat([drawn, self.steps - 1 - drawn])[:count]
