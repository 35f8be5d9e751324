"""DMNS's network: a vector stretched and shifted, coordinate by coordinate, by what its condition and step say."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, silu

from foilrec.diffusion.chains import Denoise
from foilrec.diffusion.steps import step_embedding


class Film(nn.Module):
    """Feature-wise modulation: h <- (1 + scale) h + shift, with (scale, shift) a linear map of swish(step + condition).

    The step goes through sinusoids and two layers; the condition, as wide as the vector, is added as it is (Nguyen and
    Fang, WWW 2024). dim: D. steps: T. layers: modulations in a row.
    """

    def __init__(self, dim: int, steps: int, layers: int = 2) -> None:
        super().__init__()
        self.register_buffer("steps", step_embedding(torch.arange(steps), dim), persistent=False)
        self.steps: Tensor
        self.step_map = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))
        self.maps = nn.ModuleList([nn.Linear(dim, 2 * dim) for _ in range(layers)])

    def prepare(self, conditions: Sequence[Tensor]) -> Denoise:
        """f(x, t) for x [N, D] and t [N] or [], with one condition [N, D]; with gradient."""
        (condition,) = conditions
        steps = self.step_map(self.steps)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            told = silu(embedding(t.long(), steps) + condition)
            for layer in self.maps:
                scale, shift = layer(told).chunk(2, -1)
                x = (1 + scale) * x + shift
            return x

        return denoise
