"""Samplers of items against their papers, written a second time slowly: in-batch, mixed, whole catalogue, SIR, WARP,
AHNS, windows of ranks."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foilrec import contracts, hardness, parts
from foilrec.core import Batch, Data, Negatives, Sampler, Tables
from foilrec.errors import BadData, BadOption, PartsDoNotFit
from foilrec.graphs.pagerank import nearest_by_walk
from foilrec.negatives.unseen import unseen_scores
from foilrec.numerics import kernels, streams
from foilrec.recipe import Recipe
from foilrec.trainer import Objective

Chi = Callable[[Tensor, Tensor], float]
NEW = ["inbatch", "mixed", "dns", "softmax_sir", "warp", "ahns", "rankwindow"]
EASY_AND_HARD: dict[str, Any] = {"parts": [{"name": "uniform", "count": 2}, {"name": "dns", "pool": 8}]}


def case(world: Data, rows: int = 50, epoch: int = 1) -> tuple[Tables, Batch, Tensor]:
    """Random vectors, and a batch of training rows."""
    generator = torch.Generator().manual_seed(0)
    items, users = (torch.randn(60, 8, generator=generator) for _ in range(2))
    which = torch.arange(rows)
    batch = Batch(world.train[which, 0], world.train[which, 1], which, epoch)
    return Tables(items=items, users=users), batch, users[batch.users]


def one_user(n: int, taken: int, rows: int) -> tuple[Data, Tables, Batch, Tensor]:
    """A user who took items 0 .. taken - 1 of n, whose scores rise with the id from -1 to 1; many rows of his."""
    train = torch.stack([torch.zeros(taken, dtype=torch.long), torch.arange(taken)], 1)
    data = Data(1, n, train, train[:0], train[:0])
    users = torch.zeros(rows, dtype=torch.long)
    tables = Tables(items=torch.linspace(-1, 1, n)[:, None], users=torch.ones(1, 1))
    return data, tables, Batch(users, users, torch.arange(rows)), torch.ones(rows, 1)


def options_of(name: str) -> dict[str, Any]:
    """What a sampler is built with here."""
    return EASY_AND_HARD if name == "mixed" else {}


def taken_by(data: Data) -> list[set[int]]:
    """Who took what, as Python sets."""
    found: list[set[int]] = [set() for _ in range(data.n_users)]
    for u, i in data.train.tolist():
        found[u].add(i)
    return found


# --- what all of them must hold


@pytest.mark.parametrize("name", NEW)
def test_both_forms_draw_the_same(name: str, world: Data, request: pytest.FixtureRequest) -> None:
    tables, batch, query = case(world)
    sampler = parts.build("sampler", name, world, **options_of(name))
    fast = sampler(tables, batch, query)
    request.getfixturevalue("no_numba")
    slow = sampler(tables, batch, query)
    assert torch.equal(fast.ids, slow.ids)
    for field in ("weights", "log_q", "mask"):
        one, other = getattr(fast, field), getattr(slow, field)
        assert (one is None and other is None) or torch.allclose(one.float(), other.float(), atol=1e-5)


@pytest.mark.parametrize("name", NEW)
def test_log_q_is_given_where_it_is_declared(name: str, world: Data) -> None:
    tables, batch, query = case(world)
    sampler = parts.build("sampler", name, world, **options_of(name))
    assert (sampler(tables, batch, query).log_q is None) == (sampler.log_q_is == "absent")


@pytest.mark.parametrize("name", NEW)
@pytest.mark.parametrize("left", [1, 0])
def test_one_item_left_and_none(name: str, left: int) -> None:
    data, tables, batch, query = one_user(6, 6 - left, 4)
    sampler = parts.build("sampler", name, data, **options_of(name))
    if left:
        assert (sampler(tables, batch, query).ids == 5).all()
    else:
        with pytest.raises(BadData, match="No negative exists"):
            sampler(tables, batch, query)


@pytest.mark.parametrize("name", NEW)
def test_no_held_out_pair_can_reach_a_training_sampler(name: str, world: Data) -> None:
    """A sampler is given Data and asks data.seen and data.popularity, which are of training rows alone: with other
    held-out rows it draws the same, hidden positives stay possible, and there is no option to pass other pairs."""
    tables, batch, query = case(world)
    other = replace(world, valid=world.valid.flip(0)[:3], test=world.test[:1])
    drawn = [parts.build("sampler", name, data, **options_of(name))(tables, batch, query) for data in (world, other)]
    assert torch.equal(drawn[0].ids, drawn[1].ids)
    if drawn[0].log_q is not None:
        assert torch.equal(drawn[0].log_q, drawn[1].log_q)
    takes = parts.options(parts.find("sampler", name)).values()
    assert not any(option.type in (Tensor, Data) for option in takes)


@pytest.mark.parametrize("options", [{}, {"whole": True}, {"pool": 0, "top": 9}])
def test_hidden_positives_can_be_drawn(options: dict[str, Any], world: Data) -> None:
    pairs = torch.cat([world.valid, world.test])
    tables = Tables(items=torch.eye(60), users=torch.zeros(60, 60))
    rows = torch.arange(len(world.train))
    batch = Batch(world.train[:, 0].contiguous(), world.train[:, 1].contiguous(), rows)
    query = torch.zeros(world.n_users, 60)
    query[pairs[:, 0], pairs[:, 1]] = 1.0
    ids = parts.build("sampler", "dns", world, **options)(tables, batch, query[batch.users]).ids
    assert query[batch.users].gather(1, ids).any()


def test_counts_come_from_training_alone(world: Data) -> None:
    leaky = replace(world, train=torch.cat([world.train, world.valid]))
    tables, batch, query = case(world)
    honest = parts.build("sampler", "inbatch", world)
    assert torch.equal(honest.log_count.exp().round().long(), world.popularity.clamp(min=1))
    assert not torch.equal(honest.log_count, parts.build("sampler", "inbatch", leaky).log_count)
    assert honest(tables, batch, query).ids.shape == (50, 32)


# --- in-batch


@pytest.mark.parametrize("count", [0, 7])
def test_inbatch_takes_others_and_masks_every_known_positive(count: int, world: Data) -> None:
    tables, batch, query = case(world)
    sampler, taken = parts.build("sampler", "inbatch", world, count=count), taken_by(world)
    drawn = sampler(tables, batch, query)
    assert drawn.shape == (50, count or 50)
    own_only = 0
    for b, (u, i) in enumerate(zip(batch.users.tolist(), batch.positives.tolist(), strict=True)):
        for k in range(drawn.shape[1]):
            item = int(drawn.ids[b, k])
            assert item not in taken[u]
            if count == 0:
                column = int(batch.positives[k])
                assert bool(drawn.mask[b, k]) == (column not in taken[u])
                own_only += column in taken[u] and column != i
                assert not drawn.mask[b, k] or item == column
            elif drawn.mask[b, k]:
                assert item in set(batch.positives.tolist()) - {i}
    assert count or own_only, "other known positives than the row's own stood in the batch"


def test_inbatch_law_is_the_training_popularity_of_the_unseen(chi_square: Chi) -> None:
    generator = torch.Generator().manual_seed(5)
    users, items = torch.randint(40, (160,), generator=generator), torch.randint(12, (160,), generator=generator) ** 2
    train = torch.stack([users, items // 12], 1)
    data = Data(40, 12, train, train[:0], train[:0])
    sampler = parts.build("sampler", "inbatch", data, count=4)
    tables = Tables(items=torch.zeros(12, 1))
    user = int(train[0, 0])
    counts, log_q = torch.zeros(12), torch.zeros(12)
    for epoch in range(400):
        for batch in data.batches(16, 0, epoch):
            drawn = sampler(tables, batch, torch.zeros(len(batch), 1))
            mine = (batch.users == user)[:, None] & drawn.mask
            counts += torch.bincount(drawn.ids[mine], minlength=12)
            log_q[drawn.ids[mine]] = drawn.log_q[mine]
    law = data.popularity.double()
    law[data.seen.of(user)] = 0
    law /= law.sum()
    assert torch.allclose(log_q[law > 0].exp().double(), law[law > 0], atol=1e-6)
    assert chi_square(counts, law * counts.sum()) > 1e-4


def test_inbatch_alone_has_nothing_and_says_so(world: Data) -> None:
    tables, batch, query = case(world, rows=1)
    drawn = parts.build("sampler", "inbatch", world)(tables, batch, query)
    assert not drawn.mask.any()
    assert (drawn.log_q == 0).all()
    assert torch.isfinite(parts.build("loss", "bpr")(query[:, 0], drawn.log_q, drawn))


# --- mixed


class Learner(Sampler):
    """Has a weight, and notes what it is told."""

    def __init__(self, data: Data) -> None:
        super().__init__(data)
        self.weight = nn.Parameter(torch.tensor(2.0))
        self.heard: list[tuple[Negatives, Tensor]] = []
        self.epoch = -1

    def begin_epoch(self, epoch: int, model: object, tables: Tables) -> None:
        """Notes the epoch."""
        self.epoch = epoch

    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        """Points that are no items."""
        return Negatives(vectors=self.weight * query[:, None], log_q=torch.full((len(batch), 1), -1.0))

    def own_loss(self, tables: Tables, batch: Batch, query: Tensor) -> Tensor:
        """Wants a small weight."""
        return self.weight.square()

    def feedback(self, batch: Batch, negatives: Negatives, scores: Tensor) -> None:
        """Notes it."""
        self.heard.append((negatives, scores))


def test_mixed_is_its_parts_side_by_side_each_with_its_share_and_seed(world: Data) -> None:
    tables, batch, query = case(world)
    sampler = parts.build("sampler", "mixed", world, **EASY_AND_HARD, shares=[1, 3])
    sampler.seed = 11
    drawn = sampler(tables, batch, query)
    alone = [parts.build("sampler", table["name"], world, **{k: v for k, v in table.items() if k != "name"})
             for table in EASY_AND_HARD["parts"]]  # fmt: skip
    for place, part in enumerate(alone):
        part.seed = streams.key(11, "mixed", place)
    assert torch.equal(drawn.ids, torch.cat([part(tables, batch, query).ids for part in alone], 1))
    assert drawn.group == (0, 0, 1)
    assert drawn.log_q is None, "dns knows none"
    gaps = torch.rand(50, 3)
    mean = (gaps * drawn.weights).mean(1)
    assert torch.allclose(mean, 0.25 * gaps[:, :2].mean(1) + 0.75 * gaps[:, 2])
    masked = parts.build(
        "sampler", "mixed", world, parts=[{"name": "inbatch", "count": 6}, {"name": "uniform"}], shares=[1, 3]
    )
    drawn = masked(tables, batch, query)
    assert (~drawn.mask).any()
    left = drawn.mask.sum(1)
    for group, share in ((slice(0, 6), 0.25), (slice(6, 7), 0.75)):
        total = (drawn.weights * drawn.mask)[:, group].sum(1) / left
        assert torch.allclose(total[drawn.mask[:, group].any(1)], torch.tensor(share)), "of those that are left"
    twins = parts.build("sampler", "mixed", world, parts=[{"name": "uniform"}, {"name": "uniform"}])
    both = twins(tables, batch, query)
    assert not torch.equal(both.ids[:, 0], both.ids[:, 1])
    assert both.log_q is not None
    assert both.weights is None
    assert twins.log_q_is == "exact"
    assert parts.build("sampler", "mixed", world, parts=[{"name": "inbatch"}, {"name": "uniform"}]).shares_batch


def test_mixed_passes_on_epochs_losses_feedback_parameters_and_vectors(world: Data) -> None:
    learner, uniform = Learner(world), parts.build("sampler", "uniform", world, count=2)
    sampler = parts.build("sampler", "mixed", world, parts=[uniform, learner], shares=(0.5, 0.5))
    model = parts.build("backbone", "bprmf", world)
    sampler.begin_epoch(3, model, model.propagate())
    assert learner.epoch == 3
    objective = Objective(model, sampler, parts.build("loss", "bpr")).train()
    _, batch, _ = case(world)
    objective(batch).backward()
    assert learner.weight.grad is not None
    assert learner.weight.grad.abs() > 0
    untouched = set(range(60)) - set(batch.positives.tolist())
    assert model.items.weight.grad[sorted(untouched)].abs().sum() > 0, "drawn items learn though they became vectors"
    (negatives, scores), *_ = learner.heard
    assert negatives.vectors is not None
    assert scores.shape == (50, 1)
    again = parts.build("sampler", "mixed", world, parts=[uniform, Learner(world)])
    with torch.no_grad():
        learner.weight.fill_(7.0)
    again.load_state_dict(sampler.state_dict())
    assert float(again.parts[1].weight.detach()) == 7


def test_the_meter_tells_the_parts_of_mixed_apart_and_leaves_their_seeds(world: Data) -> None:
    sampler = parts.build("sampler", "mixed", world, **EASY_AND_HARD)
    sampler.seed, model = 5, parts.build("backbone", "bprmf", world)
    before = [part.seed for part in sampler.modules() if isinstance(part, Sampler)]
    readings = hardness.Meter(world, 64)(model, sampler, parts.build("loss", "bpr"))
    assert readings["group 1"].percentile > readings["group 0"].percentile
    assert [part.seed for part in sampler.modules() if isinstance(part, Sampler)] == before


def test_a_recipe_with_a_list_of_parts_is_written_and_read_again(world: Data, tmp_path: Path) -> None:
    recipe = Recipe.from_tree({"name": "both", "sampler": {"name": "mixed", **EASY_AND_HARD, "shares": [0.2, 0.8]}})
    path = tmp_path / "both.toml"
    path.write_text(recipe.to_toml())
    again = Recipe.load(path)
    assert again.tree() == recipe.tree()
    assert again.digest == recipe.digest
    _, sampler, _ = again.build(world)
    assert [type(part).__name__ for part in sampler.parts] == ["Uniform", "DNS"]
    assert sampler.parts[1].pool == 8
    assert recipe.tree()["sampler"]["parts"] == EASY_AND_HARD["parts"], "building leaves the recipe as it is"


def test_a_recipe_says_what_is_wrong_with_a_list_of_parts(world: Data) -> None:
    with pytest.raises(BadOption, match="has no option 'pol'"):
        parts.build("sampler", "mixed", world, parts=[{"name": "dns", "pol": 3}])
    with pytest.raises(BadOption, match="a part without its name"):
        parts.build("sampler", "mixed", world, parts=[{"pool": 3}])
    with pytest.raises(BadOption, match="cannot be"):
        parts.build("sampler", "mixed", world, parts={"name": "dns"})
    for wrong in ({"parts": []}, {**EASY_AND_HARD, "shares": [1.0]}, {**EASY_AND_HARD, "shares": [1.0, 0.0]}):
        with pytest.raises(BadOption, match="mixed"):
            parts.build("sampler", "mixed", world, **wrong)


# --- dns over the whole catalogue


@pytest.mark.usefixtures("both_forms")
def test_dns_of_everything_is_the_head_of_a_sorted_list(world: Data) -> None:
    tables, batch, query = case(world)
    taken = taken_by(world)
    ids = parts.build("sampler", "dns", world, pool=0, top=5)(tables, batch, query).ids
    for b, u in enumerate(batch.users.tolist()):
        scores = (query[b] @ tables.items.T).tolist()
        free = sorted(set(range(60)) - taken[u], key=lambda i: (-scores[i], i))
        assert ids[b].tolist() == free[:5]


def test_dns_of_everything_with_few_left_masks_what_is_missing() -> None:
    data, tables, batch, query = one_user(6, 4, 3)
    drawn = parts.build("sampler", "dns", data, pool=0, top=3)(tables, batch, query)
    assert drawn.ids[:, :2].tolist() == [[5, 4]] * 3
    assert drawn.mask.tolist() == [[True, True, False]] * 3
    some = parts.build("sampler", "dns", data, pool=0, top=5, count=1)(tables, batch, query)
    assert ((some.ids == 4) | (some.ids == 5)).all()
    assert torch.allclose(some.log_q.exp(), torch.tensor(0.5))
    assert some.mask is None


@pytest.mark.usefixtures("both_forms")
def test_dns_by_the_whole_catalogue_chooses_the_same_and_knows_its_law(chi_square: Chi) -> None:
    data, tables, batch, query = one_user(20, 4, 30_000)
    plain, whole = (parts.build("sampler", "dns", data, pool=5, whole=on) for on in (False, True))
    drawn = whole(tables, batch, query)
    assert torch.equal(drawn.ids, plain(tables, batch, query).ids)
    assert (plain.log_q_is, whole.log_q_is) == ("absent", "exact")
    rank = torch.arange(17, dtype=torch.float64)  # at most rank r with probability 1 - (1 - r / N)^M
    law = (1 - (1 - rank / 16) ** 5).diff().flip(0)  # items 4 .. 19, the last the best
    told = torch.zeros(20, dtype=torch.float64)
    told[drawn.ids[:, 0]] = drawn.log_q[:, 0].double().exp()
    seen = torch.bincount(drawn.ids[:, 0], minlength=20)[4:]
    assert torch.allclose(told[4:][seen > 0], law[seen > 0], rtol=1e-5)
    enough = law * 30_000 >= 5
    assert chi_square(torch.cat([seen[enough], seen[~enough].sum()[None]]),
                      torch.cat([law[enough], law[~enough].sum()[None]]) * 30_000) > 1e-4  # fmt: skip


# --- softmax by importance resampling


@pytest.mark.usefixtures("both_forms")
def test_sir_resamples_by_the_softmax_of_its_candidates(world: Data) -> None:
    tables, batch, query = case(world)
    sampler = parts.build("sampler", "softmax_sir", world, pool=6, temperature=0.7, count=3)
    drawn, candidates = sampler(tables, batch, query), sampler.unseen(batch, 6).tolist()
    words = kernels.words(batch.rows, sampler.key(batch, "resample"), 3).tolist()
    for b, row in enumerate(candidates):
        odds = [math.exp(float(query[b] @ tables.items[i]) / 0.7) for i in row]
        free = 60 - len(world.seen.of(int(batch.users[b])))
        for k in range(3):
            at, left = 0, (words[b][k] % 2**64) / 2**64 * sum(odds)
            while left > odds[at]:
                left, at = left - odds[at], at + 1
            assert int(drawn.ids[b, k]) == row[at]
            told = min(0.0, math.log(odds[at] / sum(odds) * 6 / free))
            assert float(drawn.log_q[b, k]) == pytest.approx(told, abs=1e-4)


def test_sir_comes_near_the_softmax_and_its_log_q_too(chi_square: Chi) -> None:
    data, tables, batch, query = one_user(12, 3, 4_000)
    drawn = parts.build("sampler", "softmax_sir", data, pool=2_000, temperature=0.5)(tables, batch, query)
    law = (torch.linspace(-1, 1, 12).double() / 0.5)[3:].softmax(0)
    assert chi_square(torch.bincount(drawn.ids[:, 0], minlength=12)[3:], law * 4_000) > 1e-4
    assert torch.allclose(drawn.log_q[:, 0].double(), law.log()[drawn.ids[:, 0] - 3], atol=0.25)
    uniform = parts.build("sampler", "softmax_sir", data, pool=1)(tables, batch, query)
    assert chi_square(torch.bincount(uniform.ids[:, 0], minlength=12)[3:], torch.full((9,), 4_000 / 9)) > 1e-4


def test_sir_weights_are_unbiased_for_sums_over_the_unseen() -> None:
    data, tables, batch, query = one_user(200, 20, 40_000)
    drawn = parts.build("sampler", "softmax_sir", data, pool=5, temperature=0.5)(tables, batch, query)
    values = torch.arange(200.0) % 7
    estimate = values[drawn.ids] * (-drawn.log_q).exp()
    standard_error = float(estimate.std()) / 200
    assert abs(float(estimate.mean()) - float(values[20:].sum())) < 4 * standard_error


# --- WARP


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize("phi", ["harmonic", "log"])
def test_warp_by_a_loop_of_tries(phi: str, world: Data) -> None:
    tables, batch, query = case(world, rows=200)
    query = query * 0.3
    sampler = parts.build("sampler", "warp", world, tries=4, margin=0.5, phi=phi)
    drawn, candidates = sampler(tables, batch, query), sampler.unseen(batch, 4).tolist()
    missing = 0
    for b, row in enumerate(candidates):
        own = float(query[b] @ tables.items[batch.positives[b]])
        tries = next((t for t, i in enumerate(row, 1) if float(query[b] @ tables.items[i]) > own - 0.5), None)
        assert bool(drawn.mask[b, 0]) == (tries is not None)
        if tries is None:
            missing += 1
            continue
        assert int(drawn.ids[b, 0]) == row[tries - 1]
        rank = max(1, (60 - len(world.seen.of(int(batch.users[b])))) // tries)
        expected = math.log(rank) if phi == "log" else sum(1 / k for k in range(1, rank + 1))
        assert float(drawn.weights[b, 0]) == pytest.approx(expected, rel=1e-5)
    assert 0 < missing < 200


def test_warp_estimates_ranks() -> None:
    """With r violators among N unseen items the first comes after N / r tries on average: so t N tells r."""
    data, tables, batch, _ = one_user(100, 1, 20_000)
    batch.positives = torch.zeros_like(batch.positives) + 80  # 19 items above it, margin 0
    query = torch.ones(20_000, 1)
    sampler = parts.build("sampler", "warp", data, tries=400, margin=0.0)
    drawn = sampler(tables, batch, query)
    assert drawn.mask.all()
    first = (sampler.unseen(batch, 400) == drawn.ids).int().argmax(1) + 1
    assert float(first.double().mean()) == pytest.approx(99 / 19, rel=0.03)
    assert (drawn.ids > 80).all()


# --- AHNS


@pytest.mark.usefixtures("both_forms")
def test_ahns_by_a_loop(world: Data) -> None:
    tables, batch, query = case(world)
    sampler = parts.build("sampler", "ahns", world, pool=9, alpha=0.5, beta=0.3, p=-3.0)
    drawn, candidates = sampler(tables, batch, query), sampler.unseen(batch, 9).tolist()
    for b, row in enumerate(candidates):
        own = float(query[b] @ tables.items[batch.positives[b]])
        wanted = 0.3 * max(own + 0.5, 0.001) ** -2
        distance = [abs(float(query[b] @ tables.items[i]) - wanted) for i in row]
        chosen = row.index(int(drawn.ids[b, 0]))
        assert distance[chosen] == pytest.approx(min(distance), abs=1e-3 * max(1, wanted * 1e-3))


def test_ahns_is_easier_for_positives_that_stand_higher() -> None:
    data, tables, batch, query = one_user(1000, 1, 2_000)
    sampler, means = parts.build("sampler", "ahns", data, alpha=1.0, beta=0.4), []
    for positive in (0, 400, 600, 999):  # scores -1 (the pole), -.2, .2, 1
        batch.positives = torch.full_like(batch.positives, positive)
        means.append(float(tables.items[sampler(tables, batch, query).ids].mean()))
    assert means == sorted(means, reverse=True)
    assert means[-1] == pytest.approx(0.4 / 2, abs=0.05)
    hardest = parts.build("sampler", "dns", data, pool=32)(tables, batch, query).ids
    batch.positives = torch.zeros_like(batch.positives)
    assert torch.equal(sampler(tables, batch, query).ids, hardest), "below the pole it is dns"
    level = parts.build("sampler", "ahns", data, p=-1.0, beta=0.4)
    assert (level.wanted(torch.tensor([-3.0, 0.0, 9.0])) == 0.4).all()


# --- windows of ranks


def ranked(world: Data, scores: Tensor, users: Tensor) -> list[list[int]]:
    """Each row's unseen items, best first, by sorting."""
    taken = taken_by(world)
    return [
        sorted(set(range(60)) - taken[u], key=lambda i, row=row: (-row[i], i))  # type: ignore[misc]
        for u, row in zip(users.tolist(), scores.tolist(), strict=True)
    ]


@pytest.mark.usefixtures("both_forms")
@pytest.mark.parametrize("refresh", ["epoch", "batch"])
@pytest.mark.parametrize("by", ["user", "positive"])
def test_a_window_holds_exactly_its_ranks(by: str, refresh: str, world: Data, chi_square: Chi) -> None:
    tables, batch, query = case(world)
    unit = torch.nn.functional.normalize(tables.items)
    scores = query @ tables.items.T if by == "user" else unit[batch.positives] @ unit.T
    sampler = parts.build("sampler", "rankwindow", world, first=3, last=9, by=by, refresh=refresh, count=400)
    sampler.begin_epoch(0, parts.build("backbone", "bprmf", world), tables)
    drawn = sampler(tables, batch, query)
    places = torch.zeros(7)
    for row, ids in zip(ranked(world, scores, batch.users), drawn.ids.tolist(), strict=True):
        assert set(ids) == set(row[2:9])
        places += torch.tensor([ids.count(i) for i in row[2:9]])
    assert chi_square(places, places.sum().expand(7) / 7) > 1e-4
    assert torch.allclose(drawn.log_q.exp(), torch.tensor(1 / 7))


@pytest.mark.usefixtures("both_forms")
def test_pagerank_windows_follow_a_dense_walk(world: Data) -> None:
    taken = torch.zeros(60, 60, dtype=torch.float64)
    taken[world.train[:, 0], world.train[:, 1]] = 1
    step = (taken / taken.sum(1, keepdim=True)).T.nan_to_num() @ (taken / taken.sum(0)).nan_to_num()
    here, visits = torch.eye(60, dtype=torch.float64), torch.zeros(60, 60, dtype=torch.float64)
    for _ in range(4):
        here = 0.8 * step @ here
        visits += here  # column i: from item i
    tables, batch, query = case(world)
    sampler = parts.build(
        "sampler", "rankwindow", world, first=2, last=6, by="pagerank", restart=0.2, steps=4, count=200
    )
    drawn = sampler(tables, batch, query).ids.tolist()
    for row, ids, i in zip(ranked(world, visits.T[batch.positives], batch.users), drawn, batch.positives, strict=True):
        reached = visits.T[i]
        assert set(ids) <= {j for j in range(60) if reached[j] > 0}
        low, high = float(reached[row[5]]), float(reached[row[1]])  # by value: float32 may swap what nearly ties
        assert all(low * 0.9999 <= float(reached[j]) <= high * 1.0001 for j in ids)
    narrow = nearest_by_walk(*world.train.unique(dim=0).T, (60, 60), 60, restart=0.2, steps=4, block=1)
    wide = nearest_by_walk(*world.train.unique(dim=0).T, (60, 60), 60, restart=0.2, steps=4)
    assert torch.equal(narrow, wide), "whatever the block"
    assert not (narrow == torch.arange(60)[:, None]).any()


def test_a_window_passes_over_what_was_taken_and_ends_with_what_is_left() -> None:
    train = torch.stack([torch.zeros(9, dtype=torch.long), torch.arange(9)], 1)  # of 12 items 9, 10 and 11 are left
    data = Data(1, 12, train, train[:0], train[:0])
    tables = Tables(items=torch.stack([torch.ones(12), torch.arange(12.0)], 1), users=torch.ones(1, 2))
    batch = Batch(train[:, 0], train[:, 1], torch.arange(9))
    for by in ("user", "positive"):
        sampler = parts.build("sampler", "rankwindow", data, first=2, last=50, by=by, count=64)
        sampler.begin_epoch(0, parts.build("backbone", "bprmf", data), tables)
        drawn = sampler(tables, batch, tables.users[batch.users])
        assert (drawn.ids >= 9).all()
        assert torch.allclose(drawn.log_q.exp(), torch.tensor(0.5)), "ranks 2 and 3 of the three"
    short = parts.build("sampler", "rankwindow", data, first=1, last=1, by="positive", spare=0, count=600)
    short.begin_epoch(0, parts.build("backbone", "bprmf", data), tables)
    drawn = short(tables, batch, tables.users[batch.users])
    first = drawn.ids[0]  # the only item in its list was taken: evenly from the rest
    assert set(first.tolist()) == {9, 10, 11}
    assert torch.allclose(drawn.log_q[0].exp(), torch.tensor(1 / 3))


def test_windows_without_users_want_another_way(world: Data) -> None:
    tables, _, _ = case(world)
    with pytest.raises(PartsDoNotFit, match="refresh"):
        parts.build("sampler", "rankwindow", world).begin_epoch(
            0, parts.build("backbone", "bprmf", world), Tables(items=tables.items)
        )


@pytest.mark.parametrize("block", [1, 100, 10**9])
def test_scores_of_the_whole_catalogue_come_in_blocks(block: int, world: Data) -> None:
    tables, batch, query = case(world)
    found = torch.zeros(50, 60)
    for rows, scores in unseen_scores(query, tables.items, batch.users, (world.seen.starts, world.seen.items), block):
        assert scores.numel() <= max(block, 60)
        found[rows] = scores
    expected = query @ tables.items.T
    world.seen.hide(expected, batch.users)
    assert torch.allclose(found, expected, atol=1e-5)


# --- options


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("inbatch", {"count": -1}),
        ("dns", {"pool": -1}),
        ("dns", {"pool": 0, "top": 61}),
        ("softmax_sir", {"temperature": 0.0}),
        ("softmax_sir", {"pool": 0}),
        ("warp", {"tries": 0}),
        ("ahns", {"p": 0.0}),
        ("ahns", {"floor": 0.0}),
        ("rankwindow", {"first": 5, "last": 4}),
        ("rankwindow", {"by": "pagerank", "refresh": "batch"}),
    ],
)
def test_numbers_out_of_range_are_refused(name: str, options: dict[str, Any], world: Data) -> None:
    with pytest.raises(BadOption, match=name):
        parts.build("sampler", name, world, **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dns", {"pool": 0, "top": 8, "count": 2}),
        ("dns", {"whole": True}),
        ("warp", {"phi": "log"}),
        ("rankwindow", {"by": "positive"}),
        ("rankwindow", {"by": "pagerank"}),
        ("rankwindow", {"refresh": "batch"}),
        ("inbatch", {"count": 3}),
    ],
)
def test_the_contract_holds_with_other_options(name: str, options: dict[str, Any]) -> None:
    contracts.check_sampler(parts.find("sampler", name), **options)
