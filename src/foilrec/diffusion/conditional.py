"""GDNSM's generator: a diffusion of vectors given a user, and an item's modalities as far as they are to be used."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from foilrec.diffusion.guidance import kept
from foilrec.diffusion.mlp import MLP
from foilrec.diffusion.process import Diffusion
from foilrec.numerics.chances import normals
from foilrec.tables.projected import Projected

BLOCK = 2048  # rows whose chains run together


class Conditional(nn.Module):
    """x_0 [N, D] given a vector that is always there and contents m = 1 .. M, from noise by classifier-free guidance.

    diffusion: schedule and prediction. contents: the modalities, projected to D. hidden: width of the network's layer,
    0 for a single linear map. drop: see guidance.kept. averaged: the released code's condition dropout, for two
    contents alone: with 3 drop the mean of the three conditions that lack something, in one of which the second's null
    stands for the first; it goes through a further linear map of each content, which nulls do not meet in a chain.
    """

    def __init__(
        self,
        diffusion: Diffusion,
        contents: Sequence[Projected],
        dim: int,
        *,
        hidden: int,
        drop: float,
        averaged: bool = False,
    ) -> None:
        super().__init__()
        self.diffusion, self.contents, self.drop = diffusion, nn.ModuleList(contents), drop
        widths = [hidden] if hidden else []
        conditions = [dim] * (1 + len(contents))
        self.net = MLP(dim, diffusion.steps, conditions, hidden=widths, step_dim=dim, step_hidden=2 * dim, always=1)
        self.further = nn.ModuleList([nn.Linear(dim, dim) for _ in contents]) if averaged else None

    def given(self, ids: Tensor | None = None) -> list[Tensor]:
        """The projected contents of items [N], or of all, [N, D] each; whatever stands there where one is lacking."""
        every: list[Projected] = list(self.contents)  # type: ignore[arg-type]
        return [c.linear(c.rows if ids is None else embedding(ids, c.rows)) for c in every if c.linear is not None]

    def has(self, ids: Tensor) -> Tensor:
        """Which contents items [N] have: bool [N, M]."""
        every: list[Projected] = list(self.contents)  # type: ignore[arg-type]
        return torch.stack([torch.ones_like(ids) > 0 if c.has is None else c.has[ids, 0] for c in every], 1)

    def loss(
        self, x0: Tensor, user: Tensor, given: Sequence[Tensor], has: Tensor, noise: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        """The mean squared error for x_0 and user [N, D]; noise: a step [N], normal numbers [N, D] and an even one [N]
        that decides what is dropped."""
        t, eps, chance = noise
        keep = kept(chance, self.drop, len(given))
        if self.further is not None:
            given, keep = self._averaged(given, keep.all(1)), torch.ones_like(keep)
        denoise = self.net.prepare([user, *given], has & keep)
        return self.diffusion.loss(denoise, x0, t, eps)[0]

    def _averaged(self, given: Sequence[Tensor], whole: Tensor) -> list[Tensor]:
        (first, second), (no_first, no_second) = given, self.net.nulls
        means = (first + no_first + no_second) / 3, (second + 2 * no_second) / 3
        mixed = [torch.where(whole[:, None], x, mean) for x, mean in zip(given, means, strict=True)]
        return self._further(mixed)

    def _further(self, given: Sequence[Tensor]) -> list[Tensor]:
        if self.further is None:
            return list(given)
        return [layer(x) for layer, x in zip(self.further, given, strict=True)]

    @torch.no_grad()
    def draw(
        self,
        rows: Tensor,
        key: Callable[[object], int],
        user: Tensor,
        given: Sequence[Tensor],
        has: Tensor,
        guidance: tuple[Sequence[Sequence[int]], Tensor],
        *,
        steps: int | None = None,
        stop: int = 0,
    ) -> Tensor:
        """Vectors [N, K, D] from noise to the state after step `stop`: over all steps with noise, or `steps` of DDIM.

        guidance: sets of contents, and the share of each one's output in every column, [K, S]. Noise is a function of
        (key of the step's name, row [N], column), so that a few rows at a time, as fit a cache, are like all at once.
        """
        taken, shares = guidance
        given, width = self._further(given), user.shape[1]

        def noise(of: Tensor, name: object) -> Tensor:
            drawn = normals(of, key(name), len(shares) * width).to(user.dtype)
            return drawn.view(len(of), -1, width).transpose(0, 1).contiguous()

        made = torch.empty(len(rows), len(shares), width, dtype=user.dtype, device=user.device)
        for at in (slice(first, first + BLOCK) for first in range(0, len(rows), BLOCK)):
            conditions = [user[at], *(condition[at] for condition in given)]
            denoise = self.net.mixture(conditions, has[at], taken, shares)
            x, of = noise(rows[at], "begin"), rows[at]
            if steps is None:
                chain = self.diffusion.reverse(denoise, x, stop=stop, noise=partial(noise, of))
            else:
                chain = self.diffusion.ddim(denoise, x, steps, stop=stop)
            *_, (_, x, _) = chain
            made[at] = x.transpose(0, 1)
        return made
