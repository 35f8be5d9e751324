"""Made-up negatives kept below their positive: what scores too high is moved towards the middle of the catalogue."""

import torch
from torch import Tensor

from foilrec.negatives.moments import Moments


@torch.no_grad()
def calibrate(
    vectors: Tensor, query: Tensor, positives: Tensor, moments: Moments, most: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Vectors [B, K, D] whose score, in standard deviations over the catalogue, is at most `most` times the positive's.

    query [B, D], positives [B, D]; most: a number, or one a row, [B, 1]. With z the standardised score, a vector n with
    z_n > most z_p > 0 becomes m + (most z_p / z_n)(n - m), m the catalogue's mean, which scores most z_p exactly; the
    others stay. Also tells which vectors are in order, bool [B, K]: all but those of rows with z_p <= 0 that score
    above most z_p, where no point on the way to the mean is low enough.
    """
    own, made = moments.heights(query, positives)[:, None], moments.heights(query, vectors)
    high = made > most * own
    share = torch.where(high & (own > 0), most * own / made, torch.ones_like(made))
    moved = torch.lerp(moments.mean.expand_as(vectors), vectors, share[..., None])
    return torch.where((share < 1)[..., None], moved, vectors), ~high | (own > 0)
