"""MCDRec's representation diffusion: rows estimated back under their content, and what the last chain made of them."""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from foilrec.diffusion.chains import Denoise
from foilrec.diffusion.mlp import MLP
from foilrec.diffusion.process import Diffusion
from foilrec.diffusion.schedules import schedule as make_schedule
from foilrec.diffusion.unet import UNet


class Representation(nn.Module):
    """A diffusion of rows [I, D] under conditions M times [I, D], and the outcome of the last chain, `clean` [I, D].

    rows, dim: I and D. conditions: M. estimator: "unet" or "mlp". schedule, steps, scale: of the process. `ready` says
    that there has been a chain.
    """

    clean: Tensor
    ready: Tensor

    def __init__(
        self,
        rows: int,
        dim: int,
        conditions: int,
        *,
        estimator: Literal["mlp", "unet"],
        schedule: str,
        steps: int,
        scale: Literal["none", "unit"] | float,
    ) -> None:
        super().__init__()
        self.diffusion = Diffusion(make_schedule(schedule, steps), "sample", scale)
        self.estimator: UNet | MLP = (
            UNet(dim, steps, conditions)
            if estimator == "unet"
            else MLP(dim, steps, [dim] * conditions, droppable=False)
        )
        self.register_buffer("clean", torch.zeros(rows, dim))
        self.register_buffer("ready", torch.tensor(False))

    def fused(self, table: Tensor, share: float) -> Tensor:
        """(1 - share) table + share clean, [I, D], once there has been a chain."""
        return torch.lerp(table, self.clean, share) if bool(self.ready) else table

    def ends(self, table: Tensor) -> Tensor:
        """The last chain's rows, or the table's before there is one."""
        return self.clean if bool(self.ready) else table

    def estimate(
        self,
        rows: Tensor,
        conditions: Sequence[Tensor],
        noise: torch.Generator,
        *,
        weights: Tensor | None = None,
        scale: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """L_dm and the estimates of some rows [n, D], each noised at a step of its own; weights [n]."""
        times = self.diffusion.antithetic(len(rows), noise).to(rows.device)
        eps = torch.randn(rows.shape, generator=noise).to(rows)
        denoise = self._denoiser(conditions, noise)
        return self.diffusion.loss(denoise, rows, times, eps, weights=weights, scale=scale)

    def chain(
        self, table: Tensor, conditions: Sequence[Tensor], noise: torch.Generator
    ) -> Iterator[tuple[int, Tensor]]:
        """Back from the noised table: t = T - 1 .. 0, each with the rows [I, D] it leads to."""
        for t, rows, _ in self.diffusion.regenerate(self._denoiser(conditions), table, noise=noise):
            yield t, rows

    def _denoiser(self, conditions: Sequence[Tensor], noise: torch.Generator | None = None) -> Denoise:
        if isinstance(self.estimator, UNet):
            return self.estimator.prepare(conditions, noise)
        return self.estimator.prepare(conditions)
