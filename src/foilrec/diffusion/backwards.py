"""Chains back to clean vectors whose rows start at steps of their own."""

import torch
from torch import Tensor

from foilrec.diffusion.chains import Chains, Denoise
from foilrec.diffusion.gaussian import rows_at


def back(process: Chains, denoise: Denoise, x: Tensor, t: Tensor, steps: int) -> Tensor:
    """DDIM with eta = 0 (Song et al. 2021, eq. 12) from x [N, D] at steps t [N], each in `steps` even ones: [N, D].

    A row that stands at fewer steps from clean takes those it has. steps = 1 is the network's estimate as it is. In
    scaled units, as all of a process within; the gradient mode is the caller's.
    """
    signal, spread = process.schedule.signal, process.schedule.spread
    for left in range(steps, 0, -1):
        here, to = ((t + 1) * k // steps - 1 for k in (left, left - 1))
        x0 = process.estimate(denoise, x, here.clamp(min=0))
        eps = (x - rows_at(signal, here.clamp(min=0), x) * x0) / rows_at(spread, here.clamp(min=0), x)
        moved = torch.where((to < 0)[:, None], x0, process.noise(x0, to.clamp(min=0), eps))
        x = torch.where((here < 0)[:, None], x, moved)
    return x
