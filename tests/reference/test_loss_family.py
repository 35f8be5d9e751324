"""The family of losses against their formulas written with loops, their identities, and their bounds."""

import math
from collections.abc import Callable
from copy import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from foilrec import contracts, parts
from foilrec.core import Batch, Negatives, Tables, score
from foilrec.errors import BadOption, PartsDoNotFit
from foilrec.hardness import Meter
from foilrec.numerics import fullsoftmax, rowwise
from foilrec.numerics.angles import cosine, unit
from foilrec.trainer import Objective

B, K = 5, 4
SCORES_ALONE = ["infonce", "bce", "gbce", "hinge", "ccl", "dcl", "hcl", "cw", "bsl", "psl", "slatk"]
FAMILY = [*SCORES_ALONE, "directau", "crossentropy"]


def drawn(seed: int) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def scores(k: int = K) -> tuple[Tensor, Tensor]:
    """Positive [B] and negative [B, K] cosines, in double precision and with gradient."""
    draw = 2 * torch.rand(B, 1 + k, generator=drawn(0), dtype=torch.float64) - 1
    positive, negative = draw[:, 0].clone(), draw[:, 1:].clone()
    return positive.requires_grad_(), negative.requires_grad_()


def negatives(k: int = K, **more: Tensor | None) -> Negatives:
    """Any ids, and what losses look at."""
    return Negatives(ids=torch.zeros(B, k, dtype=torch.long), **more)


WEIGHTS = torch.rand(B, K, generator=drawn(1), dtype=torch.float64) + 0.1
WEIGHTS[0, 2] = 0
MASK = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 0]], dtype=torch.bool)
LOG_Q = -torch.rand(B, K, generator=drawn(2), dtype=torch.float64) * 5 - 1


class Row:
    """One row of scores: s+, and (s, weight, q) of each negative that is left."""

    def __init__(self, b: int, positive: Tensor, negative: Tensor, given: Negatives) -> None:
        left = [k for k in range(negative.shape[1]) if given.mask is None or given.mask[b, k]]
        self.own, self.all = positive[b], [negative[b, k] for k in left]
        self.weights = [1.0 if given.weights is None else float(given.weights[b, k]) for k in left]
        self.q = None if given.log_q is None else [math.exp(float(given.log_q[b, k])) for k in left]
        self.n = len(left)

    def mean(self, f: Callable[[Tensor], Tensor], correct: bool = False) -> Tensor:
        """The mean of w f(s), of w f(s) / q over the mean of 1 / q if corrected."""
        odds = [1 / q for q in self.q] if correct and self.q is not None else [1.0] * self.n
        terms = [w * o * f(s) for s, w, o in zip(self.all, self.weights, odds, strict=True)]
        return sum(terms, torch.zeros((), dtype=torch.float64)) / max(1.0, sum(odds))

    @property
    def empty(self) -> bool:
        """Nothing counts."""
        return not any(w > 0 for w in self.weights)


def unweighted(row: Row) -> Row:
    """The row with all weights at 1."""
    plain = copy(row)
    plain.weights = [1.0] * row.n
    return plain


def infonce(row: Row, temperature: float = 0.1, with_positive: bool = True) -> Tensor:
    total = row.n * row.mean(lambda s: (s / temperature).exp())
    own = (row.own / temperature).exp()
    return -(own / (total + own if with_positive else total)).log()


def bce(row: Row, label: float = 0.0, positive_weight: float = 1.0) -> Tensor:
    def term(s: Tensor) -> Tensor:
        return -label * s.sigmoid().log() - (1 - label) * (1 - s.sigmoid()).log()

    n = row.n  # a row without negatives keeps its positive whole
    return (-positive_weight * row.own.sigmoid().log() + n * row.mean(term)) / (1 + n)


def gbce(row: Row, t: float = 0.75, items: int | None = None) -> Tensor:
    n = row.n
    share = n / (items - 1) if items else sum(row.q or [])
    if share <= 0:
        share = 1e-30
    share = min(1.0, share)
    beta = share * (t * (1 - 1 / share) + 1 / share)
    return (-beta * row.own.sigmoid().log() + n * row.mean(lambda s: -(1 - s.sigmoid()).log())) / (1 + n)


def hinge(row: Row, margin: float = 1.0, items: int | None = None) -> Tensor:
    value = row.mean(lambda s: torch.relu(margin + s - row.own))
    over = sum(bool(margin + s - row.own > 0) for s in row.all)
    return value if items is None else value * math.log(1 + items * over / max(1, row.n))


def ccl(row: Row, margin: float = 0.8, weight: float = 150.0) -> Tensor:
    return 1 - row.own + weight * row.mean(lambda s: torch.relu(s - margin))


def corrected(row: Row, mixed: Tensor, own: Tensor, prior: float, least: float) -> Tensor:
    rest = (mixed - prior * own) / (1 - prior)
    return rest if float(rest.detach()) > least else torch.tensor(least, dtype=torch.float64)


def dcl(row: Row, prior: float = 0.01, temperature: float = 0.1, correct: bool = True) -> Tensor:
    own = (row.own / temperature).exp()
    mixed = row.mean(lambda s: (s / temperature).exp(), correct)
    total = row.n * corrected(row, mixed, own, prior, math.exp(-1 / temperature))
    return -(own / (own + total)).log()


def hcl(row: Row, beta: float = 0.5, prior: float = 0.01, temperature: float = 0.1, correct: bool = True) -> Tensor:
    own = (row.own / temperature).exp()
    above = row.mean(lambda s: ((1 + beta) * s / temperature).exp(), correct)
    below = unweighted(row).mean(lambda s: (beta * s / temperature).exp(), correct)
    total = row.n * corrected(row, above / below, own, prior, math.exp(-1 / temperature))
    return -(own / (own + total)).log()


def cw(row: Row, sharpness: float = 2.0, prior: float = 0.01, temperature: float = 0.1) -> Tensor:
    trust = [float((-sharpness * (s - row.own) / 2).detach().sigmoid()) for s in row.all]
    given, row.weights = row.weights, [w * t * row.n / sum(trust) for w, t in zip(row.weights, trust, strict=True)]
    mixed = row.mean(lambda s: (s / 2 / temperature).exp(), correct=True)
    row.weights = given
    own = (row.own / 2 / temperature).exp()
    return (corrected(row, mixed, own, prior, math.exp(-0.5 / temperature)) / own).log()


def bsl(row: Row, temperature: float = 0.1, power: float = 1.1) -> Tensor:
    return power * row.mean(lambda s: (s / temperature).exp()).log() - row.own / temperature


def psl(row: Row, activation: str = "relu", temperature: float = 0.1, scale: float = 2.0) -> Tensor:
    def f(s: Tensor) -> Tensor:
        x = (s - row.own) / scale
        grown = {"tanh": 1 + x.tanh(), "atan": 1 + x.atan(), "relu": torch.relu(1 + x), "exp": x.exp()}[activation]
        return torch.as_tensor(grown.clamp(min=1e-8) ** (1 / temperature))

    return (row.n * row.mean(f)).log()


def slatk(row: Row, top: int = 20, temperature: float = 0.1, sharpness: float = 1.0) -> Tensor:
    known = sorted((float(s.detach()) for s in [row.own, *row.all]), reverse=True)
    bar = known[min(top, len(known)) - 1]
    return ((row.own - bar) / sharpness).sigmoid() * infonce(row, temperature, with_positive=False)


def crossentropy(row: Row, temperature: float = 1.0) -> Tensor:
    return infonce(row, temperature)


SLOW: dict[str, Callable[..., Tensor]] = {
    f.__name__: f for f in (infonce, bce, gbce, hinge, ccl, dcl, hcl, cw, bsl, psl, slatk, crossentropy)
}
EMPTY_COUNTS = {"bce", "gbce", "hinge", "ccl"}  # what is left of a row without negatives is its positive's term
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in SLOW),
    ("infonce", {"temperature": 0.5, "with_positive": False}),
    ("bce", {"label": 0.2, "positive_weight": 3.0}),
    ("gbce", {"t": 0.3}),
    ("gbce", {"t": 1.0, "items": 50}),
    ("hinge", {"margin": 0.3, "items": 100}),
    ("ccl", {"margin": -0.2, "weight": 10.0}),
    ("dcl", {"prior": 0.3, "temperature": 1.0}),
    ("dcl", {"prior": 0.1, "temperature": 0.3, "correct": False}),
    ("hcl", {"prior": 0.3, "temperature": 1.0, "beta": 2.0}),
    ("hcl", {"prior": 0.1, "temperature": 0.3, "correct": False}),
    ("cw", {"prior": 0.3, "sharpness": 5.0, "temperature": 0.5}),
    ("bsl", {"temperature": 0.3, "power": 0.8}),
    ("psl", {"activation": "tanh", "temperature": 0.3}),
    ("psl", {"activation": "atan"}),
    ("psl", {"activation": "exp", "scale": 1.0}),
    ("slatk", {"top": 2, "sharpness": 0.5, "temperature": 0.3}),
    ("crossentropy", {"temperature": 0.3}),
]


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alike", "weighted"])
@pytest.mark.parametrize("log_q", [None, LOG_Q], ids=["", "drawn"])
@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
def test_every_loss_is_its_formula_and_so_is_its_gradient(
    name: str, options: dict[str, Any], log_q: Tensor | None, weights: Tensor | None, mask: Tensor | None
) -> None:
    if name == "gbce" and log_q is None and "items" not in options:
        pytest.skip("must know how much is drawn")
    positive, negative = scores()
    given = negatives(weights=weights, mask=mask, log_q=log_q)
    value = parts.build("loss", name, **options)(positive, negative, given)
    rows = [Row(b, positive, negative, given) for b in range(B)]
    counted = [SLOW[name](row, **options) for row in rows if name in EMPTY_COUNTS or not row.empty]
    expected = sum(counted, torch.zeros((), dtype=torch.float64)) / B
    assert torch.allclose(value, expected, rtol=1e-9, atol=1e-12)
    for x in (positive, negative):
        ours, theirs = (gradient(y, x) for y in (value, expected))
        assert torch.allclose(ours, theirs, rtol=1e-8, atol=1e-11)


def gradient(value: Tensor, x: Tensor) -> Tensor:
    """d value / d x, 0 where x is no part of it."""
    found = torch.autograd.grad(value, x, retain_graph=True, allow_unused=True)[0]
    return torch.zeros_like(x) if found is None else found


def same(left: tuple[str, dict[str, Any]], right: tuple[str, dict[str, Any]], less: float = 0.0, **more: Any) -> None:
    """Two losses give the same value, but for a constant, and the same gradients."""
    positive, negative = scores()
    given = negatives(**more)
    one, other = (parts.build("loss", name, **options)(positive, negative, given) for name, options in (left, right))
    assert torch.allclose(one, other - less, rtol=1e-7)
    for x in (positive, negative):
        a, b = (torch.autograd.grad(value, x, retain_graph=True)[0] for value in (one, other))
        assert torch.allclose(a, b, rtol=1e-7, atol=1e-12)


SL = ("infonce", {"temperature": 0.1, "with_positive": False})
IDENTITIES: list[tuple[tuple[str, dict[str, Any]], tuple[str, dict[str, Any]], float]] = [
    (("infonce", {"temperature": 0.2}), ("softmax", {"temperature": 0.2, "correct": False}), 0.0),
    (("gbce", {"t": 0.0, "items": 50}), ("bce", {}), 0.0),
    (("dcl", {"prior": 0.0}), ("infonce", {}), 0.0),
    (("hcl", {"beta": 0.0, "prior": 0.1}), ("dcl", {"prior": 0.1}), 0.0),
    (("hcl", {"beta": 0.0, "prior": 0.0}), ("infonce", {}), 0.0),
    (("cw", {"sharpness": 0.0, "prior": 0.0, "temperature": 0.05}), SL, math.log(K)),
    (("bsl", {"power": 1.0}), SL, math.log(K)),
    (("psl", {"activation": "exp", "temperature": 0.05}), SL, 0.0),
    (("crossentropy", {}), ("softmax", {"correct": False}), 0.0),
]


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alike", "weighted"])
@pytest.mark.parametrize(("left", "right", "less"), IDENTITIES, ids=str)
def test_neighbours_meet(left: tuple[str, Any], right: tuple[str, Any], less: float, weights: Tensor | None) -> None:
    same(left, right, less, weights=weights)


def test_infonce_of_one_negative_is_bpr() -> None:
    positive, negative = scores(1)
    one, other = parts.build("loss", "infonce", temperature=1.0), parts.build("loss", "bpr")
    assert torch.allclose(one(positive, negative, negatives(1)), other(positive, negative, negatives(1)))


def test_slatk_between_no_weight_and_the_softmax_loss() -> None:
    positive, negative = scores()
    sl, given = parts.build("loss", "infonce", with_positive=False), negatives()
    blunt = parts.build("loss", "slatk", sharpness=1e9)  # everyone is neither above the bar nor below
    assert torch.allclose(blunt(positive, negative, given), sl(positive, negative, given) / 2)
    sharp = parts.build("loss", "slatk", sharpness=1e-4, top=2)
    for level, share in ((2.0, 1.0), (-2.0, 0.0)):  # above every negative, and below
        own = torch.full_like(positive, level)
        assert torch.allclose(sharp(own, negative, given), share * sl(own, negative, given))


def test_bce_is_the_mean_over_all_scores_with_their_labels() -> None:
    positive, negative = scores()
    labels = torch.rand(B, K, generator=drawn(3), dtype=torch.float64)
    value = parts.build("loss", "bce")(positive, negative, negatives(labels=labels))
    logits, wanted = torch.cat([positive[:, None], negative], 1), torch.cat([torch.ones(B, 1), labels], 1)
    assert torch.allclose(value, torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted))


def test_gbce_at_t_1_counts_the_positive_as_often_as_its_share_of_draws() -> None:
    positive, negative = scores()
    whole = parts.build("loss", "gbce", t=1.0, items=K + 1)(positive, negative, negatives())
    assert torch.allclose(whole, parts.build("loss", "bce")(positive, negative, negatives()))
    log_q = torch.full((B, K), -math.log(49), dtype=torch.float64)
    one, other = parts.build("loss", "gbce", items=50), parts.build("loss", "gbce")
    assert torch.allclose(one(positive, negative, negatives()), other(positive, negative, negatives(log_q=log_q)))
    with pytest.raises(PartsDoNotFit, match=r"loss\.items"):
        other(positive, negative, negatives())


def test_the_margin_of_squared_distances_is_twice_that_of_cosines() -> None:
    positive, negative = scores()
    squared = torch.relu(0.6 + (2 - 2 * positive)[:, None] - (2 - 2 * negative)).mean()
    assert torch.allclose(2 * parts.build("loss", "hinge", margin=0.3)(positive, negative, negatives()), squared)


@pytest.mark.parametrize("name", ["dcl", "hcl", "cw"])
def test_the_log_q_of_uniform_draws_changes_nothing(name: str) -> None:
    positive, negative = scores()
    loss, flat = parts.build("loss", name), torch.full((B, K), -3.0, dtype=torch.float64)
    plain = loss(positive, negative, negatives())
    assert torch.allclose(loss(positive, negative, negatives(log_q=flat)), plain)


def test_evened_draws_mean_what_uniform_draws_would() -> None:
    law = torch.rand(30, generator=drawn(10), dtype=torch.float64) + 0.1
    law, values = law / law.sum(), torch.randn(30, generator=drawn(11), dtype=torch.float64)
    rows = torch.multinomial(law, 200_000, replacement=True, generator=drawn(12))[None]
    found = rowwise.log_mean(rowwise.evened(values[rows], law.log()[rows], None), None, None)
    assert float(found) == pytest.approx(float(values.logsumexp(0)) - math.log(30), abs=0.02)


def test_debiasing_takes_out_exactly_the_positives_among_the_draws() -> None:
    own = torch.tensor([0.7], dtype=torch.float64)
    others = torch.tensor([[-0.3, 0.1, -0.2]], dtype=torch.float64)
    mixed = torch.cat([others, own[:, None]], 1)  # a quarter of the draws is like the positive
    clean = rowwise.debiased(rowwise.log_mean(mixed, None, None), own, 0.25, torch.tensor(-1.0, dtype=torch.float64))
    assert torch.allclose(clean, rowwise.log_mean(others, None, None))


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["single", "brain"])
def test_losses_are_finite_at_any_score_in_low_precision(name: str, masked: bool, dtype: torch.dtype) -> None:
    loss = parts.build("loss", name)
    for high, low in ((1e4, -1e4), (-1e4, 1e4), (1e4, 1e4), (-1e4, -1e4), (0.0, 0.0)):
        positive = torch.full((B,), high, dtype=dtype, requires_grad=True)
        negative = torch.full((B, K), low, dtype=dtype)
        negative[:, 0] = 0.5
        negative.requires_grad_()
        given = negatives(
            mask=MASK if masked else None, weights=WEIGHTS.to(dtype) if masked else None, log_q=LOG_Q.to(dtype)
        )
        value = loss(positive, negative, given)
        value.backward()
        assert torch.isfinite(value), (high, low)
        assert torch.isfinite(positive.grad).all()
        assert torch.isfinite(negative.grad).all()
        if masked:
            assert (negative.grad[~MASK] == 0).all()


@pytest.mark.parametrize("name", ["dcl", "hcl", "cw"])
def test_without_cosines_the_bound_is_the_least_of_the_rows_own_terms(name: str) -> None:
    positive, negative = scores()
    loss = parts.build("loss", name, cosine=False, prior=0.9, temperature=1.0)
    value = loss(positive * 0 + 9, negative, negatives())  # the correction leaves nothing
    factor = 0.5 if name == "cw" else 1.0
    least, own = negative.detach().amin(1) * factor, 9 * factor
    expected = least - own if name == "cw" else (1 + K * (least - own).exp()).log()
    assert torch.allclose(value, expected.mean())


def world() -> tuple[Any, Tables, Batch, Tensor, Tensor, Negatives]:
    """The tiny shop, tables in double precision, and a batch of 30 rows with some negatives."""
    data = contracts.small_world()
    users = torch.randn(data.n_users, 6, generator=drawn(5), dtype=torch.float64, requires_grad=True)
    items = torch.randn(data.n_items, 6, generator=drawn(6), dtype=torch.float64, requires_grad=True)
    which = torch.arange(30)
    batch = Batch(*(x.contiguous() for x in data.train[which].unbind(1)), which, 0)
    tables = Tables(items, users)
    given = Negatives(ids=data.seen.unseen(batch.users, which, 3, 1))
    return data, tables, batch, tables.user_rows(batch.users), tables.item_rows(given.ids), given


def slow_sum(data: Any, tables: Tables, batch: Batch, known: bool, temperature: float, unit_length: bool) -> Tensor:
    """Torch's cross_entropy on the whole matrix of scores."""
    users, items = tables.users[batch.users], tables.items
    if unit_length:
        users, items = (torch.nn.functional.normalize(x, dim=1) for x in (users, items))
    logits = users @ items.T / temperature
    for b in range(len(batch) if known else 0):
        mine = [int(i) for i in data.seen.of(int(batch.users[b])) if i != batch.positives[b]]
        logits = logits.index_put(
            (torch.tensor(b), torch.tensor(mine, dtype=torch.long)), logits.new_tensor(-torch.inf)
        )
    return torch.nn.functional.cross_entropy(logits, batch.positives)


@pytest.mark.parametrize("block", [1, 200, 2**22])
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("unit_length", [False, True])
def test_crossentropy_in_blocks_is_torchs_with_its_gradients(block: int, known: bool, unit_length: bool) -> None:
    data, tables, batch, query, vectors, given = world()
    loss = parts.build("loss", "crossentropy", block=block, mask_known=known, temperature=0.7, cosine=unit_length)
    value = loss.of_vectors(data, tables, batch, query, vectors, given)
    expected = slow_sum(data, tables, batch, known, 0.7, unit_length)
    assert torch.allclose(value, expected, rtol=1e-10)
    for table in (tables.users, tables.items):
        ours, theirs = (torch.autograd.grad(3 * y, table, retain_graph=True)[0] for y in (value, expected))
        assert torch.allclose(ours, theirs, rtol=1e-8, atol=1e-12)


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes the most numbers that any tensor made inside holds."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operation itself, its results counted."""
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, list | tuple) else [made]:
            if isinstance(one, Tensor):
                self.numbers = max(self.numbers, one.numel())
        return made


def test_crossentropy_never_makes_more_scores_than_a_block() -> None:
    query = torch.randn(300, 4, requires_grad=True)
    items = torch.randn(500, 4, requires_grad=True)
    with Largest() as largest:
        fullsoftmax.full_softmax(query, items, torch.arange(300), block=5000).backward()
        fullsoftmax.kth_best(query, items, 3, block=5000)
    assert 2000 <= largest.numbers <= 5000


def test_the_kth_best_is_that_of_a_sorted_row() -> None:
    query, items = torch.randn(7, 3, generator=drawn(8)), torch.randn(11, 3, generator=drawn(9))
    ordered = (query @ items.T).sort(1, descending=True).values
    for k, place in ((1, 0), (4, 3), (11, 10), (50, 10)):
        assert torch.allclose(fullsoftmax.kth_best(query, items, k, block=20), ordered[:, place])


def slow_spread(rows: list[Tensor]) -> Tensor:
    """log of the mean over pairs of e^(-2 |x - y|^2)."""
    pairs = [(-2 * (x - y).square().sum()).exp() for n, x in enumerate(rows) for y in rows[:n]]
    return (sum(pairs, torch.zeros((), dtype=torch.float64)) / len(pairs)).log()


@pytest.mark.parametrize("distinct", [True, False])
def test_directau_is_its_formula(distinct: bool) -> None:
    data, tables, batch, query, vectors, given = world()
    value = parts.build("loss", "directau", gamma=0.7, distinct=distinct).of_vectors(
        data, tables, batch, query, vectors, given
    )
    sides = []
    for table, ids in ((tables.users, batch.users.tolist()), (tables.items, batch.positives.tolist())):
        long = [table[i] / table[i].square().sum().sqrt() for i in ids]
        sides.append((long, [long[ids.index(i)] for i in dict.fromkeys(ids)] if distinct else long))
    near = sum((u - i).square().sum() for u, i in zip(sides[0][0], sides[1][0], strict=True)) / len(batch)
    expected = near + 0.7 * (slow_spread(sides[0][1]) + slow_spread(sides[1][1])) / 2
    assert torch.allclose(value, expected)
    for table in (tables.users, tables.items):
        ours, theirs = (torch.autograd.grad(y, table, retain_graph=True)[0] for y in (value, expected))
        assert torch.allclose(ours, theirs, rtol=1e-7, atol=1e-10)


def test_directau_of_a_batch_of_one_is_its_alignment() -> None:
    data, tables, batch, query, vectors, given = world()
    one = Batch(batch.users[:1], batch.positives[:1], torch.arange(1), 0)
    value = parts.build("loss", "directau").of_vectors(data, tables, one, query[:1], vectors[:1], given)
    near = cosine(query[:1], tables.item_rows(one.positives))
    assert torch.allclose(value, 2 - 2 * near.squeeze())


def test_bsl_takes_the_positives_of_a_user_together() -> None:
    data, tables, batch, query, vectors, given = world()
    value = parts.build("loss", "bsl", power=1.2).of_vectors(data, tables, batch, query, vectors, given)
    own, other = cosine(query, tables.item_rows(batch.positives)) / 0.1, cosine(query, vectors) / 0.1
    total = torch.zeros((), dtype=torch.float64)
    users = batch.users.tolist()
    assert len(set(users)) < len(users)
    for b, user in enumerate(users):
        mine = torch.stack([own[c].exp() for c in range(len(users)) if users[c] == user]).mean()
        total = total + 1.2 * other[b].exp().mean().log() - mine.log()
    assert torch.allclose(value, total / len(users))
    ours, theirs = (torch.autograd.grad(y, tables.users, retain_graph=True)[0] for y in (value, total / len(users)))
    assert torch.allclose(ours, theirs, rtol=1e-8, atol=1e-11)


def test_slatk_measures_its_bar_over_all_items() -> None:
    data, tables, batch, query, vectors, given = world()
    loss = parts.build("loss", "slatk", top=5, sharpness=0.5)
    value = loss.of_vectors(data, tables, batch, query, vectors, given)
    positive, negative = cosine(query, tables.item_rows(batch.positives)), cosine(query, vectors)
    everyone = torch.nn.functional.cosine_similarity(query[:, None], tables.items[None], dim=-1)
    bar = everyone.detach().sort(1, descending=True).values[:, 4]
    expected = ((positive - bar) / 0.5).sigmoid() * ((negative - positive[:, None]) / 0.1).logsumexp(1)
    assert torch.allclose(value, expected.mean())
    sampled = parts.build("loss", "slatk", top=5, sharpness=0.5, exact=False)
    assert torch.allclose(
        sampled.of_vectors(data, tables, batch, query, vectors, given), sampled(positive, negative, given)
    )


def test_a_loss_of_cosines_hears_cosines_and_others_are_not_asked() -> None:
    data, tables, batch, query, vectors, given = world()
    assert parts.build("loss", "bpr").of_vectors(data, tables, batch, query, vectors, given) is None
    assert parts.build("loss", "infonce", cosine=False).of_vectors(data, tables, batch, query, vectors, given) is None
    loss = parts.build("loss", "infonce")
    lengths = vectors.norm(dim=2) * query.norm(dim=1)[:, None]
    assert torch.allclose(score(query, vectors) / lengths, cosine(query, vectors))
    assert torch.allclose(unit(vectors).norm(dim=2), torch.ones(30, 3, dtype=torch.float64))
    positive = cosine(query, tables.item_rows(batch.positives))
    value = loss.of_vectors(data, tables, batch, query, vectors, given)
    assert torch.allclose(value, loss(positive, cosine(query, vectors), given))
    longer = loss.of_vectors(data, tables, batch, 7 * query, vectors, given)
    assert torch.allclose(value, longer)


def test_a_vector_of_length_0_has_no_cosine_and_a_finite_gradient() -> None:
    query = torch.zeros(2, 3, requires_grad=True)
    value = cosine(query, torch.ones(2, 4, 3)).sum()
    value.backward()
    assert float(value.detach()) == 0
    assert torch.isfinite(query.grad).all()


@pytest.mark.parametrize("backbone", ["bprmf", "lightgcn", "vbpr"])
@pytest.mark.parametrize("name", ["crossentropy", "directau", "bsl", "slatk", "infonce"])
def test_losses_that_need_vectors_train_any_backbone_and_can_be_measured(name: str, backbone: str) -> None:
    data = contracts.small_world()
    torch.manual_seed(0)
    model, sampler = parts.build("backbone", backbone, data), parts.build("sampler", "uniform", data)
    loss = parts.build("loss", name)
    which = torch.arange(40)
    batch = Batch(*(x.contiguous() for x in data.train[which].unbind(1)), which, 0)
    objective = Objective(model, sampler, loss)
    model.begin_epoch(0)
    objective(batch).backward()
    assert all(p.grad is None or torch.isfinite(p.grad.to_dense()).all() for p in model.parameters())
    assert any(p.grad is not None and p.grad.to_dense().abs().sum() > 0 for p in model.parameters())
    reading = Meter(data, 40)(model, sampler, loss)["all"]
    assert math.isfinite(reading.gradient_top)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("infonce", {"temperature": 0.0}),
        ("bce", {"label": 1.0}),
        ("gbce", {"t": 1.5}),
        ("hinge", {"margin": 0.0}),
        ("ccl", {"weight": 0.0}),
        ("dcl", {"prior": 1.0}),
        ("hcl", {"beta": -1.0}),
        ("cw", {"sharpness": -1.0}),
        ("bsl", {"power": 0.0}),
        ("psl", {"scale": 0.0}),
        ("psl", {"activation": "sine"}),
        ("slatk", {"top": 0}),
        ("directau", {"gamma": -1.0}),
        ("crossentropy", {"temperature": 0.0}),
    ],
)
def test_options_out_of_range_are_refused(name: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(BadOption, match=next(iter(wrong))):
        parts.build("loss", name, **wrong)


def test_labels_travel_with_joined_negatives() -> None:
    data, tables, _, _, _, _ = world()
    torch.manual_seed(0)
    model, ids = parts.build("backbone", "bprmf", data), torch.zeros(2, 1, dtype=torch.long)
    joined = Negatives.join([Negatives(ids=ids, labels=torch.full((2, 1), 0.3)), Negatives(ids=ids)], model, tables)
    assert joined.labels is not None
    assert torch.equal(joined.labels, torch.tensor([[0.3, 0.0]]).expand(2, 2))
