"""The shop: its truth is known, its goods can be seen and read, and a million of them cost nothing until asked for."""

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch

from foilrec import parts
from foilrec.core import Data
from foilrec.datasets.shop import Shop
from foilrec.errors import BadOption
from foilrec.world.catalogue import Catalogue
from foilrec.world.tastes import Tastes
from foilrec.world.visits import Visits


@pytest.fixture(scope="module")
def shop() -> Data:
    return Shop().read()


@pytest.fixture(scope="module")
def small() -> Data:
    return Shop(users=60, items=80, seed=3, no_picture=0.25).read()


def truth(data: Data) -> Tastes:
    assert isinstance(data.oracle, Tastes)
    return data.oracle


def everything(data: Data) -> torch.Tensor:
    return torch.cat([data.train, data.valid, data.test])


def test_the_same_options_make_the_same_bytes(small: Data) -> None:
    again, other = Shop(users=60, items=80, seed=3, no_picture=0.25).read(), Shop(users=60, items=80, seed=4).read()
    assert again.fingerprint == small.fingerprint != other.fingerprint
    for name in ("titles", "descriptions"):
        assert list(getattr(again, name)) == list(getattr(small, name)) != list(getattr(other, name))
    assert all(np.array_equal(a, b) for a, b in zip(again.pictures or (), small.pictures or (), strict=True))


def test_it_is_a_part_with_names_for_users_and_items(shop: Data) -> None:
    assert parts.find("dataset", "shop") is Shop
    assert shop.name == "shop" and shop.raw_users([7]) == ["u0007"] and shop.raw_items([42]) == ["item-00042"]
    assert shop.titles is not None and shop.descriptions is not None
    assert len(set(shop.titles)) > 0.99 * shop.n_items
    catalogue = truth(shop).catalogue
    for item in (0, 17, 499):
        words = {name: catalogue.vocabularies[name][v[item]] for name, v in catalogue.attributes.items()}
        assert all(word in shop.descriptions[item] for word in words.values())
        assert words["category"] in shop.titles[item]


def test_every_user_is_split_by_the_rule(shop: Data) -> None:
    train, valid, test = (torch.bincount(x[:, 0], minlength=800) for x in (shop.train, shop.valid, shop.test))
    total = train + valid + test
    many = total >= 10
    assert total.min() >= 8 and total.max() <= 40 and 14 < total.float().mean() < 17
    held = torch.where(many, total // 5, 2)
    assert torch.equal(valid, held // 2) and torch.equal(test, held - held // 2)


def test_no_pair_comes_twice_and_users_come_in_order(shop: Data) -> None:
    pairs = everything(shop)
    assert len(pairs.unique(dim=0)) == len(pairs)
    for part in (shop.train, shop.valid, shop.test):
        assert part.dtype == torch.int64 and bool((part[1:, 0] >= part[:-1, 0]).all())


def test_rows_of_a_user_follow_his_walk() -> None:
    tastes = Tastes(Catalogue(500, 1), 50, 1)
    visits = Visits(tastes, 15.0, 12.0, 1)
    users, items = visits.taken()
    for user in (0, 20, 49):
        shown = visits.shown(np.array([user]), 0, 64 * 48)[0].tolist()
        steps = [shown.index(item) for item in items[users == user].tolist()]
        assert steps == sorted(steps) and len(steps) <= visits.wanted(np.array([user]))[0]


def test_the_oracle_is_calibrated_and_explains_every_interaction(shop: Data) -> None:
    oracle = truth(shop)
    users, items = everything(shop).unbind(1)
    assert bool(oracle.likes(users, items[:, None]).all())
    taken = oracle.probability(users, items[:, None])
    everyone, all_items = torch.arange(shop.n_users), torch.arange(shop.n_items).expand(shop.n_users, -1)
    chance, liked = oracle.probability(everyone, all_items), oracle.likes(everyone, all_items)
    assert chance.dtype == torch.float32 and taken.mean() > 4 * chance.mean()
    for low in (0.0, 0.05, 0.2, 0.4, 0.6, 0.8):
        here = (chance >= low) & (chance < low + 0.2)
        assert abs(liked[here].float().mean() - chance[here].mean()) < 0.02


def test_what_is_shown_is_taken_as_often_as_the_oracle_says() -> None:
    tastes = Tastes(Catalogue(500, 2), 800, 2)
    visits = Visits(tastes, 15.0, 12.0, 2)
    users, items = visits.taken()
    taken = set(zip(users.tolist(), items.tolist(), strict=True))
    hits, expected = 0.0, 0.0
    for user, last in enumerate(np.searchsorted(users, np.arange(800), side="right") - 1):
        shown = visits.shown(np.array([user]), 0, 64 * 48)[0]
        walk = np.unique(shown[: 1 + int(np.flatnonzero(shown == items[last])[0])])
        hits += sum((user, item) in taken for item in walk.tolist())
        expected += float(tastes.probability(torch.tensor([user]), torch.from_numpy(walk)[None]).sum())
    assert hits == pytest.approx(expected, rel=0.05)


def test_the_oracle_also_judges_goods_that_do_not_exist(shop: Data) -> None:
    oracle = truth(shop)
    users, items = torch.arange(100), torch.arange(500).expand(100, -1)
    goods = {name: torch.from_numpy(values).expand(100, -1) for name, values in oracle.catalogue.attributes.items()}
    imagined, real = oracle.like(users, goods), oracle.probability(users, items)
    assert imagined.shape == (100, 500)
    assert np.corrcoef(imagined.logit().numpy().ravel(), real.logit().numpy().ravel())[0, 1] > 0.9


@pytest.mark.parametrize(("modality", "names"), [("image", "category colour pattern style"), ("text", "all")])
def test_neighbours_in_features_share_attributes(shop: Data, modality: str, names: str) -> None:
    rows = shop.features[modality]
    assert rows.rows.dtype == np.float32 and rows.dim == 64
    unit = torch.nn.functional.normalize(rows.all(), dim=1)
    alike = (unit @ unit.T).fill_diagonal_(-1).topk(5).indices
    attributes = truth(shop).catalogue.attributes
    for name in attributes if names == "all" else names.split():
        value = torch.from_numpy(attributes[name])
        shared, chance = (value[alike] == value[:, None]).float().mean(), (value[:, None] == value).float().mean()
        assert shared > 1.3 * chance, name


def test_a_changed_attribute_changes_the_picture_and_the_words() -> None:
    catalogue = Catalogue(100, 0)
    item = np.array([5])
    values = catalogue.of(item)
    before, text = catalogue.draw(5), catalogue.describe(5)
    assert before.shape == (1, 32, 32, 3) and before.dtype == np.uint8
    assert np.array_equal(catalogue.draw(values, item), before) and catalogue.describe(values, item) == text
    for name, words in catalogue.vocabularies.items():
        changed = values | {name: (values[name] + 1) % len(words)}
        assert not np.array_equal(catalogue.draw(changed, item), before)
        assert catalogue.describe(changed, item) != text
        for modality in ("image", "text"):
            assert not np.array_equal(catalogue.features(modality, changed, item), catalogue.features(modality, item))
    for name, words in catalogue.vocabularies.items():
        every = {k: np.repeat(v, len(words)) for k, v in values.items()} | {name: np.arange(len(words))}
        assert len(np.unique(catalogue.draw(every, np.repeat(item, len(words))), axis=0)) == len(words)


def test_items_without_a_picture_are_marked(small: Data) -> None:
    present = small.features["image"].present
    assert present is not None and small.pictures is not None and 8 <= int((~present).sum()) <= 32
    assert [picture is not None for picture in small.pictures] == present.tolist()
    assert bool((small.features["image"].all().abs().sum(1) > 0).eq(present).all())
    assert small.features["text"].present is None


def test_lazy_rows_are_the_same_as_rows_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = Shop(users=5, items=700).read()
    monkeypatch.setattr("foilrec.datasets.shop._LAZY_ABOVE", 100)
    lazy = Shop(users=5, items=700).read()
    for name, modality in at_once.features.items():
        rows, other = modality.rows, lazy.features[name].rows
        assert isinstance(rows, np.ndarray) and not isinstance(other, np.ndarray)
        assert other.shape == rows.shape and other.dtype == rows.dtype and len(other) == len(rows)
        for index in (3, -1, slice(250, 260), np.array([699, 0, 3, 3]), np.array([[1, 2], [3, 4]])):
            assert np.array_equal(other[index], rows[index])
        assert np.array_equal(np.asarray(other), rows)
        ids = torch.tensor([[5, 600], [7, 5]])
        assert torch.equal(lazy.features[name].of(ids), modality.of(ids))
    assert lazy.fingerprint == at_once.fingerprint


def test_lazy_sequences_index_like_lists(small: Data) -> None:
    titles = small.titles
    assert titles is not None
    listed = list(titles)
    assert len(titles) == len(listed) == 80 and titles[-1] == listed[-1] and list(titles[3:9:2]) == listed[3:9:2]
    with pytest.raises(IndexError):
        titles[80]


def test_a_large_world_is_read_lazily() -> None:
    start = time.process_time()
    data = Shop(users=2000, items=200_000).read()
    assert data.features["image"].of(torch.tensor([0, 199_999])).shape == (2, 64)
    assert data.titles is not None and data.pictures is not None
    assert data.titles[199_999] and data.pictures[123_456].shape == (32, 32, 3)
    assert time.process_time() - start < 5
    assert len(data.train[:, 1].unique()) > 10_000


def test_popular_goods_are_taken_more_and_a_long_tail_less(shop: Data) -> None:
    taken = shop.popularity.sort(descending=True).values.float()
    assert 0.2 < taken[:50].sum() / taken.sum() < 0.5 and taken[-50:].sum() / taken.sum() < 0.05


@pytest.mark.parametrize(("users", "items"), [(1, 30), (40, 60)])
def test_small_shops_are_shops_too(users: int, items: int) -> None:
    data = Shop(users=users, items=items).read()
    assert len(data.train) >= users and len(data.item_ids or ()) == items


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Shop(users=0), "users = 0"),
        (lambda: Shop(items=29), "items = 29"),
        (lambda: Shop(interactions=2), "interactions = 2"),
        (lambda: Shop(interactions=51), "interactions = 51"),
        (lambda: Shop(skew=1.0), "skew = 1.0"),
        (lambda: Shop(noise=-0.1), "noise = -0.1"),
        (lambda: Shop(no_picture=1.5), "no_picture = 1.5"),
    ],
)
def test_options_that_make_no_shop(make: Callable[[], Shop], told: str) -> None:
    with pytest.raises(BadOption, match=told):
        make()
