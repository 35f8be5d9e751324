"""How closely items lie together: spherical k-means, and the mean cosine to the nearest centre."""

import torch
from torch import Tensor
from torch.nn.functional import normalize


def tightness(rows: Tensor, count: int, generator: torch.Generator, passes: int = 5) -> float:
    """Mean cosine of rows [I, D] to the centre of their own cluster, of `count` found from random starting rows."""
    unit = normalize(rows.detach().float(), dim=1)
    start = torch.randperm(len(unit), generator=generator)[:count].to(unit.device)
    centres = unit[start]
    for _ in range(passes):
        own = (unit @ centres.T).argmax(1)
        sums = torch.zeros_like(centres).index_add_(0, own, unit)
        centres = torch.where(sums.any(1, keepdim=True), normalize(sums, dim=1), centres)
    return float((unit @ centres.T).max(1).values.double().mean())
