"""Moments and calibration, written slowly."""

import torch

from foilrec.negatives.calibration import calibrate
from foilrec.negatives.moments import Moments


def cloud(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """200 items that lie off the origin along unequal axes, and 16 queries."""
    noise = torch.Generator().manual_seed(seed)
    items = torch.randn(200, 5, generator=noise, dtype=torch.double) * torch.tensor([3.0, 1.0, 0.5, 0.1, 0.0]) + 0.7
    return items, torch.randn(16, 5, generator=noise, dtype=torch.double)


def test_moments_are_those_of_the_rows_and_of_every_users_scores() -> None:
    items, query = cloud()
    moments = Moments.of(items)
    mean = sum(items) / len(items)
    covariance = sum(torch.outer(row - mean, row - mean) for row in items) / len(items)
    assert torch.allclose(moments.mean, mean) and torch.allclose(moments.covariance, covariance)
    assert torch.allclose(moments.root @ moments.root.T, covariance, atol=1e-12)
    for user, centre, width in zip(query, *moments.spread(query), strict=True):
        scores = torch.stack([user @ item for item in items])
        assert torch.isclose(scores.mean(), centre) and torch.isclose(scores.std(correction=0), width)
    heights = moments.heights(query, items[:16])
    slow = torch.stack(
        [(q @ n - (items @ q).mean()) / (items @ q).std(correction=0) for q, n in zip(query, items[:16], strict=True)]
    )
    assert torch.allclose(heights, slow) and torch.allclose(moments.heights(query, items[:16, None]), slow[:, None])
    assert torch.isclose(moments.scale, items.var(0, correction=0).mean().sqrt())


def test_shaped_noise_has_the_covariance_and_plain_noise_stays_plain() -> None:
    items, _ = cloud()
    moments, noise = Moments.of(items), torch.randn(200_000, 5, generator=torch.Generator().manual_seed(1))
    shaped = moments.shape(noise.double())
    assert torch.allclose(shaped.T @ shaped / len(shaped), moments.covariance, atol=0.08)
    assert torch.equal(Moments.standard(noise).shape(noise), noise)


def test_calibrated_vectors_score_exactly_what_they_may_or_what_they_did() -> None:
    items, query = cloud()
    moments, positives = Moments.of(items), items[:16]
    vectors = torch.stack([items[16:32], items[32:48] * 3], 1)
    moved, good = calibrate(vectors, query, positives, moments, 0.9)
    own = moments.heights(query, positives)[:, None]
    before, after = (moments.heights(query, each) for each in (vectors, moved))
    high = before > 0.9 * own
    assert (high & (own > 0)).any() and (high & (own <= 0)).any() and (~high).any()
    assert torch.equal(good, ~(high & (own <= 0)))
    changed = high & (own > 0)
    assert torch.allclose(after[changed], (0.9 * own).expand_as(after)[changed])
    assert torch.equal(moved[~changed], vectors[~changed])
    assert torch.allclose(
        torch.cosine_similarity(moved - moments.mean, vectors - moments.mean, dim=2), torch.ones(()).double()
    )
