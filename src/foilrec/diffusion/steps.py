"""How a step is shown to a network: sinusoids."""

import math

import torch
from torch import Tensor

from foilrec.errors import BadOption


def step_embedding(t: Tensor, dim: int) -> Tensor:
    """Sinusoids of whole steps t [...] -> [..., dim]: dim / 2 sines, then dim / 2 cosines.

    Frequencies 10000^(-j / (dim / 2 - 1)), as in DDPM's code and CCDRec; dim even and at least 4, or BadOption.
    """
    if dim < 4 or dim % 2:
        raise BadOption(f"step_embedding: dim = {dim} must be even and at least 4.")
    half = dim // 2
    places = torch.arange(half, dtype=torch.float64, device=t.device)
    angles = t.double()[..., None] * torch.exp(-math.log(10000) / (half - 1) * places)
    return torch.cat([angles.sin(), angles.cos()], -1).to(torch.get_default_dtype())
