"""Dropout by name: its draws come from a generator that is made for the step, not from torch's global one."""

import torch
from torch import Tensor


def drop(x: Tensor, rate: float, draw: torch.Generator | None) -> Tensor:
    """x with entries zeroed at that rate (to 2**-16) and the others scaled up to keep the mean; x itself without draw.

    Sixteen random bits an entry, four entries a word: a tenth of the cost of torch's Bernoulli draws on a CPU.
    """
    if draw is None or not rate:
        return x
    words = torch.empty(-(-x.numel() // 4), dtype=torch.long, device=x.device).random_(-(2**63), None, generator=draw)
    kept = words.view(torch.int16)[: x.numel()].view(x.shape) >= round(rate * 2**16) - 2**15
    return x * (kept.to(x.dtype) / (1 - rate))
