"""SASRec and GRU4Rec by the formulas, place by place: nothing later and no padding is seen, and they learn order."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from foilrec import contracts, parts
from foilrec.core import Backbone, Batch, Data, Negatives, batch_rows
from foilrec.errors import BadOption, PartsDoNotFit
from foilrec.numerics.dropout import drop
from foilrec.numerics.streams import of_step
from foilrec.sequences import Past
from foilrec.trainer import Objective
from reference.chains import ring, trained

MODELS: list[dict[str, Any]] = [
    {"name": "sasrec", "dim": 8, "heads": 2, "max_len": 7},
    {"name": "sasrec", "dim": 8, "norm": "all", "blocks": 1},
    {"name": "gru4rec", "dim": 8, "hidden": 6, "layers": 2},
]
NAMES = ["sasrec", "sasrec norm all", "gru4rec"]
every_model = pytest.mark.parametrize("options", MODELS, ids=NAMES)


@pytest.fixture(scope="module", name="chain")
def _chain() -> Data:
    return ring(60, length=12)


def made(options: dict[str, Any], data: Data, seed: int = 0) -> Backbone:
    """A backbone in double precision, all its weights moved off their start."""
    torch.manual_seed(seed)
    model: Backbone = parts.build(
        "backbone", options["name"], data, **{k: v for k, v in options.items() if k != "name"}
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return model.double().eval()


def normal(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """LN of one vector."""
    return (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt() * weight + bias


def slow_sasrec(model: Any, items: list[int]) -> Tensor:
    """h after some items, every attention written out."""
    w, dim = model.state_dict(), model.items.embedding_dim
    x = [w["items.weight"][i] * dim**0.5 + w["places.weight"][t] for t, i in enumerate(items)]
    for b, block in enumerate(model.blocks):
        p, width = f"blocks.{b}.", dim // block.heads
        n = [normal(v, w[p + "norms.0.weight"], w[p + "norms.0.bias"]) for v in x]
        source = n if block.all_normal else x
        asked = [w[p + "asking.weight"] @ v + w[p + "asking.bias"] for v in n]
        known = [w[p + "known.weight"] @ v + w[p + "known.bias"] for v in source]
        after = []
        for t in range(len(x)):
            heads = []
            for head in range(block.heads):
                at = slice(head * width, (head + 1) * width)
                logits = [(asked[t][at] @ known[s][:dim][at] / width**0.5).exp() for s in range(t + 1)]
                heads.append(sum(e * known[s][dim:][at] for s, e in enumerate(logits)) / sum(logits))
            after.append((x[t] if block.all_normal else n[t]) + torch.cat(heads))
        n = [normal(v, w[p + "norms.1.weight"], w[p + "norms.1.bias"]) for v in after]
        inner = [(w[p + "inner.weight"] @ v + w[p + "inner.bias"]).clamp(min=0) for v in n]
        carried = after if block.all_normal else n
        x = [c + w[p + "outer.weight"] @ v + w[p + "outer.bias"] for c, v in zip(carried, inner, strict=True)]
    return normal(x[-1], w["norm.weight"], w["norm.bias"])


def slow_gru4rec(model: Any, items: list[int]) -> Tensor:
    """W h + b after some items, every gate written out."""
    w = model.state_dict()
    x = [w["items.weight"][i] for i in items]
    for n, layer in enumerate(model.layers):
        p, h, states = f"layers.{n}.", torch.zeros(layer.hidden_size, dtype=torch.float64), []
        for v in x:
            of_x = (w[p + "weight_ih_l0"] @ v + w[p + "bias_ih_l0"]).chunk(3)
            of_h = (w[p + "weight_hh_l0"] @ h + w[p + "bias_hh_l0"]).chunk(3)
            reset, update = (of_x[0] + of_h[0]).sigmoid(), (of_x[1] + of_h[1]).sigmoid()
            h = (1 - update) * (of_x[2] + reset * of_h[2]).tanh() + update * h
            states.append(h)
        x = states
    return w["dense.weight"] @ x[-1] + w["dense.bias"]


@every_model
def test_the_query_is_the_formula_of_the_history(options: dict[str, Any], chain: Data) -> None:
    model = made(options, chain)
    slow = {"sasrec": slow_sasrec, "gru4rec": slow_gru4rec}[options["name"]]
    batch = next(chain.batches(80, 0, 0, model.history))
    query = model.query(model.propagate(), batch)
    for row, (s, p) in enumerate(zip(batch.past.sequence.tolist(), batch.past.place.tolist(), strict=True)):
        assert torch.allclose(query[row], slow(model, batch.past.items[s, :p].tolist()), atol=1e-10)


@every_model
def test_whole_sequences_give_what_each_row_gives_alone(options: dict[str, Any], chain: Data) -> None:
    model = made(options, chain)
    tables, length = model.propagate(), model.history
    for batch in chain.batches(100, 0, 0, length):
        whole = model.query(tables, batch)
        for row in range(0, len(batch), 7):
            alone = model.query(tables, chain.batch(torch.as_tensor(batch.rows)[row : row + 1], history=length))
            assert torch.allclose(whole[row], alone[0], atol=1e-10)


@every_model
def test_a_later_item_never_changes_an_earlier_query(options: dict[str, Any], chain: Data) -> None:
    model = made(options, chain)
    batch = next(chain.batches(100, 0, 0, model.history))
    before = model.query(model.propagate(), batch)
    for at in range(1, batch.past.items.shape[1]):
        items = batch.past.items.clone()
        items[:, at:] = torch.where(items[:, at:] >= 0, (items[:, at:] + 17) % chain.n_items, -1)
        after = model.query(model.propagate(), replace(batch, history=replace(batch.past, items=items)))
        early = batch.past.place <= at
        assert torch.equal(before[early], after[early])
        assert (before[~early] != after[~early]).any(1).all()


@every_model
def test_padding_never_matters(options: dict[str, Any], chain: Data) -> None:
    model = made(options, chain)
    batch = next(chain.batches(100, 0, 0, model.history))
    before = model.query(model.propagate(), batch)
    wider = torch.cat([batch.past.items, torch.full((len(batch.past.items), 9), -1)], 1)
    assert torch.equal(before, model.query(model.propagate(), replace(batch, history=replace(batch.past, items=wider))))
    rows = torch.isin(batch.past.items, torch.tensor(0)).any(1)[batch.past.sequence]
    with torch.no_grad():
        model.items.weight[0] += 3.0  # stands behind the ends of sequences
    after = model.query(model.propagate(), batch)
    assert (~rows).any() and torch.equal(before[~rows], after[~rows])


@every_model
def test_without_a_past_every_item_scores_the_same(options: dict[str, Any], chain: Data) -> None:
    model = made(options, chain)
    first = ~torch.isin(torch.arange(len(chain.train)), chain.trained(9))
    query = model.query(model.propagate(), chain.batch(first.nonzero()[:, 0], history=model.history))
    assert torch.equal(query, torch.zeros_like(query))


@every_model
def test_dropout_is_by_name(options: dict[str, Any], chain: Data) -> None:
    model = made(options, chain).train()
    batch, tables = next(chain.batches(60, 0, 0, model.history)), model.propagate()
    state = torch.get_rng_state()
    once, again = model.query(tables, batch), model.query(tables, batch)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(once, again)
    assert not torch.equal(once, model.query(tables, replace(batch, epoch=1)))
    model.seed = 1
    assert not torch.equal(once, model.query(tables, batch))


def test_dropout_keeps_the_mean_and_the_rate() -> None:
    x = torch.ones(400, 501, requires_grad=True)
    for rate in (0.2, 0.5):
        found = drop(x, rate, of_step(0, "dropout", 3))
        kept = found != 0
        assert abs(float(kept.double().mean()) - (1 - rate)) < 4 * (rate * (1 - rate) / x.numel()) ** 0.5
        assert torch.allclose(found[kept], torch.tensor(1 / (1 - rate)))
        pairs = (kept[:, 1:] == kept[:, :-1]).double().mean()  # neighbours come from one word
        assert abs(float(pairs) - (rate**2 + (1 - rate) ** 2)) < 0.005
        (slope,) = torch.autograd.grad(found.sum(), x)
        assert torch.equal(slope, found.detach())
    assert drop(x, 0.0, of_step(0, "dropout", 3)) is x and drop(x, 0.5, None) is x


@every_model
def test_gradients_as_rows_make_the_same_step(options: dict[str, Any], chain: Data) -> None:
    weights = []
    for sparse in (False, True):
        model = made(options, chain).train()
        if sparse:
            assert model.use_row_gradients()
        objective = Objective(model, parts.build("sampler", "uniform", chain), parts.build("loss", "bce"))
        adam = parts.build("optimizer", "adam", list(objective.parameters()), lr=0.05)
        for batch in chain.batches(100, 0, 0, model.history):
            adam.zero_grad()
            objective(batch).backward()
            adam.step()
        weights.append(model.items.weight.detach())
    assert torch.allclose(*weights, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("sasrec", {"dim": 6, "heads": 4}, "dim = 6 must be a multiple of heads = 4"),
        ("sasrec", {"blocks": 0}, "blocks = 0"),
        ("sasrec", {"dropout": 1.0}, "dropout = 1.0"),
        ("gru4rec", {"layers": 0}, "layers = 0"),
        ("gru4rec", {"max_len": 0}, "max_len = 0"),
    ],
)
def test_wrong_options_are_explained(name: str, options: dict[str, Any], words: str, chain: Data) -> None:
    with pytest.raises(BadOption, match=words):
        parts.build("backbone", name, chain, **options)


@pytest.mark.parametrize(
    ("backbone", "loss"),
    [({"name": "sasrec", "dropout": 0.2}, "bce"), ({"name": "gru4rec", "dropout": 0.1}, "softmax")],
    ids=["sasrec", "gru4rec"],
)
def test_the_next_item_is_learned_where_popularity_knows_nothing(backbone: dict[str, Any], loss: str) -> None:
    data = ring(300)
    torch.manual_seed(0)
    options = {key: value for key, value in backbone.items() if key != "name"}
    model = parts.build("backbone", backbone["name"], data, dim=16, **options)
    objective = Objective(model, parts.build("sampler", "uniform", data, count=4), parts.build("loss", loss))
    recall = trained(objective, epochs=25)
    assert recall > 6 * 5 / data.n_items, "popularity finds 5 of the items"
    # the five items of the next group are found, unless the user strayed


DO_NOT_FIT = {  # sampler: what it says
    "srns": "no table of them",
    "rankwindow": "no users to make lists for",
    "ccdrec": "put backbone aligned around yours",
}


@pytest.mark.parametrize("backbone", ["sasrec", "gru4rec"])
@pytest.mark.parametrize("name", parts.names("sampler"))
def test_every_sampler_works_or_says_in_a_sentence_why_not(backbone: str, name: str) -> None:
    data = contracts.small_world()
    torch.manual_seed(0)
    model: Backbone = parts.build("backbone", backbone, data, max_len=9)
    options = contracts._inner_parts(parts.find("sampler", name), data)
    try:
        sampler = parts.find("sampler", name)(data, **options)
        objective = Objective(model, sampler, parts.build("loss", "bce"))
        steps = list(data.batches(512, 0, 0, model.history))
        with torch.no_grad():
            sampler.begin_epoch(0, model, model.propagate())
        for batch in steps:
            total = objective.train()(batch)
            total.backward()
            assert torch.isfinite(total.detach())
        with torch.no_grad():
            sampler.begin_epoch(1, model, model.propagate())
        assert torch.isfinite(objective(replace(steps[0], epoch=1)).detach())
    except PartsDoNotFit as error:
        assert str(error).count(".") >= 1 and "\n" not in str(error)
        assert DO_NOT_FIT.get(name, "") in str(error)
        assert name not in WORKS
    else:
        assert name not in DO_NOT_FIT


WORKS = {"uniform", "popularity", "inbatch", "dns", "softmax_sir", "warp", "ahns", "bns", "graded", "realhns", "mixgcf",
         "dens", "kgpolicy", "mixed", "cached", "genni", "ufnrec"}  # fmt: skip


def test_ranks_are_taken_from_the_present_query_where_there_are_no_users(chain: Data) -> None:
    model: Backbone = parts.build("backbone", "sasrec", chain, dim=8).eval()
    sampler = parts.build("sampler", "rankwindow", chain, first=1, last=1, refresh="batch")
    tables, batch = model.propagate(), chain.batch(chain.trained(9), history=9)
    sampler.begin_epoch(0, model, tables)
    query = model.query(tables, batch)
    scores = query @ tables.items.T
    chain.seen.hide(scores, batch.users)
    assert torch.equal(sampler(tables, batch, query).ids[:, 0], scores.argmax(1))


@pytest.mark.parametrize("name", parts.names("loss"))
def test_every_loss_works_with_histories(name: str, chain: Data) -> None:
    model: Backbone = parts.build("backbone", "sasrec", chain, dim=8)
    objective = Objective(model, parts.build("sampler", "uniform", chain, count=3), parts.build("loss", name))
    total = objective(next(chain.batches(50, 0, 0, model.history)))
    total.backward()
    assert torch.isfinite(total.detach())


@pytest.mark.parametrize("inner", ["sasrec", "gru4rec"])
def test_content_can_be_aligned_around_a_sequential_model(inner: str) -> None:
    data = contracts.small_world()
    model: Backbone = parts.build("backbone", "aligned", data, inner={"name": inner, "dim": 8}, steps=4)
    sampler = parts.build("sampler", "ccdrec", data)
    objective = Objective(model, sampler, parts.build("loss", "bpr"))
    for epoch in range(2):
        model.begin_epoch(epoch)
        with torch.no_grad():
            sampler.begin_epoch(epoch, model, model.propagate())
        for batch in data.batches(200, 0, epoch, model.history):
            total = objective.train()(batch)
            total.backward()
            assert torch.isfinite(total.detach())
        model.end_epoch(epoch)


def test_a_penalty_on_users_says_that_there_are_none(chain: Data) -> None:
    model: Backbone = parts.build("backbone", "gru4rec", chain, dim=8)
    batch: Batch = chain.batch(torch.arange(3), history=model.history)
    with pytest.raises(PartsDoNotFit, match="no table of users"):
        batch_rows(model.propagate(), batch, Negatives(ids=torch.zeros(3, 1, dtype=torch.long)))


def test_a_history_moves_with_its_batch(chain: Data) -> None:
    batch = chain.batch(torch.arange(3), history=5)
    assert batch.to(torch.device("cpu")) is batch
    moved = batch.to(torch.device("meta"))
    assert isinstance(moved.history, Past) and moved.past.device.type == "meta"
