"""GenNi draws by the softmax of the scores; UFNRec serves, counts and turns as a dictionary does."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy

from foilrec import contracts, parts
from foilrec.core import Backbone, Batch, Data, Tables
from foilrec.errors import BadOption
from foilrec.losses.bce import BCE
from foilrec.samplers import genni
from foilrec.samplers.genni import GenNi
from foilrec.samplers.ufnrec import Served, UFNRec
from foilrec.trainer import Objective

ChiSquare = Callable[[Tensor, Tensor], float]


def case(world: Data, rows: int = 40, epoch: int = 0) -> tuple[Tables, Batch, Tensor]:
    """Tables and queries of some size, and a batch."""
    generator = torch.Generator().manual_seed(3)
    items = torch.randn(world.n_items, 4, generator=generator)
    batch = world.batch(torch.arange(rows), epoch)
    return Tables(items=items), batch, torch.randn(rows, 4, generator=generator)


def law(world: Data, scores: Tensor, user: int, part: list[int], temperature: float) -> dict[int, float]:
    """What the softmax over a part of the unseen items gives each of them."""
    taken = set(world.seen.of(user).tolist())
    weights = {j: float((scores[j].double() / temperature).exp()) for j in part if j not in taken}
    return {j: weight / sum(weights.values()) for j, weight in weights.items()}


@pytest.mark.parametrize(("subset", "temperature"), [(0, 1.0), (0, 0.4), (60, 2.0), (25, 1.0), (8, 0.5)])
def test_genni_draws_by_the_softmax_over_the_unseen_part(
    world: Data, subset: int, temperature: float, chi_square: ChiSquare
) -> None:
    tables, batch, query = case(world, 6)
    sampler = GenNi(world, subset=subset, temperature=temperature, count=20_000)
    drawn, part = sampler(tables, batch, query), sampler.part(batch).tolist()
    assert len(part) == len(set(part)) == (subset or world.n_items)
    assert drawn.ids is not None and drawn.log_q is not None
    exact = len(part) == world.n_items
    assert sampler.log_q_is == ("exact" if exact else "approximate") and sampler.shares_batch != exact
    for row, user in enumerate(batch.users.tolist()):
        share = law(world, tables.items @ query[row], user, part, temperature)
        expected = torch.zeros(world.n_items, dtype=torch.float64)
        expected[list(share)] = torch.tensor(list(share.values()), dtype=torch.float64)
        assert chi_square(torch.bincount(drawn.ids[row], minlength=world.n_items), 20_000 * expected) > 1e-4
        free = world.n_items - len(world.seen.of(user))
        log_q = (expected[drawn.ids[row]] * len(share) / free).clamp(max=1).log()
        assert torch.allclose(drawn.log_q[row].double(), log_q, atol=1e-5)


def test_genni_weights_by_one_over_q_count_the_unseen_items(world: Data) -> None:
    tables, batch, query = case(world, 3)
    totals = []
    for seed in range(300):
        sampler = GenNi(world, subset=20, temperature=3.0, count=20)
        sampler.seed = seed
        drawn = sampler(tables, batch, query)
        assert drawn.ids is not None and drawn.log_q is not None
        totals.append(((-drawn.log_q.double()).exp() * (drawn.ids < 30)).mean(1))
    below = torch.tensor([sum(j not in world.seen.of(u) for j in range(30)) for u in batch.users.tolist()])
    found = torch.stack(totals)
    error = found.std(0) / len(found) ** 0.5
    assert ((found.mean(0) - below).abs() < 4 * error + 0.1).all(), "clamping log q at 0 costs next to nothing here"


def test_genni_at_temperature_0_takes_the_best_of_the_part(world: Data) -> None:
    tables, batch, query = case(world)
    sampler = GenNi(world, subset=15, temperature=1e-4)
    scores = query @ tables.items.T
    world.seen.hide(scores, batch.users)
    part = sampler.part(batch)
    assert torch.equal(sampler(tables, batch, query).ids[:, 0], part[scores[:, part].argmax(1)])  # type: ignore[index]


def test_genni_warms_up_from_uniform(world: Data) -> None:
    tables, early, query = case(world, 5)
    share = [(1, 4), (3, 4), (4, 4), (4, 4)]
    for epoch, (up, of) in zip((0, 2, 3, 50), share, strict=True):
        batch = world.batch(torch.as_tensor(early.rows), epoch)
        warm = GenNi(world, subset=0, warmup=3, count=9, temperature=0.5)(tables, batch, query)
        plain = GenNi(world, subset=0, count=9, temperature=0.5 * of / up)(tables, batch, query)
        assert torch.equal(warm.ids, plain.ids)  # type: ignore[arg-type]


def test_genni_is_the_same_in_blocks(world: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    tables, batch, query = case(world)
    whole = GenNi(world, count=5)(tables, batch, query)
    monkeypatch.setattr(genni, "BLOCK", 130)
    parted = GenNi(world, count=5)(tables, batch, query)
    assert torch.equal(whole.ids, parted.ids)  # type: ignore[arg-type]
    assert torch.allclose(whole.log_q, parted.log_q, atol=1e-5)  # type: ignore[arg-type]


def test_genni_draws_evenly_where_the_part_holds_nothing_unseen() -> None:
    train = torch.stack([torch.zeros(9, dtype=torch.long), torch.arange(9)], 1)
    data = Data(1, 12, train, train[:0], train[:0])
    tables, batch = Tables(items=torch.randn(12, 2)), data.batch(torch.arange(3))
    found = []
    for seed in range(60):
        sampler = GenNi(data, subset=2, count=7)
        sampler.seed = seed
        drawn = sampler(tables, batch, torch.randn(3, 2))
        assert drawn.ids is not None and drawn.log_q is not None and (drawn.ids >= 9).all()
        if (sampler.part(batch) < 9).all():
            assert torch.allclose(drawn.log_q, torch.tensor(1 / 3).log())
            found.append(drawn.ids.flatten())
    assert len(found) > 10 and set(torch.cat(found).tolist()) == {9, 10, 11}


def test_genni_over_everything_depends_on_no_other_row() -> None:
    contracts.check_sampler(GenNi, subset=0)


@pytest.mark.parametrize("wrong", [{"subset": -1}, {"temperature": 0.0}, {"count": 0}, {"warmup": -1}])
def test_genni_explains_wrong_options(world: Data, wrong: dict[str, Any]) -> None:
    with pytest.raises(BadOption, match=f"{next(iter(wrong))} = {next(iter(wrong.values()))}"):
        GenNi(world, **wrong)


class Slow:
    """UFNRec's memory as a dictionary of slots, row by row."""

    def __init__(self, memory: int, patience: int) -> None:
        self.memory, self.patience = memory, patience
        self.now: dict[int, list[tuple[int, int] | None]] = {}
        self.next: dict[int, list[tuple[int, int] | None]] = {}

    def begin(self) -> None:
        """A new epoch."""
        self.now = dict(self.next)

    def serve(self, row: int, fresh: list[int]) -> list[tuple[int, int]]:
        """Items and how often each was served again."""
        slots = self.now.get(row, [None] * self.memory)
        kept = [slot and (slot[0], slot[1] + 1) for slot in slots] + [None] * (len(fresh) - self.memory)
        return [slot or (item, 0) for slot, item in zip(kept, fresh, strict=True)]

    def hear(self, row: int, served: list[tuple[int, int]], above: list[bool]) -> None:
        """Keeps the first few that stand above the positive and have not been turned; twice the same is kept once."""
        high = [slot for slot, yes in zip(served, above, strict=True) if yes and slot[1] <= self.patience]
        high = high[: self.memory]
        once = [None if slot[0] in [other[0] for other in high[:n]] else slot for n, slot in enumerate(high)]
        self.next[row] = once + [None] * (self.memory - len(high))


def test_ufnrec_serves_counts_and_turns_as_a_dictionary_does(world: Data) -> None:
    sampler, slow = UFNRec(world, count=9, memory=5, patience=2, start=1, consistency=0), Slow(5, 2)
    model: Backbone = parts.build("backbone", "bprmf", world, dim=4)
    turned = 0
    for epoch in range(8):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(epoch)))
        tables = model.propagate()
        sampler.begin_epoch(epoch, model, tables)
        slow.begin()
        for batch in world.batches(100, 0, epoch):
            query = model.query(tables, batch).detach()
            drawn = sampler(tables, batch, query)
            assert drawn.ids is not None and drawn.labels is not None and drawn.level is not None
            fresh = sampler.unseen(batch, 9)
            scores = (tables.items.detach()[drawn.ids] * query[:, None]).sum(2)
            bar = (tables.items.detach()[batch.positives] * query).sum(1)
            assert torch.allclose(drawn.bar, bar)
            for b, row in enumerate(torch.as_tensor(batch.rows).tolist()):
                served = slow.serve(row, fresh[b].tolist())
                assert drawn.ids[b].tolist() == [item for item, _ in served]
                assert drawn.labels[b].tolist() == [float(times > 2) for _, times in served]
                assert drawn.level[b].tolist() == [int(times > 0) + int(times > 2) for _, times in served]
                turned += sum(times > 2 for _, times in served)
                if epoch >= 1:
                    slow.hear(row, served, (scores[b] > drawn.bar[b]).tolist())
            sampler.feedback(batch, drawn, scores)
            sampler.feedback(batch, drawn, scores)  # an optimizer may look twice: nothing is counted twice
    assert turned > 100


def test_ufnrec_before_its_start_is_uniform(world: Data) -> None:
    sampler, plain = UFNRec(world, start=3), parts.build("sampler", "uniform", world, count=16)
    model: Backbone = parts.build("backbone", "bprmf", world, dim=4)
    for epoch in range(3):
        sampler.begin_epoch(epoch, model, model.propagate())
        batch = world.batch(torch.arange(50), epoch)
        query = model.query(model.propagate(), batch)
        drawn = sampler(model.propagate(), batch, query)
        assert torch.equal(drawn.ids, plain(model.propagate(), batch, query).ids)  # type: ignore[arg-type]
        assert not drawn.labels.any()  # type: ignore[union-attr]
        sampler.feedback(batch, drawn, torch.full(drawn.shape, 1e9))
    sampler.begin_epoch(3, model, model.propagate())
    assert (sampler.items == -1).all()


def flipped(world: Data, model: Backbone) -> UFNRec:
    """A sampler in epoch 1 that turns item 7 of rows 0 and 2, and serves item 8 of row 1 for the first time."""
    sampler = UFNRec(world, count=3, memory=2, patience=1, start=0, consistency=0.4, decay=0.9)
    sampler.begin_epoch(0, model, model.propagate())
    for row, item, times in ((0, 7, 1), (2, 7, 1), (1, 8, 0)):
        sampler.next_items[row, 0], sampler.next_times[row, 0] = item, times
    return sampler


def test_ufnrec_teacher_is_the_average_of_the_weights(world: Data) -> None:
    model: Backbone = parts.build("backbone", "bprmf", world, dim=4)
    sampler = flipped(world, model)
    slow, batch = copy.deepcopy(model.state_dict()), world.batch(torch.arange(3), 1)
    for epoch in (1, 2):
        sampler.begin_epoch(epoch, model, model.propagate())
        for step in range(3):
            with torch.no_grad():
                model.items.weight.add_(step + 1.0)
            drawn = sampler(model.propagate(), batch, model.query(model.propagate(), batch))
            sampler.feedback(batch, drawn, torch.zeros(drawn.shape))
            slow = {name: 0.9 * slow[name] + 0.1 * value for name, value in model.state_dict().items()}
    teacher = sampler.get_extra_state()["teacher"]
    assert all(torch.allclose(teacher[name], value) for name, value in slow.items())
    assert not list(sampler.parameters())


def test_ufnrec_draws_turned_items_to_the_teacher(world: Data) -> None:
    model: Backbone = parts.build("backbone", "bprmf", world, dim=4)
    sampler, before = flipped(world, model), copy.deepcopy(model.state_dict())
    with torch.no_grad():
        model.items.weight.mul_(3.0)
    sampler.begin_epoch(1, model, model.propagate())
    batch, tables = world.batch(torch.arange(3), 1), model.propagate()
    query = model.query(tables, batch)
    loss = sampler.own_loss(tables, batch, query)
    terms = []
    for row in (0, 2):
        user = int(batch.users[row])
        soft = (before["users.weight"][user] @ before["items.weight"][7]).sigmoid()
        mine = (model.users.weight[user] @ model.items.weight[7]).sigmoid()
        terms.append(binary_cross_entropy(mine, soft))
    assert torch.allclose(loss, 0.4 * torch.stack(terms).mean(), atol=1e-6)
    loss.backward()
    assert model.items.weight.grad is not None and model.items.weight.grad[7].any()
    assert not model.items.weight.grad[8].any(), "item 8 is not turned"
    quiet = UFNRec(world, start=0, consistency=0)
    quiet.begin_epoch(1, model, tables)
    assert float(quiet.own_loss(tables, batch, query)) == 0 and not quiet.get_extra_state()["teacher"]


def test_ufnrec_turned_items_are_positives_to_bce(world: Data) -> None:
    model: Backbone = parts.build("backbone", "bprmf", world, dim=4)
    sampler, batch = flipped(world, model), world.batch(torch.arange(3), 1)
    sampler.begin_epoch(1, model, model.propagate())
    drawn = sampler(model.propagate(), batch, model.query(model.propagate(), batch))
    assert isinstance(drawn, Served) and drawn.labels is not None
    assert drawn.labels[:, 0].tolist() == [1, 0, 1] and not drawn.labels[:, 1:].any()
    negative = torch.zeros(3, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(BCE()(torch.zeros(3), negative, drawn), negative)
    assert torch.equal(slope < 0, drawn.labels > 0)


@pytest.mark.parametrize("name", ["bprmf", "lightgcn", "vbpr", "freedom", "aligned", "lattice", "bm3", "gru4rec"])
def test_ufnrec_has_a_teacher_of_any_backbone(name: str) -> None:
    data = contracts.small_world()
    torch.manual_seed(0)
    options = contracts._inner_parts(parts.find("backbone", name), data)
    model: Backbone = parts.find("backbone", name)(data, **options)
    model.ranking_weight = 1.0
    objective = Objective(model, UFNRec(data, start=0, patience=1, count=30, memory=9), parts.build("loss", "bce"))
    sampler = objective.sampler
    adam = torch.optim.Adam(objective.parameters(), lr=0.01)
    for epoch in range(4):
        model.begin_epoch(epoch)
        with torch.no_grad():
            sampler.begin_epoch(epoch, model, model.propagate())
        for batch in data.batches(256, 0, epoch, model.history):
            adam.zero_grad()
            objective.train()(batch).backward()
            adam.step()
        model.end_epoch(epoch)
    assert isinstance(sampler, UFNRec) and (sampler.next_times > 0).any()
    (teacher,) = sampler._teacher
    assert teacher.data is data and not teacher.training and not any(p.requires_grad for p in teacher.parameters())
    kept = model.state_dict()  # of what is in no state, features say, there is no second copy
    both = ((one, buffer) for one, buffer in model.named_buffers() if one not in kept)
    assert all(teacher.get_buffer(one) is buffer for one, buffer in both)
    assert all(teacher.get_buffer(one) is not buffer for one, buffer in model.named_buffers() if one in kept)


@pytest.mark.parametrize(
    "wrong",
    [{"memory": 20}, {"memory": 0}, {"patience": 0}, {"start": -1}, {"consistency": -0.1}, {"decay": 1.0}],
)
def test_ufnrec_explains_wrong_options(world: Data, wrong: dict[str, Any]) -> None:
    with pytest.raises(BadOption, match=f"{next(iter(wrong))} = {next(iter(wrong.values()))}"):
        UFNRec(world, **wrong)
