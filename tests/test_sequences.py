"""Histories: what came before a row, steps of whole sequences, and everyone who makes batches handing them on."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from foilrec import contracts, parts
from foilrec.auditing.audit import cost
from foilrec.core import Backbone, Batch, Data, Tables
from foilrec.errors import BadOption, PartsDoNotFit
from foilrec.evaluation import Protocol, evaluate, top_k
from foilrec.hardness import Meter
from foilrec.mining import quarry
from foilrec.numerics import streams
from foilrec.recipe import Recipe
from foilrec.run import Run
from foilrec.sequences import Blocks, Histories, Past
from foilrec.stretch import train
from foilrec.trainer import Epoch, Objective, Settings, Trainer
from reference.chains import ring

SEQUENCES = {"sasrec": {"dim": 8, "max_len": 6}, "gru4rec": {"dim": 8, "hidden": 8, "max_len": 6}}


@pytest.fixture(scope="module", name="chain")
def _chain() -> Data:
    return ring(60)


def by_hand(data: Data, length: int) -> dict[int, list[int]]:
    """The history of every training row: stretches of length + 1 from the end, which share one item."""
    found: dict[int, list[int]] = {}
    for user in range(data.n_users):
        rows = (data.train[:, 0] == user).nonzero()[:, 0].tolist()
        items = [int(data.train[row, 1]) for row in rows]
        end = len(rows) - 1
        while end > 0:
            begin = max(0, end - length)
            found |= {rows[at]: items[begin:at] for at in range(begin + 1, end + 1)}
            end = begin
        found |= {row: [] for row in rows[:1]}
    return found


def told(past: Past) -> list[list[int]]:
    """The history of each row of a batch, read off its three tensors."""
    return [past.items[s, :p].tolist() for s, p in zip(past.sequence.tolist(), past.place.tolist(), strict=True)]


@pytest.mark.parametrize("length", [1, 2, 3, 50])
def test_a_row_knows_what_its_stretch_holds_before_it(chain: Data, length: int) -> None:
    mixed_up = replace(chain, train=chain.train[torch.argsort(torch.arange(len(chain.train)) % 7, stable=True)])
    for data in (chain, mixed_up):  # rows of a user need not stand together
        slow, seen = by_hand(data, length), []
        for batch in data.batches(40, 3, 1, length):
            assert batch.rows is not None
            assert told(batch.past) == [slow[row] for row in batch.rows.tolist()]
            assert ((batch.past.items >= 0).sum(1) <= length).all() and batch.past.items.shape[1] <= length
            assert torch.equal(torch.stack([batch.users, batch.positives], 1), data.train[batch.rows])
            seen += batch.rows.tolist()
        assert sorted(seen) == sorted(row for row, before in slow.items() if before) == data.trained(length).tolist()
        some = torch.tensor([5, 2, 5, 40, 0])
        assert told(data.batch(some, history=length).past) == [slow[row] for row in some.tolist()]


def test_steps_hold_whole_sequences_in_an_order_of_seed_and_epoch(chain: Data) -> None:
    steps = chain.steps(40, 3, 1, 50)
    users = [set(chain.train[rows, 0].tolist()) for rows in steps]
    assert sum(map(len, users)) == len(set.union(*users)), "no user stands in two steps"
    longest = int(torch.bincount(chain.train[:, 0]).max())
    assert all(40 - longest < len(rows) < 40 + longest for rows in steps[:-1])
    again, later, other = (chain.steps(40, *each, 50) for each in ((3, 1), (3, 2), (4, 1)))
    assert torch.equal(torch.cat(steps), torch.cat(again))
    assert not torch.equal(torch.cat(steps), torch.cat(later)) and not torch.equal(torch.cat(steps), torch.cat(other))
    assert all(len(rows) for rows in chain.steps(1, 0, 0, 50)), "a stretch longer than a step leaves none empty"


@pytest.mark.parametrize("known", [("train",), ("train", "valid"), ("train", "valid", "test")])
def test_a_question_knows_the_last_items_of_the_phases(chain: Data, known: tuple[str, ...]) -> None:
    users = torch.tensor([3, 0, 59])
    for length in (2, 50):
        everything = torch.cat([getattr(chain, phase) for phase in known])
        slow = [everything[everything[:, 0] == user, 1].tolist()[-length:] for user in users.tolist()]
        assert told(chain.ask(users, length, known).past) == slow


def test_a_user_of_whom_nothing_is_known_has_an_empty_history() -> None:
    train = torch.tensor([[0, 1], [2, 0], [2, 3]])
    data = Data(4, 4, train, train[:0], train[:0], timed=True)
    assert told(data.ask(torch.tensor([1, 3, 2]), 5).past) == [[], [], [0, 3]]
    assert told(data.ask(torch.tensor([1]), 5).past) == [[]]
    assert Histories(train[:0], 3).after(torch.tensor([0, 1]), 5).items.shape == (2, 0)


def test_reading_gives_each_row_what_a_causal_encoder_says_at_its_place() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(0, 40, (30,), generator=generator)
    items = torch.randint(1, 9, (30, 40), generator=generator)
    items[torch.arange(40) >= lengths[:, None]] = -1
    sequence = torch.randint(0, 30, (100,), generator=generator)
    place = (torch.rand(100, generator=generator) * (lengths[sequence] + 1)).long()
    table = torch.randn(9, 3, generator=generator, dtype=torch.float64)

    def summed(rows: Tensor) -> Tensor:
        return rows.cumsum(1) ** 2

    found = Past(items, sequence, place).read(lambda ids: table[ids], lambda rows, blocks: blocks.each(summed, rows))
    for row, (s, p) in enumerate(zip(sequence.tolist(), place.tolist(), strict=True)):
        slow = table[items[s, :p]].sum(0) ** 2 if p else torch.zeros(3)
        assert torch.allclose(found[row], slow.double(), atol=1e-9)
    nothing = Past(items[:, :0], sequence, torch.zeros_like(place)).read(lambda ids: table[ids], lambda rows, _: rows)
    assert torch.equal(nothing, torch.zeros(100, 3, dtype=torch.float64))


def test_a_recurrent_layer_goes_through_blocks_as_through_each_sequence_alone() -> None:
    torch.manual_seed(0)
    layer, blocks = torch.nn.GRU(3, 4, batch_first=True), Blocks(((1, 9), (4, 5), (6, 2)))
    rows = torch.randn(9 + 20 + 12, 3)
    alone = torch.cat([layer(part[None])[0][0] for part in rows.split([9, *[5] * 4, *[2] * 6])])
    found = blocks.through(layer, rows)
    assert torch.allclose(found, alone, atol=1e-6) and not torch.allclose(found, alone.flip(0), atol=1e-3)


def test_data_without_an_order_says_what_to_do(world: Data) -> None:
    for name, options in SEQUENCES.items():
        with pytest.raises(PartsDoNotFit, match=r"split 'random'\).*leave-one-out.*reader sequences\.$"):
            parts.build("backbone", name, world, **options)


def test_a_batch_without_a_history_says_what_to_do(chain: Data) -> None:
    model = parts.build("backbone", "sasrec", chain, dim=8)
    with pytest.raises(BadOption, match="tells no history"):
        model.query(model.propagate(), chain.batch(torch.arange(3)))
    with pytest.raises(PartsDoNotFit, match="no table of users"):
        model.propagate().user_rows(torch.arange(3))


class Listening(Backbone):
    """Scores items by how often they stand in the history, and notes what it was told."""

    history = 4

    def __init__(self, data: Data) -> None:
        super().__init__(data)
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.heard: list[tuple[list[int], list[list[int]]]] = []

    def propagate(self, inputs: Tensor | None = None) -> Tables:
        """One place an item."""
        return Tables(items=torch.eye(self.data.n_items) * self.weight)

    def query(self, tables: Tables, batch: Batch) -> Tensor:
        """How often each item was taken."""
        self.heard.append((batch.users.tolist(), told(batch.past)))
        query = torch.zeros(len(batch), self.data.n_items)
        for row, items in enumerate(told(batch.past)):
            query[row, items] = 1.0
        return query


def last_of(data: Data, *phases: str) -> dict[int, list[int]]:
    """The last four items of each user in some phases."""
    rows = torch.cat([getattr(data, phase) for phase in phases]).tolist()
    return {user: [i for u, i in rows if u == user][-4:] for user in range(data.n_users)}


@pytest.mark.parametrize("masked", [("train",), ("train", "valid")])
def test_evaluation_tells_what_came_before_the_split_whatever_is_masked(chain: Data, masked: tuple[str, ...]) -> None:
    for split, known in (("valid", ("train",)), ("test", ("train", "valid"))):
        model = Listening(chain)
        evaluate(model, Protocol(split=split, masked=masked), block=1)
        heard = {user: items for users, histories in model.heard for user, items in zip(users, histories, strict=True)}
        slow = last_of(chain, *known)
        assert heard == {user: slow[user] for user in getattr(chain, split)[:, 0].tolist()}


def test_top_k_tells_the_phases_it_is_given(chain: Data) -> None:
    model, users = Listening(chain), torch.arange(5)
    for known in (("train",), ("train", "valid", "test")):
        ids, values = top_k(model, users, 4, known=known)
        slow = last_of(chain, *known)
        assert [sorted(row[v > 0].tolist()) for row, v in zip(ids, values, strict=True)] == [
            sorted(slow[user]) for user in range(5)
        ]


def test_the_meter_asks_about_rows_with_a_past_and_tells_it(chain: Data) -> None:
    model, slow = Listening(chain), by_hand(chain, 4)
    meter = Meter(chain, 10**6, history=model.history)
    assert torch.equal(meter.rows, chain.trained(4)) and len(meter.rows) == len(chain.train) - chain.n_users
    meter(model, parts.build("sampler", "uniform", chain), parts.build("loss", "bpr"))
    assert [h for _, histories in model.heard for h in histories] == [slow[row] for row in meter.rows.tolist()]
    assert torch.equal(Meter(chain, 50).rows, Meter(chain, 50, history=0).rows)


@pytest.mark.parametrize("name", SEQUENCES)
def test_training_counts_the_rows_and_steps_it_makes(chain: Data, name: str) -> None:
    model: Backbone = parts.build("backbone", name, chain, **SEQUENCES[name], dropout=0.0)
    objective = Objective(model, parts.build("sampler", "uniform", chain), parts.build("loss", "bce"))
    still = torch.optim.SGD(objective.parameters(), lr=0.0)
    seen: list[tuple[int, int]] = []
    settings = Settings(batch=32, epochs=1, meter=0, select="recall@5")
    protocol = Protocol("valid", ks=(5,), metrics=("recall",))
    trainer = Trainer(objective, still, settings, protocol, seed=5, on_step=lambda *at: seen.append(at))
    (epoch,) = trainer.epochs()
    steps = len(chain.steps(32, 5, 0, model.history))
    assert seen == [(n + 1, steps) for n in range(steps)]
    whole = objective.eval()(chain.batch(chain.trained(model.history), seed=5, history=model.history))
    assert abs(epoch.loss - float(whole.detach())) < 1e-6


def test_cached_keeps_the_draws_of_the_rows_that_are_trained_on(chain: Data) -> None:
    model: Backbone = parts.build("backbone", "sasrec", chain, dim=8).eval()
    inner, sampler = (parts.build("sampler", "dns", chain, pool=8) for _ in range(2))
    cached = parts.build("sampler", "cached", chain, inner=inner)
    tables, rows = model.propagate(), chain.trained(50)
    cached.begin_epoch(0, model, tables)
    batch = chain.batch(rows, history=50)
    query = model.query(tables, batch)
    assert torch.equal(cached(tables, batch, query).ids, sampler(tables, batch, query).ids)


def test_the_cost_of_drawing_is_told_with_histories(chain: Data) -> None:
    model: Backbone = parts.build("backbone", "gru4rec", chain, dim=8)
    objective = Objective(model, parts.build("sampler", "dns", chain), parts.build("loss", "bpr"))
    assert cost(objective, chain) > 0


def recipe(backbone: dict[str, object], sampler: dict[str, object]) -> Recipe:
    """A sequential model on the shop."""
    return Recipe.from_tree(
        {
            "name": "in order",
            "threads": 1,
            "data": {"name": "shop", "users": 60, "items": 60, "split": "leave-one-out"},
            "backbone": backbone,
            "sampler": sampler,
            "loss": {"name": "bce"},
            "optimizer": {"name": "adam", "lr": 0.01},
            "train": {"batch": 64, "epochs": 4, "patience": 0, "meter": 30},
            "evaluate": {"ks": [20], "metrics": ["recall"]},
        }
    )


@pytest.fixture(scope="module", name="finished")
def _finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    chosen = recipe({"name": "sasrec", "dim": 8}, {"name": "uniform"})
    return train(chosen, tmp_path_factory.mktemp("run") / "one", data=contracts.small_world())


def test_a_run_recommends_after_everything_known_and_nothing_of_it(finished: Run) -> None:
    data, model = finished.data, finished.model
    taken = data.seen_in("train", "valid", "test")
    found = finished.recommend(top=5)
    assert found.height == 5 * data.n_users
    query = model.query(model.propagate(), data.ask(torch.tensor([7]), model.history, ("train", "valid", "test")))
    scores = (query @ model.propagate().items.T)[0]
    taken.hide(scores[None], torch.tensor([7]))
    mine = found.filter(found["user"] == data.raw_users([7])[0])
    assert mine["item"].to_list() == data.raw_items(scores.topk(5).indices.tolist())


def test_a_run_is_measured_mined_and_evaluated_anew(finished: Run) -> None:
    assert finished.evaluate("valid", lists=False).means == finished.epochs()[finished.scores["best_epoch"]]["valid"]
    assert finished.evaluate().means == finished.scores["test"]
    assert finished.hardness(50)["all"].draws == 50
    rich = quarry.of_run(finished.folder)
    asked = finished.data.ask(torch.arange(60), finished.model.history)
    assert torch.allclose(rich.queries, finished.model.query(finished.model.propagate(), asked), atol=1e-6)


@pytest.mark.parametrize(
    ("backbone", "sampler"),
    [
        ({"name": "sasrec", "dim": 8, "heads": 2}, {"name": "genni", "subset": 20}),
        (
            {"name": "sasrec", "dim": 8, "max_len": 4},
            {"name": "ufnrec", "count": 6, "memory": 4, "start": 0, "patience": 1},
        ),
        ({"name": "gru4rec", "dim": 8, "hidden": 8, "layers": 2}, {"name": "cached", "every": 2}),
    ],
    ids=["sasrec genni", "sasrec ufnrec", "gru4rec cached"],
)
def test_an_interrupted_run_goes_on_bit_for_bit(
    backbone: dict[str, object], sampler: dict[str, object], tmp_path: Path
) -> None:
    def halt(told: Epoch) -> None:
        if told.number == 1:
            raise KeyboardInterrupt

    chosen, data = recipe(backbone, sampler), contracts.small_world()
    with pytest.raises(KeyboardInterrupt):
        train(chosen, tmp_path / "halted", data=data, on_epoch=halt)
    resumed = train(chosen, tmp_path / "halted", data=data, resume=True)
    straight = train(chosen, tmp_path / "straight", data=data)
    for what in ("loss", "hardness", "valid"):
        assert [line[what] for line in resumed.epochs()] == [line[what] for line in straight.epochs()]
    assert resumed.scores["test"] == straight.scores["test"]


def test_batches_without_histories_are_what_they_were(world: Data) -> None:
    order = torch.randperm(len(world.train), generator=streams.generator(4, "batches", 2))
    whole = list(world.batches(100, 4, 2))
    rows = torch.cat([torch.as_tensor(batch.rows) for batch in whole])
    assert torch.equal(rows, order)
    assert torch.equal(torch.cat([batch.positives for batch in whole]), world.train[order, 1])
    assert all(batch.history is None and batch.seed == 4 for batch in whole)
