"""Evaluation: what is masked, how values are kept, and that no block size, device form or divergence hides in them."""

from dataclasses import replace
from typing import Any

import polars as pl
import pytest
import torch
from torch import Tensor

from foilrec.core import Backbone, Batch, Data, Tables
from foilrec.errors import BadOption, RunBroken
from foilrec.evaluation import Protocol, evaluate, top_k


class Fixed(Backbone):
    """One user vector for all, and item i scores -i: the list is 0, 1, 2 ..."""

    def propagate(self, inputs: Tensor | None = None) -> Tables:
        return Tables(-torch.arange(self.data.n_items).float()[:, None], torch.ones(self.data.n_users, 1))


class Whole(Backbone):
    """Whole-number vectors, so that no product is rounded."""

    def propagate(self, inputs: Tensor | None = None) -> Tables:
        draw = torch.Generator().manual_seed(1)
        sizes = (self.data.n_items, self.data.n_users)
        return Tables(*(torch.randint(-9, 9, (n, 4), generator=draw).float() for n in sizes))


class Tableless(Whole):
    """No table of users: its query is its own business."""

    def propagate(self, inputs: Tensor | None = None) -> Tables:
        return Tables(super().propagate().items)

    def query(self, tables: Tables, batch: Batch) -> Tensor:
        users = super().propagate().users
        assert users is not None
        assert (batch.positives == -1).all()
        assert not self.training
        return users[batch.users]


class Broken(Backbone):
    """Vectors that hold what they are told."""

    def __init__(self, data: Data, item: float, user: float) -> None:
        super().__init__(data)
        self.item, self.user = item, user

    def propagate(self, inputs: Tensor | None = None) -> Tables:
        items, users = torch.ones(self.data.n_items, 2), torch.ones(self.data.n_users, 2)
        items[3], users[2] = self.item, self.user
        return Tables(items, users)


def line(valid: list[list[int]], test: list[list[int]]) -> Data:
    """Three users who took item 0 in training, and ten items."""
    train = torch.tensor([[0, 0], [1, 0], [2, 0]])
    return Data(3, 10, train, torch.tensor(valid), torch.tensor(test))


def test_masked_phases_leave_the_ranking() -> None:
    data = line(valid=[[0, 1], [0, 2], [1, 9]], test=[[0, 3], [1, 3]])
    train = evaluate(Fixed(data), Protocol(masked=("train",), ks=(10,), metrics=("mrr",)))
    both = evaluate(Fixed(data), Protocol(masked=("train", "valid"), ks=(10,), metrics=("mrr",)))
    assert train.per_user["mrr@10"].tolist() == [1 / 3, 1 / 3]
    assert both.per_user["mrr@10"].tolist() == [1, 1 / 3]


def test_what_is_wanted_is_never_hidden_and_counts_once() -> None:
    data = line(valid=[[0, 1]], test=[[0, 0], [0, 0], [0, 4]])  # item 0 of user 0 is in training as well
    scores = evaluate(Fixed(data), Protocol(ks=(1,), metrics=("recall", "precision")), lists=True)
    assert scores.users.tolist() == [0]
    assert scores.means["recall@1"] == 0.5
    assert scores.means["precision@1"] == 1
    assert scores.means["popularity@1"] == 3  # the list is of the same ranking: item 0 is in it


def test_means_are_of_the_users_that_want_something(world: Data) -> None:
    scores = evaluate(Whole(world), Protocol(ks=(5, 20)))
    assert scores.users.tolist() == sorted(set(world.test[:, 0].tolist()))
    assert set(scores.means) == set(scores.per_user)
    for name, values in scores.per_user.items():
        assert values.shape == scores.users.shape
        assert scores.means[name] == pytest.approx(float(values.double().mean()), abs=1e-15)


@pytest.mark.usefixtures("both_forms")
def test_block_size_changes_nothing(world: Data) -> None:
    protocol = Protocol(ks=(5, 100))
    one, other = (evaluate(Whole(world), protocol, lists=True, block=block) for block in (1, 2**26))
    assert one.means == other.means
    assert all(torch.equal(values, other.per_user[name]) for name, values in one.per_user.items())
    users = torch.arange(world.n_users)
    lists = [top_k(Whole(world), users, 9, world.seen, block=block) for block in (1, 2**26)]
    assert torch.equal(lists[0][0], lists[1][0])
    assert torch.equal(lists[0][1], lists[1][1])


def test_a_rerun_is_equal_to_the_last_bit(world: Data) -> None:
    first, again = (evaluate(Whole(world), Protocol(), lists=True).means for _ in range(2))
    assert first == again


def test_a_model_without_a_table_of_users(world: Data) -> None:
    assert evaluate(Tableless(world).train(), Protocol()).means == evaluate(Whole(world), Protocol()).means


def test_half_precision_tables_are_ranked_in_single(world: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = evaluate(Whole(world), Protocol()).means
    tables = Whole(world).propagate()
    assert tables.users is not None
    half = Tables(tables.items.half(), tables.users.half())
    monkeypatch.setattr(Whole, "propagate", lambda self: half)
    assert evaluate(Whole(world), Protocol()).means == exact


@pytest.mark.parametrize(
    ("item", "user"), [(float("nan"), 1), (1, float("nan")), (float("inf"), 1), (1, float("-inf")), (2e38, 2e38)]
)
@pytest.mark.usefixtures("both_forms")
def test_a_model_that_diverged_is_not_scored(world: Data, item: float, user: float) -> None:
    with pytest.raises(RunBroken, match="diverged"):
        evaluate(Broken(world, item, user), Protocol())
    with pytest.raises(RunBroken, match="diverged"):
        top_k(Broken(world, item, user), torch.arange(world.n_users), 3)


def test_large_scores_that_do_not_overflow_are_fine(world: Data) -> None:
    assert evaluate(Broken(world, 1e38, 1), Protocol()).means["recall@50"] > 0


@pytest.mark.usefixtures("both_forms")
def test_top_k_pads_and_masks(world: Data) -> None:
    data = line(valid=[[0, 1]], test=[[0, 2]])
    ids, values = top_k(Fixed(data), torch.tensor([2, 0]), 12, data.seen)
    assert ids[0].tolist() == [*range(1, 10), -1, -1, -1]
    assert values[1].tolist() == [*(float(-i) for i in range(1, 10)), *[float("-inf")] * 3]
    assert top_k(Fixed(data), torch.tensor([1]), 2)[0].tolist() == [[0, 1]]  # nothing masked
    assert top_k(Fixed(data), torch.tensor([], dtype=torch.long), 2)[0].shape == (0, 2)


def test_the_hash_is_of_every_field() -> None:
    plain = Protocol()
    changes: list[dict[str, Any]] = [
        {"split": "valid"},
        {"masked": ("train", "valid")},
        {"ks": (5, 10)},
        {"metrics": ("recall",)},
    ]
    hashes = [plain.hash, *(replace(plain, **change).hash for change in changes)]
    assert len(set(hashes)) == len(hashes)
    assert {next(iter(change)) for change in changes} == set(plain.as_dict())
    assert Protocol().hash == plain.hash


@pytest.mark.parametrize(
    "wrong", [{"split": "train"}, {"masked": ("test",)}, {"ks": (0,)}, {"ks": ()}, {"metrics": ("recal",)}]
)
def test_a_protocol_refuses_what_it_cannot_do(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadOption):
        Protocol(**wrong)


def test_a_split_without_rows_is_refused(world: Data) -> None:
    with pytest.raises(BadOption, match="no valid rows"):
        evaluate(Whole(replace(world, valid=world.valid[:0])), Protocol("valid"))


def test_a_frame_has_one_row_a_user_in_raw_ids(world: Data) -> None:
    scores = evaluate(Whole(world), Protocol(ks=(5,), metrics=("recall",)))
    frame = scores.to_frame(world)
    assert isinstance(frame, pl.DataFrame)
    assert frame.columns == ["user", "recall@5"]
    assert frame["user"].to_list() == world.raw_users(scores.users.tolist())
    assert frame["recall@5"].mean() == pytest.approx(scores.means["recall@5"])
