"""Full ranking agrees with sorting everything in plain Python, whatever the block, the mask and the ties."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foilrec.core import Backbone, Batch, Data, Tables
from foilrec.errors import BadOption, RunBroken
from foilrec.evaluation import Protocol, evaluate, top_k
from foilrec.measures.metrics import METRICS
from foilrec.numerics import kernels


class Fixed(Backbone):
    """A backbone with given vectors."""

    def __init__(self, data: Data, users: Tensor, items: Tensor) -> None:
        super().__init__(data)
        self.users, self.items = nn.Parameter(users), nn.Parameter(items)

    def propagate(self, inputs: Tensor | None = None) -> Tables:
        """The vectors."""
        return Tables(items=self.items, users=self.users)


def tied(seed: int = 0, n_users: int = 23, n_items: int = 17) -> Fixed:
    """A small world whose scores are whole numbers, so that many tie."""
    rng = torch.Generator().manual_seed(seed)
    pairs = torch.cartesian_prod(torch.arange(n_users), torch.arange(n_items))
    phase = torch.randint(0, 6, (len(pairs),), generator=rng)  # two thirds of the pairs belong to no phase
    parts = [pairs[phase == which] for which in range(3)]
    data = Data(n_users, n_items, *parts)
    draw = [torch.randint(-2, 3, (n, 2), generator=rng).float() for n in (n_users, n_items)]
    return Fixed(data, *draw)


def slowly(model: Fixed, protocol: Protocol) -> dict[str, dict[int, float]]:
    """Every metric by sorting: {"recall@5": {user: value}}."""
    data, values = model.data, {}
    taken = {phase: {tuple(pair) for pair in getattr(data, phase).tolist()} for phase in ("train", "valid", "test")}
    for user in range(data.n_users):
        wanted = [i for i in range(data.n_items) if (user, i) in taken[protocol.split]]
        hidden = {i for phase in protocol.masked for u, i in taken[phase] if u == user} - set(wanted)
        scores = (model.items @ model.users[user]).tolist()
        ranking = sorted((i for i in range(data.n_items) if i not in hidden), key=lambda i: (-scores[i], i))
        if wanted:
            ranks = torch.tensor([ranking.index(i) for i in wanted])
            for name in protocol.metrics:
                for k in protocol.ks:
                    value = METRICS[name](
                        ranks, torch.zeros(len(ranks), dtype=torch.long), torch.tensor([len(ranks)]), k
                    )
                    values.setdefault(f"{name}@{k}", {})[user] = float(value)
    return values


@pytest.fixture(params=["numba", "torch"])
def form(request: Any, monkeypatch: Any) -> Any:
    """Both forms of the kernels."""
    if request.param == "torch":
        monkeypatch.setenv("FOILREC_NUMBA", "0")
    elif kernels.compiled() is None:
        pytest.skip("numba is not installed (extra `fast`)")
    kernels.compiled.cache_clear()
    yield request.param
    kernels.compiled.cache_clear()


@pytest.mark.parametrize("masked", [("train",), ("train", "valid")])
@pytest.mark.parametrize("seed", range(3))
def test_evaluation_equals_sorting_everything(form: str, masked: tuple[str, ...], seed: int) -> None:
    model, protocol = tied(seed), Protocol(masked=masked, ks=(1, 3, 10, 40))
    scores, slow = evaluate(model, protocol), slowly(model, protocol)
    for name, by_user in slow.items():
        assert dict(zip(scores.users.tolist(), scores.per_user[name].tolist(), strict=True)) == pytest.approx(by_user)
        assert scores.means[name] == pytest.approx(sum(by_user.values()) / len(by_user))


def test_a_user_who_wants_much_is_ranked_by_sorting_with_the_same_result(form: str) -> None:
    rng = torch.Generator().manual_seed(1)
    for spread in (3, 10**6):  # many ties, and none
        scores = torch.randint(0, spread, (5, 40), generator=rng).float()
        scores[:, 7] = -torch.inf
        wanted = torch.cat([torch.randperm(40, generator=rng)[:n] for n in (3, 30, 1, 25, 0)])
        starts = torch.tensor([0, 3, 33, 34, 59, 59])
        assert torch.equal(kernels.places(scores, starts, wanted, many=5), kernels.ranks(scores, starts, wanted))


def test_the_block_changes_nothing() -> None:
    model = tied(n_users=70)
    whole = evaluate(model, Protocol(), lists=True)
    assert evaluate(model, Protocol(), lists=True, block=1).means == whole.means


def test_top_k_is_the_head_of_the_sorted_list(form: str) -> None:
    model = tied(3)
    users = torch.arange(model.data.n_users)
    ids, scores = top_k(model, users, 20, model.data.seen)
    for user in users.tolist():
        every = (model.items @ model.users[user]).tolist()
        unseen = [i for i in range(model.data.n_items) if i not in model.data.seen.of(user).tolist()]
        ranking = sorted(unseen, key=lambda i: (-every[i], i))
        assert ids[user].tolist() == ranking + [-1] * (20 - len(ranking))
        assert scores[user, : len(ranking)].tolist() == [every[i] for i in ranking]


def test_a_wanted_item_is_never_hidden() -> None:
    model = tied()
    data = replace(model.data, valid=torch.cat([model.data.valid, model.data.test]))
    clean, leaked = tied(), Fixed(data, model.users.data, model.items.data)
    ranks = [evaluate(m, Protocol(masked=("train",))).means["recall@50"] for m in (clean, leaked)]
    assert ranks == [1.0, 1.0]
    assert evaluate(leaked, Protocol(masked=("train", "valid"))).means["recall@50"] == 1.0


def test_a_diverged_model_is_an_error() -> None:
    model = tied()
    model.items.data[3, 1] = torch.nan
    with pytest.raises(RunBroken, match="diverged"):
        evaluate(model, Protocol())


def test_every_field_of_a_protocol_is_in_its_hash() -> None:
    base = Protocol()
    others = [
        replace(base, split="valid"),
        replace(base, masked=("train", "valid")),
        replace(base, ks=(5,)),
        replace(base, metrics=("recall",)),
    ]
    assert len({protocol.hash for protocol in [base, *others]}) == 5
    assert base.hash == Protocol().hash


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("split", "train", "valid or test"),
        ("masked", ("test",), "masked"),
        ("masked", (), "masked"),
        ("ks", (0,), "whole numbers above 0"),
        ("metrics", ("ndgc",), "did you mean 'ndcg'"),
    ],
)
def test_a_protocol_refuses_nonsense(field: str, value: Any, said: str) -> None:
    with pytest.raises(BadOption, match=said):
        Protocol(**{field: value})


class Tableless(Fixed):
    """A backbone without a table of users: the query is its own business."""

    def propagate(self, inputs: Tensor | None = None) -> Tables:
        """Items alone."""
        return Tables(items=self.items)

    def query(self, tables: Tables, batch: Batch) -> Tensor:
        """Whoever is asked for, with no positive to look at."""
        assert (batch.positives == -1).all()
        return self.users[batch.users]


def test_a_model_without_a_table_of_users_scores_the_same() -> None:
    model = tied()
    tableless = Tableless(model.data, model.users.data, model.items.data)
    assert evaluate(tableless, Protocol()).means == evaluate(model, Protocol()).means


def test_half_precision_vectors_are_ranked_in_single_precision(form: str) -> None:
    model = tied()
    half = Fixed(model.data, model.users.data.half(), model.items.data.half())
    assert evaluate(half, Protocol()).means == evaluate(model, Protocol()).means
    assert top_k(half, torch.arange(3), 4)[1].dtype == torch.float32


@pytest.mark.parametrize(("user", "item"), [(torch.inf, 1.0), (1.0, -torch.inf), (2e38, 2e38)])
def test_no_score_that_overflows_is_ranked(user: float, item: float) -> None:
    model = tied()
    model.users.data[2], model.items.data[3] = user, item
    with pytest.raises(RunBroken, match="diverged"):
        evaluate(model, Protocol())
    with pytest.raises(RunBroken, match="diverged"):
        top_k(model, torch.arange(4), 3)


def test_means_are_over_the_users_of_the_split_and_a_frame_has_a_row_for_each() -> None:
    model = tied()
    kept = model.data.test[model.data.test[:, 0] % 2 == 1]
    model.data = replace(model.data, test=kept, user_ids=[f"u{n}" for n in range(model.data.n_users)])
    scores = evaluate(model, Protocol(ks=(3,), metrics=("recall",)))
    frame = scores.to_frame(model.data)
    assert frame["user"].to_list() == [f"u{n}" for n in sorted(set(kept[:, 0].tolist()))]
    assert frame["recall@3"].mean() == pytest.approx(scores.means["recall@3"], abs=1e-15)
