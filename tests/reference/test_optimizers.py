"""Optimizers against torch's: adam against the unfused one, lazyadam against SparseAdam and by single numbers."""

import math

import pytest
import torch
from torch import Tensor

from foilrec import parts

ROWS, WIDTH = 30, 5


def start(seed: int = 0) -> Tensor:
    """A table of random rows."""
    return torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(seed))


def sparse(step: int, repeated: bool = True) -> tuple[Tensor, Tensor]:
    """Touched rows, some of them several times, and their gradients."""
    generator = torch.Generator().manual_seed(100 + step)
    ids = torch.randint(0, 20, (12,), generator=generator) if repeated else torch.arange(0, 20, 2)
    return ids, torch.randn(len(ids), WIDTH, generator=generator)


def row_gradient(ids: Tensor, values: Tensor) -> Tensor:
    """A row-sparse gradient of the table, as an embedding gives it."""
    return torch.sparse_coo_tensor(ids[None], values, (ROWS, WIDTH), check_invariants=False)


@pytest.mark.usefixtures("both_forms")
def test_lazyadam_is_sparse_adam_on_touched_rows_and_leaves_the_others_bit_equal() -> None:
    ours, theirs = torch.nn.Parameter(start()), torch.nn.Parameter(start())
    one = parts.build("optimizer", "lazyadam", [ours], lr=0.05, beta1=0.8, beta2=0.95, eps=1e-6)
    other = torch.optim.SparseAdam([theirs], lr=0.05, betas=(0.8, 0.95), eps=1e-6)
    for step in range(8):
        ids, values = sparse(step)
        before, moments = ours.detach().clone(), {k: torch.as_tensor(v).clone() for k, v in one.state[ours].items()}
        ours.grad, theirs.grad = row_gradient(ids, values), row_gradient(ids, values)
        one.step()
        other.step()
        assert torch.allclose(ours, theirs, atol=2e-5)  # eps stands before or after the bias correction
        still = torch.ones(ROWS, dtype=torch.bool).index_fill_(0, ids, False)
        assert torch.equal(ours.detach()[still], before[still])
        for name in ("exp_avg", "exp_avg_sq"):
            if name in moments:
                assert torch.equal(one.state[ours][name][still], moments[name][still])
        assert not torch.isclose(ours.detach()[~still], before[~still]).all(1).any()


@pytest.mark.usefixtures("both_forms")
def test_lazyadam_is_adams_formula_number_by_number() -> None:
    weight = torch.nn.Parameter(start())
    optimizer = parts.build("optimizer", "lazyadam", [weight], lr=0.01)
    table = start().double()
    first, second = torch.zeros_like(table), torch.zeros_like(table)
    for t in range(1, 5):
        ids, values = sparse(t)
        total = torch.zeros(ROWS, WIDTH, dtype=torch.float64)
        for i, value in zip(ids.tolist(), values.double(), strict=True):
            total[i] += value
        for r in set(ids.tolist()):
            for d in range(WIDTH):
                g = float(total[r, d])
                first[r, d] = 0.9 * first[r, d] + 0.1 * g
                second[r, d] = 0.999 * second[r, d] + 0.001 * g * g
                m, v = float(first[r, d]) / (1 - 0.9**t), float(second[r, d]) / (1 - 0.999**t)
                table[r, d] -= 0.01 * m / (math.sqrt(v) + 1e-8)
        weight.grad = row_gradient(ids, values)
        optimizer.step()
    assert torch.allclose(weight.detach().double(), table, atol=1e-6)


@pytest.mark.parametrize("name", ["adam", "lazyadam"])
def test_dense_gradients_get_torchs_adam(name: str) -> None:
    ours, theirs = torch.nn.Parameter(start()), torch.nn.Parameter(start())
    options = {"lr": 0.02, "beta1": 0.85, "beta2": 0.97, "eps": 1e-6}
    one = parts.build("optimizer", name, [ours], **options)
    other = torch.optim.Adam([theirs], lr=0.02, betas=(0.85, 0.97), eps=1e-6, fused=False, foreach=False)
    for step in range(10):
        gradient = start(step + 1)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        one.step()
        other.step()
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_adams_weight_decay_is_torchs() -> None:
    ours, theirs = torch.nn.Parameter(start()), torch.nn.Parameter(start())
    one = parts.build("optimizer", "adam", [ours], lr=0.02, weight_decay=0.1)
    other = torch.optim.Adam([theirs], lr=0.02, weight_decay=0.1, fused=False, foreach=False)
    for step in range(5):
        gradient = start(step + 1)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        one.step()
        other.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("name", ["adam", "lazyadam"])
def test_a_parameter_without_gradient_stays(name: str) -> None:
    weight, idle = torch.nn.Parameter(start()), torch.nn.Parameter(start(1))
    optimizer = parts.build("optimizer", name, [weight, idle], lr=0.1)
    weight.grad = start(2)
    optimizer.step()
    assert torch.equal(idle.detach(), start(1))
    assert not torch.equal(weight.detach(), start())


def test_a_group_may_have_its_own_rate() -> None:
    fast, slow = torch.nn.Parameter(start()), torch.nn.Parameter(start())
    optimizer = parts.build("optimizer", "lazyadam", [{"params": [fast], "lr": 0.1}, {"params": [slow]}], lr=0.001)
    ids, values = sparse(0, repeated=False)
    fast.grad, slow.grad = row_gradient(ids, values), row_gradient(ids, values)
    optimizer.step()
    moved = [(x.detach() - start())[ids].abs().mean() for x in (fast, slow)]
    assert float(moved[0] / moved[1]) == pytest.approx(100, rel=0.01)
