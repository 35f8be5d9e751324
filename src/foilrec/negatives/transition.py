"""Where a positive on its way to noise turns negative: ADAR's transition point, in closed form.

The way is x(a) = m + a (x_0 - m) + sqrt(1 - a^2) xi, from a = 1, clean, to a = 0, noise. A user u scores it
u.m + a S + sqrt(1 - a^2) r, with S = u.(x_0 - m) the positive's height and r = u.xi. With r ~ N(0, v^2) and a boundary
theta above u.m, the share of draws below it is Phi((theta - a S) / (v sqrt(1 - a^2))): where S > max(theta, 0) it grows
strictly on the way, as the slope of its argument in a, (a theta - S) / (v (1 - a^2)^(3/2)), is below 0.
"""

import torch
from torch import Tensor


def crossing(theta: Tensor, height: Tensor, noise: Tensor | None = None) -> Tensor:
    """The a in 0 .. 1 at which a height + sqrt(1 - a^2) noise = theta; 0 where noise > theta: below it nowhere.

    All [B] or broadcast to it; unique where height > max(theta, 0). Which transition it is depends on the noise: None,
    or 0, the expected one, theta / height; k v, k the q-quantile of N(0, 1), that of a share q of the draws; r this
    draw's own.
    """
    if noise is None:
        return (theta / height.clamp(min=torch.finfo(height.dtype).tiny)).clamp(0, 1)
    square = height.square() + noise.square()
    root = (square - theta.square()).clamp(min=0).sqrt()
    return ((theta * height - noise * root) / square.clamp(min=torch.finfo(square.dtype).tiny)).clamp(0, 1)


def cosine_crossing(theta: Tensor, cosine: Tensor, square: Tensor, trace: Tensor) -> Tensor:
    """The a at which a vector of that cosine to u, noised around 0, is expected to have the cosine theta; 0 for none.

    a^2 = theta^2 w / ((cosine^2 - theta^2) |x_0|^2 + theta^2 w), for square = |x_0|^2 and trace w of the covariance of
    the noise, which is taken to add w to lengths and nothing to u's direction; cosine > max(theta, 0).
    """
    noise = theta.clamp(min=0).square() * trace
    rest = ((cosine - theta) * (cosine + theta) * square).clamp(min=0)
    return (noise / (rest + noise).clamp(min=torch.finfo(noise.dtype).tiny)).sqrt()


def step_of(signal: Tensor, share: Tensor) -> Tensor:
    """How many steps of a chain keep more than a share of the clean vector: signal [T], falling, share [...] -> [...].

    It is the first step at which no more is left, and T where more is left throughout.

    >>> step_of(torch.tensor([0.9, 0.5, 0.1]), torch.tensor([0.95, 0.5, 0.2, 0.0])).tolist()
    [0, 1, 2, 3]
    """
    return torch.searchsorted(-signal, -share.to(signal.dtype))
