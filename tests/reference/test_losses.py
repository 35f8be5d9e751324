"""Losses against their formulas written for one row at a time."""

import math

import pytest
import torch
from torch import Tensor

from foilrec import parts
from foilrec.core import Negatives
from foilrec.errors import BadOption

B, K = 5, 4


def scores(seed: int = 0, k: int = K) -> tuple[Tensor, Tensor]:
    """Positive [B] and negative [B, K] scores, in double precision and with gradient."""
    generator = torch.Generator().manual_seed(seed)
    positive = torch.randn(B, generator=generator, dtype=torch.float64, requires_grad=True)
    return positive, torch.randn(B, k, generator=generator, dtype=torch.float64, requires_grad=True)


def negatives(k: int = K, **more: Tensor) -> Negatives:
    """Any ids: losses look at weights, mask and log_q only."""
    return Negatives(ids=torch.zeros(B, k, dtype=torch.long), **more)


WEIGHTS = torch.rand(B, K, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
MASK = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 0]], dtype=torch.bool)
LOG_Q = -torch.rand(B, K, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 5


def slow_bpr(positive: Tensor, negative: Tensor, weights: Tensor | None, mask: Tensor | None) -> float:
    """-log sigmoid of each gap: mean over what is left of a row, then over rows."""
    rows, positive, negative = [], positive.detach(), negative.detach()
    for b in range(len(positive)):
        left = [k for k in range(negative.shape[1]) if mask is None or mask[b, k]]
        terms = [-math.log(1 / (1 + math.exp(float(negative[b, k] - positive[b])))) for k in left]
        scale = [1.0 if weights is None else float(weights[b, k]) for k in left]
        rows.append(sum(t * w for t, w in zip(terms, scale, strict=True)) / max(1, len(left)))
    return sum(rows) / len(rows)


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alike", "weighted"])
def test_bpr_is_its_formula(weights: Tensor | None, mask: Tensor | None) -> None:
    positive, negative = scores()
    more = {name: x for name, x in (("weights", weights), ("mask", mask)) if x is not None}
    value = parts.build("loss", "bpr")(positive, negative, negatives(**more))
    assert float(value.detach()) == pytest.approx(slow_bpr(positive, negative, weights, mask), rel=1e-9)


def test_bpr_keeps_its_gradient_at_any_gap() -> None:
    positive = torch.tensor([-500.0], requires_grad=True)
    value = parts.build("loss", "bpr")(positive, torch.zeros(1, 1), Negatives(ids=torch.zeros(1, 1, dtype=torch.long)))
    value.backward()
    assert float(value.detach()) == 500
    assert float(positive.grad) == -1


def slow_softmax(
    positive: Tensor,
    negative: Tensor,
    temperature: float,
    log_q: Tensor | None,
    weights: Tensor | None,
    mask: Tensor | None,
) -> float:
    """-log of e^(s+/t) / (e^(s+/t) + sum_k w_k e^(s_k/t) / (K q_k)), mean over rows; K columns are left of each."""
    rows, k_all, positive, negative = [], negative.shape[1], positive.detach(), negative.detach()
    for b in range(len(positive)):
        mine = math.exp(float(positive[b]) / temperature)
        total = mine
        left = [k for k in range(k_all) if mask is None or mask[b, k]]
        for k in left:
            term = math.exp(float(negative[b, k]) / temperature)
            term /= 1.0 if log_q is None else len(left) * math.exp(float(log_q[b, k]))
            total += term * (1.0 if weights is None else float(weights[b, k]))
        rows.append(-math.log(mine / total))
    return sum(rows) / len(rows)


@pytest.mark.parametrize("temperature", [1.0, 0.2])
@pytest.mark.parametrize("log_q", [None, LOG_Q], ids=["plain", "corrected"])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alike", "weighted"])
@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
def test_softmax_is_its_formula(
    temperature: float, log_q: Tensor | None, weights: Tensor | None, mask: Tensor | None
) -> None:
    positive, negative = scores()
    given = {"weights": weights, "mask": mask, "log_q": log_q}
    more = {name: x for name, x in given.items() if x is not None}
    value = parts.build("loss", "softmax", temperature=temperature)(positive, negative, negatives(**more))
    expected = slow_softmax(positive, negative, temperature, log_q, weights, mask)
    assert float(value.detach()) == pytest.approx(expected, rel=1e-6, abs=1e-7)
    value.backward()
    assert torch.isfinite(positive.grad).all()
    assert torch.isfinite(negative.grad).all()


def test_softmax_without_correction_does_not_look_at_log_q() -> None:
    positive, negative = scores()
    loss = parts.build("loss", "softmax", correct=False)
    assert torch.equal(loss(positive, negative, negatives(log_q=LOG_Q)), loss(positive, negative, negatives()))


def test_softmax_of_one_negative_is_bpr() -> None:
    positive, negative = scores(k=1)
    one, other = (parts.build("loss", name) for name in ("softmax", "bpr"))
    left, right = one(positive, negative, negatives(1)), other(positive, negative, negatives(1))
    assert torch.allclose(left, right, rtol=1e-12)
    for x in (positive, negative):
        a, b = (torch.autograd.grad(value, x, retain_graph=True)[0] for value in (left, right))
        assert torch.allclose(a, b, rtol=1e-12)


def test_every_other_item_once_with_its_uniform_log_q_is_the_full_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(3)
    whole, target = torch.randn(B, 20, generator=generator, dtype=torch.float64), torch.tensor([0, 19, 7, 7, 3])
    others = torch.ones(B, 20, dtype=torch.bool).scatter_(1, target[:, None], False)
    negative = whole[others].view(B, 19)
    log_q = torch.full((B, 19), -math.log(19), dtype=torch.float64)
    positive = whole.gather(1, target[:, None]).squeeze(1)
    sampled = parts.build("loss", "softmax", temperature=0.5)(positive, negative, negatives(19, log_q=log_q))
    assert torch.allclose(sampled, torch.nn.functional.cross_entropy(whole / 0.5, target), rtol=1e-6)


def test_the_corrected_sum_is_unbiased_for_any_law_of_draws() -> None:
    generator = torch.Generator().manual_seed(4)
    others = torch.randn(30, generator=generator, dtype=torch.float64)
    law = torch.rand(30, generator=generator, dtype=torch.float64) + 0.2
    law /= law.sum()
    drawn = torch.multinomial(law, 20_000 * 8, replacement=True, generator=generator).view(-1, 8)
    # exp(loss) - 1 = sum over the drawn of e^(s - s+) / (K q): with s+ = 0 one row estimates sum_j e^s_j
    loss, totals = parts.build("loss", "softmax"), []
    for rows in drawn.split(5000):
        one = Negatives(ids=rows, log_q=law.log()[rows])
        parts_of_sum = others[rows] - one.log_q - math.log(8)
        totals.append(parts_of_sum.exp().sum(1))
        mean = loss(torch.zeros(len(rows), dtype=torch.float64), others[rows], one)
        assert torch.allclose(mean, totals[-1].add(1).log().mean(), rtol=1e-6)
    total, truth = torch.cat(totals), others.exp().sum()
    assert abs(total.mean() - truth) < 4 * total.std() / len(total) ** 0.5


def test_softmax_refuses_a_temperature_of_zero() -> None:
    with pytest.raises(BadOption, match="temperature"):
        parts.build("loss", "softmax", temperature=0.0)
