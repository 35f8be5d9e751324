"""The hardness meter tells what is known of a sampler, and leaves no trace in what it measures."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from foilrec import parts
from foilrec.auditing.advice import advise
from foilrec.core import Backbone, Batch, Data, Loss, Negatives, Sampler, Tables
from foilrec.errors import BadOption
from foilrec.hardness import UNIFORM, Meter, Reading
from foilrec.recipe import Recipe
from foilrec.run import Run
from foilrec.stretch import train
from foilrec.trainer import Epoch


def recipe(**settings: Any) -> Recipe:
    tree = {
        "name": "metered",
        "threads": 1,
        "data": {"name": "shop", "users": 60, "items": 60},
        "backbone": {"name": "freedom", "dim": 8},
        "sampler": {"name": "dns"},
        "optimizer": {"name": "adam", "lr": 0.02},
        "train": {"batch": 128, "epochs": 4, "patience": 0, **settings},
    }
    return Recipe.from_tree(tree)


def measured(data: Data, sampler: Sampler | str, rows: int = 10_000, model: Backbone | None = None) -> Reading:
    """One reading of a sampler beside a random model."""
    torch.manual_seed(0)
    model = parts.build("backbone", "bprmf", data, dim=8) if model is None else model
    if isinstance(sampler, str):
        sampler = parts.build("sampler", sampler, data)
    return Meter(data, rows)(model, sampler, parts.build("loss", "bpr"))["all"]


class Best(Sampler):
    """The unseen item that the model likes best."""

    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        scores = query @ tables.items.T
        self.data.seen.hide(scores, batch.users)
        return Negatives(ids=scores.argmax(1, keepdim=True))


class Cheat(Sampler):
    """What the user takes in validation."""

    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        hidden = self.data.seen_in("valid")
        return Negatives(ids=torch.stack([hidden.of(int(user))[:1] for user in batch.users]))


class Copies(Sampler):
    """Vectors that are items after all."""

    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        return Negatives(vectors=tables.items[self.unseen(batch, 3)])


class Graded(Sampler):
    """Easy and hard negatives side by side, with their stages; the last column is missing."""

    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        easy, hard = self.unseen(batch, 1), Best(self.data)(tables, batch, query).ids
        assert hard is not None
        level, mask = torch.tensor([[0, 1, 1]]), torch.tensor([[True, True, False]])
        ids = torch.cat([easy, hard, hard], 1)
        return Negatives(ids=ids, level=level.expand(ids.shape), mask=mask.expand(ids.shape))


def test_uniform_negatives_are_at_the_middle(world: Data) -> None:
    draws = len(world.train)
    reading = measured(world, "uniform")
    assert reading.draws == draws and reading.hits is not None
    bound = 4 * math.sqrt(1 / 12 / draws)
    assert abs(reading.percentile - 0.5) < bound and abs(reading.similarity - 0.5) < bound
    assert reading.percentile_quartiles == pytest.approx((0.25, 0.5, 0.75), abs=2 * bound)
    assert reading.false_low is not None and reading.false_high is not None
    assert reading.false_low <= 1 <= reading.false_high
    assert reading.liked_ratio == pytest.approx(1, abs=0.15)
    assert reading.coverage_ratio == pytest.approx(1, abs=0.05) and reading.repeats == 0


def test_uniform_negatives_stay_at_the_middle_while_a_model_learns(world: Data, tmp_path: Path) -> None:
    """Draws that training has just pushed down would look easy: the meter asks for others."""
    chosen = recipe(meter=10_000, epochs=6).with_changes("sampler=uniform", "backbone=bprmf", "optimizer.lr=0.05")
    lines = train(chosen, tmp_path / "run", data=world).epochs()
    bound = 4 * math.sqrt(1 / 12 / len(world.train))
    assert all(abs(line["hardness"]["all"]["percentile"] - 0.5) < bound for line in lines)


def test_dns_is_harder_than_uniform_and_the_best_item_the_hardest(world: Data) -> None:
    uniform, dns, best = (measured(world, sampler) for sampler in ("uniform", "dns", Best(world)))
    assert uniform.percentile + 0.3 < dns.percentile < best.percentile
    assert best.percentile > 1 - 1 / 60 and best.percentile_quartiles[0] > 1 - 1 / 60
    assert uniform.gap < dns.gap < best.gap and uniform.above < dns.above < best.above
    assert best.coverage is not None and uniform.coverage is not None and best.coverage < uniform.coverage
    assert best.gini is not None and uniform.gini is not None and best.gini > uniform.gini


def test_a_sampler_that_looks_at_validation_is_caught(world: Data) -> None:
    wanted = world.seen_in("valid").counts[world.train[:, 0]] > 0
    data = replace(world, train=world.train[wanted])  # users with something held out
    reading = measured(data, Cheat(data))
    assert reading.false_rate == 1.0 and reading.hits == reading.draws
    ratio, low, high = reading.false_ratio, reading.false_low, reading.false_high
    assert ratio is not None and low is not None and high is not None
    free = data.n_items - data.seen.counts[data.train[:, 0]]
    rate = float((data.seen_in("valid").counts[data.train[:, 0]] / free).mean())
    assert ratio == pytest.approx(1 / rate, rel=1e-5) and low < ratio <= high <= ratio * 1.0001  # no rate above 1


def test_no_hit_still_bounds_the_rate(world: Data) -> None:
    class Never(Sampler):
        def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
            items = self.unseen(batch, 200)
            hidden = self.data.seen_in("valid").contains(batch.users, items)
            return Negatives(ids=items.gather(1, hidden.int().argmin(1, keepdim=True)))

    reading = measured(world, Never(world))
    assert reading.hits == 0 and reading.false_ratio == 0 and reading.false_low == 0
    expected = (world.seen_in("valid").counts / (60 - world.seen.counts).double())[world.train[:, 0]].sum()
    assert reading.false_high == pytest.approx(3.689 / float(expected), rel=1e-3)


def test_without_validation_nothing_is_said_of_false_negatives(world: Data) -> None:
    reading = measured(replace(world, valid=world.valid[:0], oracle=None), "uniform")
    assert reading.hits == 0 and reading.false_ratio is None and reading.liked is None
    assert "false_high" not in reading.as_dict()


def test_the_test_split_is_never_looked_at(world: Data) -> None:
    blind = replace(world, test=torch.zeros(0, 2, dtype=torch.long))
    assert measured(blind, "dns") == measured(world, "dns")


def test_the_oracle_is_asked_about_the_draws(world: Data) -> None:
    reading, oracle = measured(world, Best(world)), world.oracle
    assert oracle is not None and reading.liked is not None and reading.liked_ratio is not None
    everything = oracle.probability(torch.arange(60), torch.arange(60).expand(60, 60)).double()
    open_ = torch.ones(60, 60, dtype=torch.bool)
    open_[world.train[:, 0], world.train[:, 1]] = False
    exact = float(((everything * open_).sum(1) / open_.sum(1))[world.train[:, 0]].mean())
    spread = float(everything.std()) / math.sqrt(UNIFORM * len(world.train))
    assert abs(reading.liked / reading.liked_ratio - exact) < 5 * spread


def test_vectors_that_are_items_lie_on_them(world: Data) -> None:
    reading = measured(world, Copies(world))
    assert reading.nearest == 0 and reading.nearest_cosine == 0 and reading.norm == pytest.approx(1, abs=0.1)
    assert reading.nearest_taken is not None and reading.to_positive is not None
    assert 0 < reading.nearest_taken <= reading.to_positive
    assert reading.hits is None and reading.coverage is None
    assert abs(reading.percentile - 0.5) < 4 * math.sqrt(1 / 12 / len(world.train))


def test_described_items_are_looked_up(world: Data) -> None:
    class Twins(Sampler):
        def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
            ids = self.unseen(batch, 2)
            return Negatives(features={name: f.of(ids) for name, f in self.data.features.items()})

    torch.manual_seed(0)
    reading = measured(world, Twins(world), model=parts.build("backbone", "vbpr", world, dim=8))
    assert reading.draws == 2 * len(world.train) and reading.nearest is not None and reading.nearest > 0


def test_stages_are_told_apart_and_masked_columns_left_out(world: Data) -> None:
    torch.manual_seed(0)
    model = parts.build("backbone", "bprmf", world, dim=8)
    readings = Meter(world)(model, Graded(world), parts.build("loss", "bpr"))
    assert list(readings) == ["all", "stage 0", "stage 1"]
    easy, hard, both = readings["stage 0"], readings["stage 1"], readings["all"]
    assert easy.draws == hard.draws == len(world.train) and both.draws == 2 * easy.draws
    assert easy.percentile < 0.6 < 0.98 < hard.percentile
    assert both.percentile == pytest.approx((easy.percentile + hard.percentile) / 2)


def test_the_sample_is_one_of_names(world: Data) -> None:
    one, other = Meter(world, 50, seed=1), Meter(world, 50, seed=1)
    assert torch.equal(one.rows, other.rows) and len(one.rows.unique()) == 50
    assert not torch.equal(one.rows, Meter(world, 50, seed=2).rows)
    assert len(Meter(world, 10**9).rows) == len(world.train)
    with pytest.raises(BadOption, match="at least 1 training row, not rows = 0"):
        Meter(world, 0)


class Noisy(Sampler):
    """Draws from the global generator, and notes what it is told."""

    def __init__(self, data: Data) -> None:
        super().__init__(data)
        self.heard = 0

    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        torch.rand(3)
        return Negatives(ids=self.unseen(batch, 1))

    def feedback(self, batch: Batch, negatives: Negatives, scores: Tensor) -> None:
        self.heard += 1


def test_measuring_leaves_no_trace(world: Data) -> None:
    torch.manual_seed(0)
    model: Backbone = parts.build("backbone", "freedom", world, dim=8)
    loss: Loss = parts.build("loss", "bpr")
    sampler = Noisy(world)
    sampler.seed = 17
    loss.eval()
    model.begin_epoch(0)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    meter = Meter(world, 100)
    first = meter(model, sampler, loss, 3)
    assert torch.equal(torch.get_rng_state(), generator) and sampler.heard == 0 and sampler.seed == 17
    assert model.training and sampler.training and not loss.training
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert meter(model, sampler, loss, 3) == first != meter(model, sampler, loss, 4)


def test_a_failing_sampler_is_left_as_it_was(world: Data) -> None:
    class Broken(Sampler):
        def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
            raise BadOption("no draws today")

    sampler = Broken(world)
    with pytest.raises(BadOption, match="no draws today"):
        measured(world, sampler)
    assert sampler.training and sampler.seed == 0


def weights(run: Run) -> bytes:
    return (run.folder / "best.safetensors").read_bytes()


def stop_after_one(epoch: Epoch) -> None:
    if epoch.number == 1:
        raise KeyboardInterrupt


def test_a_run_is_the_same_with_and_without_the_meter(world: Data, tmp_path: Path) -> None:
    on, off = (train(recipe(meter=rows), tmp_path / f"m{rows}", data=world) for rows in (64, 0))
    assert weights(on) == weights(off) and on.scores["test"] == off.scores["test"]
    assert [line["loss"] for line in on.epochs()] == [line["loss"] for line in off.epochs()]
    assert [line["hardness"] for line in off.epochs()] == [None] * 4
    with pytest.raises(KeyboardInterrupt):
        train(recipe(meter=64), tmp_path / "halted", data=world, on_epoch=stop_after_one)
    resumed = train(recipe(meter=64), tmp_path / "halted", data=world, resume=True)
    assert weights(resumed) == weights(on)
    assert [line["hardness"] for line in resumed.epochs()] == [line["hardness"] for line in on.epochs()]


def test_the_meter_is_no_part_of_the_digest(world: Data, tmp_path: Path) -> None:
    assert recipe(meter=64).digest == recipe(meter=0).digest == recipe().digest
    with pytest.raises(KeyboardInterrupt):
        train(recipe(meter=0), tmp_path / "run", data=world, on_epoch=stop_after_one)
    run = train(recipe(meter=64), tmp_path / "run", data=world, resume=True)
    assert [line["hardness"] is None for line in run.epochs()] == [True, True, False, False]
    with pytest.raises(BadOption, match=r"train\.meter = -1 must be at least 0"):
        recipe(meter=-1)


def test_a_stored_reading_is_read_again(world: Data, tmp_path: Path) -> None:
    run = train(recipe(epochs=1), tmp_path / "run", data=world)
    stored = run.epochs()[0]["hardness"]["all"]
    assert Reading.of({**stored, "from a later version": 1}).as_dict() == stored
    anew = run.hardness(256)["all"]
    assert anew.as_dict() == stored  # the best weights are those after the only epoch


PLAIN = Reading(1000, 0.8, (0.7, 0.8, 0.9), 0.6, (0.5, 0.6, 0.7), -1.0, 0.2, 0.02)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "Nothing stands out"),
        ({"percentile": 0.51}, "as easy as uniform: 51st percentile"),
        ({"percentile": 0.3}, "easier than uniform: 30th percentile"),
        ({"percentile": 0.99}, "nearly the hardest there are: 99th percentile"),
        ({"above": 0.7}, "70% of the negatives score above their positive"),
        ({"gradient_top": 0.62}, "1% of the negatives carry 62% of the gradient"),
        (
            {"hits": 42, "false_ratio": 4.2, "false_low": 3.0, "false_high": 5.7},
            "4.2 times as many false negatives as uniform sampling (42 of 1000 draws",
        ),
        ({"hits": 0, "false_ratio": 0.0, "false_low": 0.0, "false_high": 52.0}, "too few draws to tell"),
        ({"hits": 9, "false_ratio": 1.1, "false_low": 0.8, "false_high": 1.4}, "Nothing stands out"),
        ({"liked": 0.2, "liked_ratio": 3.3}, "20% of the negatives would truly be liked, 3.3 times"),
        ({"coverage_ratio": 0.3, "gini": 0.9}, "the draws reach 30% of the items"),
        ({"repeats": 0.4}, "40% of the draws repeat"),
        ({"norm": 3.1}, "3.1 times as long as items"),
        ({"nearest_cosine": 0.01}, "next to copies: the nearest item is at cosine distance 0.010"),
        ({"drift": 0.3}, "Nothing stands out"),
        ({"drift": 0.83}, "their mean is 0.83 as long as they are, so that ranks follow popularity. Look for"),
        ({"drift": 0.83, "norm": 1.0}, 'set push = "easy"'),
    ],
)
def test_advice_names_the_figure_it_rests_on(change: dict[str, Any], words: str) -> None:
    said = advise({"all": replace(PLAIN, **change)})
    assert len(said) == 1 and words in said[0]


def test_advice_on_made_up_vectors_names_the_worst_stage_of_them() -> None:
    items = replace(PLAIN, norm=1.0, nearest=0.0, nearest_cosine=0.0, percentile=0.5)
    sound = replace(PLAIN, norm=1.1, nearest=0.4, nearest_cosine=0.3, percentile=0.7)
    high = replace(sound, above=0.9, percentile=0.9)
    said = advise({"all": replace(sound, above=0.4), "stage 0": items, "stage 1": sound, "stage 2": high})
    assert len(said) == 1 and said[0].startswith("90% of the made-up vectors of stage 2 score above their positive.")
    long, near = replace(high, above=0.1, norm=24.0), replace(sound, nearest_cosine=0.02)
    said = advise({"all": sound, "stage 0": items, "stage 1": near, "stage 2": long})
    assert (
        len(said) == 2 and "of stage 2 are 24 times as long" in said[0] and "of stage 1 are next to copies" in said[1]
    )
    said = advise({"all": replace(sound, above=0.6)})
    assert len(said) == 1 and "calibrate them" in said[0]


def test_stages_that_do_not_grade_are_told() -> None:
    def stages(*places: float) -> dict[str, Reading]:
        return {f"stage {n}": replace(PLAIN, percentile=place) for n, place in enumerate(places)}

    assert "stages do not grade: .84, .87, .89" in advise({"all": PLAIN, **stages(0.84, 0.87, 0.89)})[0]
    assert advise({"all": PLAIN, **stages(0.6, 0.75, 0.9)})[0].startswith("Nothing")
