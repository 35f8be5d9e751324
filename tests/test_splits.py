"""The rules of splitting: counts by hand, seeds, times and ties."""

import numpy as np
import pytest

from foilrec import splits


def per_user(users: np.ndarray, labels: np.ndarray) -> dict[int, list[int]]:
    """{user: [rows in train, valid, test]}."""
    return {int(u): np.bincount(labels[users == u], minlength=3).tolist() for u in np.unique(users)}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (1, [1, 0, 0]),
        (2, [2, 0, 0]),
        (3, [1, 1, 1]),
        (9, [7, 1, 1]),
        (10, [8, 1, 1]),
        (15, [12, 1, 2]),
        (27, [22, 2, 3]),
    ],
)
def test_random_per_user_follows_the_rule(rows: int, expected: list[int]) -> None:
    users = np.concatenate([np.full(rows, 0), np.full(5, 3)])
    assert per_user(users, splits.random_per_user(users, 1)) == {0: expected, 3: [3, 1, 1]}


def test_random_per_user_depends_on_the_seed_alone() -> None:
    users = np.random.default_rng(0).integers(0, 50, 1000)
    one = splits.random_per_user(users, 7)
    assert (one == splits.random_per_user(users, 7)).all()
    assert (one != splits.random_per_user(users, 8)).any()


def test_random_per_user_favours_no_place() -> None:
    users = np.repeat(np.arange(4000), 5)
    tested = np.bincount(np.flatnonzero(splits.random_per_user(users, 3) == 2) % 5, minlength=5)
    assert abs(tested - 800).max() < 4 * np.sqrt(800 * 0.8)


def test_leave_one_out_takes_the_last_two_by_time() -> None:
    users = np.array([0, 1, 0, 0, 1, 2, 2, 2])
    times = np.array([5.0, 1, 9, 7, 2, 4, 4, 4])
    assert splits.leave_one_out(users, times).tolist() == [0, 0, 2, 1, 0, 0, 1, 2]


def test_global_time_cuts_at_quantiles_and_parts_no_ties() -> None:
    times = np.arange(20.0)[::-1]
    labels = splits.global_time(times)
    assert labels.tolist() == [2, 2, 1, 1] + [0] * 16
    tied = np.array([0.0, 1, 2, 3, 4, 5, 6, 7, 7, 9])
    assert splits.global_time(tied).tolist() == [0] * 9 + [2]


def test_carve_valid_takes_a_share_of_each_user() -> None:
    users = np.repeat([0, 1, 2, 3], [2, 3, 29, 30])
    assert per_user(users, splits.carve_valid(users, 0)) == {0: [2, 0, 0], 1: [2, 1, 0], 2: [27, 2, 0], 3: [27, 3, 0]}


@pytest.mark.parametrize(
    "rule",
    [
        lambda: splits.random_per_user(np.empty(0, np.int64), 0),
        lambda: splits.leave_one_out(np.empty(0, np.int64), np.empty(0)),
    ],
)
def test_nothing_splits_into_nothing(rule: object) -> None:
    assert len(rule()) == 0  # type: ignore[operator]
