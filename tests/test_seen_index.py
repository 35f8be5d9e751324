"""Negatives are never seen items, follow their law exactly, and depend on neither batch size nor kernel form."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from foilrec import parts
from foilrec.core import Batch, Data, Tables
from foilrec.errors import BadData, BadOption
from foilrec.numerics import kernels
from foilrec.seen import SeenIndex

Chi = Callable[[Tensor, Tensor], float]
DRAWS = 40_000


def data_of(pairs: list[tuple[int, int]], n_users: int, n_items: int) -> Data:
    """A data set of training pairs alone."""
    train = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)
    return Data(n_users, n_items, train, train[:0], train[:0])


def free_of(data: Data, user: int) -> set[int]:
    """What a user has not taken, by a Python set."""
    return set(range(data.n_items)) - {int(i) for u, i in data.train.tolist() if u == user}


def everyone(data: Data) -> Batch:
    """One row a user, for users who have something left."""
    users = torch.tensor([u for u in range(data.n_users) if free_of(data, u)], dtype=torch.long)
    return Batch(users, torch.zeros_like(users), rows=users * 7, epoch=3)


@st.composite
def small_data(draw: st.DrawFn) -> Data:
    """Repeated pairs in any order; users with nothing, with all but one, with all."""
    n_users, n_items = draw(st.integers(1, 6)), draw(st.integers(1, 12))
    pair = st.tuples(st.integers(0, n_users - 1), st.integers(0, n_items - 1))
    pairs = draw(st.lists(pair, max_size=60))
    if draw(st.booleans()):  # one user with all but one
        left = draw(st.integers(0, n_items - 1))
        pairs += [(0, i) for i in range(n_items) if i != left]
    return data_of(pairs, n_users, n_items)


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize("name", ["uniform", "popularity"])
def test_never_a_seen_item_and_every_unseen_one_in_range(name: str) -> None:
    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(small_data())
    def check(data: Data) -> None:
        batch = everyone(data)
        if not len(batch):
            return
        sampler = parts.build("sampler", name, data, count=24)
        drawn = sampler(Tables(items=torch.zeros(data.n_items, 1)), batch, torch.zeros(len(batch), 1))
        assert drawn.ids is not None
        for user, ids in zip(batch.users.tolist(), drawn.ids.tolist(), strict=True):
            assert set(ids) <= free_of(data, user)
        if any(len(free_of(data, u)) == 1 for u in batch.users.tolist()):
            sure = [len(free_of(data, u)) == 1 for u in batch.users.tolist()]
            assert (drawn.log_q[torch.tensor(sure)].abs() < 1e-6).all()

    check()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(small_data())
def test_the_index_is_the_set_of_pairs(data: Data) -> None:
    taken = {(u, i) for u, i in data.train.tolist()}
    asked = torch.arange(data.n_items).expand(data.n_users, -1).contiguous()
    answer = data.seen.contains(torch.arange(data.n_users), asked)
    assert answer.tolist() == [[(u, i) in taken for i in range(data.n_items)] for u in range(data.n_users)]
    for user in range(data.n_users):
        assert data.seen.of(user).tolist() == sorted(i for u, i in taken if u == user)
    assert data.seen.counts.sum() == len(taken)
    scores = torch.rand(data.n_users, data.n_items)
    hidden = scores.clone()
    data.seen.hide(hidden, torch.arange(data.n_users))
    assert torch.equal(hidden, scores.masked_fill(answer, -torch.inf))


@pytest.mark.usefixtures("both_forms")
def test_membership_of_repeated_and_shuffled_users() -> None:
    pairs = torch.randint(0, 30, (200, 2), generator=torch.Generator().manual_seed(0))
    seen, taken = SeenIndex(pairs, 30, 30), {(u, i) for u, i in pairs.tolist()}
    users = torch.tensor([7, 0, 29, 7, 13])
    asked = torch.randint(0, 30, (5, 40), generator=torch.Generator().manual_seed(1))
    expected = [[(u, i) in taken for i in row] for u, row in zip(users.tolist(), asked.tolist(), strict=True)]
    assert seen.contains(users, asked).tolist() == expected
    scores = torch.zeros(5, 30)
    seen.hide(scores, users)
    assert [set(torch.isinf(row).nonzero().flatten().tolist()) for row in scores] == [
        {i for u, i in taken if u == user} for user in users.tolist()
    ]


def law_data() -> Data:
    """Users with nothing taken, with the first, last and middle items, and with all but two; counts of 1 to 40."""
    pairs = [(1, 0), (1, 11), (2, 5), (2, 6), (2, 7)] + [(3, i) for i in range(12) if i not in (4, 9)]
    for item in range(12):
        pairs += [(4 + n, item) for n in range(item * item // 4)]
    return data_of(pairs, 60, 12)


@pytest.mark.parametrize("user", [0, 1, 2, 3])
def test_uniform_draws_are_uniform(user: int, chi_square: Chi) -> None:
    data = law_data()
    rows = torch.arange(DRAWS // 8)
    drawn = data.seen.unseen(torch.full_like(rows, user), rows, 8, key=11)
    expected = torch.zeros(12)
    expected[sorted(free_of(data, user))] = drawn.numel() / len(free_of(data, user))
    assert chi_square(torch.bincount(drawn.flatten(), minlength=12), expected) > 1e-4


def test_the_columns_of_a_row_are_independent(chi_square: Chi) -> None:
    data, rows = law_data(), torch.arange(DRAWS)
    drawn = data.seen.unseen(torch.full_like(rows, 3), rows, 2, key=5)
    pairs = (drawn[:, 0] == 9) * 2 + (drawn[:, 1] == 9)
    assert chi_square(torch.bincount(pairs, minlength=4), torch.full((4,), DRAWS / 4)) > 1e-4


def popularity_law(data: Data, user: int, power: float, smoothing: float) -> Tensor:
    """(c_j + smoothing) ** power over what is unseen, summing to 1."""
    law = torch.zeros(data.n_items, dtype=torch.float64)
    for item in free_of(data, user):
        law[item] = (sum(i == item for _, i in data.train.tolist()) + smoothing) ** power
    return law / law.sum()


@pytest.mark.parametrize(("power", "smoothing"), [(0.75, 1.0), (1.0, 0.5), (-0.5, 1.0), (0.0, 1.0)])
@pytest.mark.parametrize("user", [0, 1, 3])
def test_popularity_draws_follow_their_law_and_log_q_is_its_logarithm(
    user: int, power: float, smoothing: float, chi_square: Chi
) -> None:
    data = law_data()
    rows = torch.arange(DRAWS // 8)
    sampler = parts.build("sampler", "popularity", data, count=8, power=power, smoothing=smoothing)
    batch = Batch(torch.full_like(rows, user), rows, rows)
    drawn = sampler(Tables(items=torch.zeros(12, 1)), batch, torch.zeros(len(rows), 1))
    law = popularity_law(data, user, power, smoothing)
    assert chi_square(torch.bincount(drawn.ids.flatten(), minlength=12), law * drawn.ids.numel()) > 1e-4
    assert torch.allclose(drawn.log_q, law.log()[drawn.ids].float(), atol=1e-6)


def test_uniform_log_q_is_the_logarithm_of_its_law() -> None:
    data = law_data()
    batch = everyone(data)
    drawn = parts.build("sampler", "uniform", data, count=3)(Tables(torch.zeros(12, 1)), batch, torch.zeros(60, 1))
    expected = torch.tensor([-torch.tensor(float(len(free_of(data, u)))).log() for u in batch.users.tolist()])
    assert torch.allclose(drawn.log_q, expected[:, None].expand(-1, 3))


def test_popularity_counts_training_rows_alone() -> None:
    train = torch.tensor([[0, 0], [1, 0], [1, 1]])
    held = torch.tensor([[0, 3]] * 50)
    batch = Batch(torch.zeros(400, dtype=torch.long), torch.zeros(400, dtype=torch.long), torch.arange(400))
    tables, query = Tables(items=torch.zeros(4, 1)), torch.zeros(400, 1)
    drawn = [
        parts.build("sampler", "popularity", Data(2, 4, train, valid, test))(tables, batch, query).ids
        for valid, test in ((train[:0], train[:0]), (held, held))
    ]
    assert torch.equal(*drawn)


@pytest.mark.parametrize(("name", "options"), [("uniform", {}), ("popularity", {"power": 0.75})])
def test_draws_are_the_same_for_every_batch_size_and_kernel_form(
    name: str, options: dict[str, float], world: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = Tables(items=torch.zeros(60, 1))

    def draw(size: int) -> Tensor:
        ids = torch.empty(len(world.train), 5, dtype=torch.long)
        sampler = parts.build("sampler", name, world, count=5, **options)
        for batch in world.batches(size, seed=4, epoch=2):
            ids[batch.rows] = sampler(tables, batch, torch.zeros(len(batch), 1)).ids
        return ids

    whole = draw(10_000)
    assert torch.equal(draw(7), whole)
    assert torch.equal(draw(256), whole)
    monkeypatch.setenv("FOILREC_NUMBA", "0")
    kernels.compiled.cache_clear()
    assert kernels.compiled() is None
    assert torch.equal(draw(64), whole)
    kernels.compiled.cache_clear()


def test_fewer_columns_are_the_first_of_more() -> None:
    data, rows = law_data(), torch.arange(50)
    users = rows % 5
    assert torch.equal(data.seen.unseen(users, rows, 3, 8), data.seen.unseen(users, rows, 9, 8)[:, :3])


def test_words_are_the_same_in_both_forms() -> None:
    rows = torch.tensor([0, 1, 2**40, 2**62])
    loops = pytest.importorskip("foilrec.numerics.compiled")
    data = data_of([(0, 0)], 4, 2**31 - 1)
    fast = data.seen.unseen(torch.tensor([1, 2, 3, 1]), rows, 6, 2**63 - 1)
    slow = kernels.below(kernels.words(rows, 2**63 - 1, 6), torch.tensor(2**31 - 1))
    assert loops is not None
    assert torch.equal(fast, slow)


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize("name", ["uniform", "popularity", "dns"])
def test_a_user_with_everything_is_bad_data(name: str) -> None:
    data = data_of([(0, 0), (0, 1), (0, 2), (1, 0)], 2, 3)
    batch = Batch(torch.tensor([1, 0]), torch.tensor([0, 0]), torch.tensor([3, 0]))
    with pytest.raises(BadData, match="user 0: all 3 items"):
        parts.build("sampler", name, data)(Tables(items=torch.zeros(3, 1)), batch, torch.zeros(2, 1))


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize("name", ["uniform", "popularity"])
def test_one_unseen_item_of_100_000_is_found_without_rejection(name: str) -> None:
    n, left = 100_000, 77_777
    items = torch.cat([torch.arange(left), torch.arange(left + 1, n)])
    train = torch.stack([torch.zeros_like(items), items], 1)
    data = Data(1, n, train, train[:0], train[:0])
    batch = Batch(torch.zeros(1000, dtype=torch.long), torch.zeros(1000, dtype=torch.long), torch.arange(1000))
    drawn = parts.build("sampler", name, data, count=100)(Tables(torch.zeros(n, 1)), batch, torch.zeros(1000, 1))
    assert drawn.ids.shape == (1000, 100)
    assert (drawn.ids == left).all()
    assert drawn.log_q.abs().max() < 1e-6


def test_a_batch_that_hides_its_rows_is_refused(world: Data) -> None:
    batch = Batch(torch.tensor([0]), torch.tensor([0]))
    with pytest.raises(BadOption, match="which training rows"):
        parts.build("sampler", "uniform", world)(Tables(torch.zeros(60, 1)), batch, torch.zeros(1, 1))
