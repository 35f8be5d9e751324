"""The checks that every part must pass, ours and yours: `foilrec check`, or check_sampler(MySampler) in your tests.

Each check_* returns nothing and raises ContractBroken with one sentence when the part breaks its contract.
"""

import atexit
import inspect
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foilrec import parts
from foilrec.core import Backbone, Batch, Data, Loss, Negatives, Reader, Sampler, Tables
from foilrec.data import Features
from foilrec.errors import BadData, FoilrecError, PartsDoNotFit
from foilrec.negatives import generated
from foilrec.trainer import Objective

_FOLDERS: dict[str, str] = {}


class ContractBroken(FoilrecError, AssertionError):
    """A part does not do what its family must: the message says what it did instead."""


@lru_cache(maxsize=1)
def small_world() -> Data:
    """A tiny shop: 60 users, 60 items, two modalities, and the order in which each user took things."""
    data: Data = parts.build("dataset", "shop", users=60, items=60, split="leave-one-out").read()
    return data


def problem(kind: str, name: str) -> str | None:
    """The first broken promise of a part, named as in a recipe; None if it keeps them all."""
    checks: dict[str, Callable[[Any], None]] = {
        "backbone": check_backbone,
        "sampler": check_sampler,
        "loss": check_loss,
        "dataset": check_reader,
        "optimizer": check_optimizer,
    }
    try:
        checks[parts.family(kind)](parts.find(kind, name))
    except FoilrecError as error:
        return str(error)
    except NotImplementedError as error:
        lacks = traceback.extract_tb(error.__traceback__)[-1].name
        return f"{name} has no {lacks} of its own: write it, as foilrec.core says"
    except Exception as error:  # whatever a part of somebody's own may raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} ({last.filename}, line {last.lineno}, in {last.name})"
    return None


def _must(holds: object, sentence: str) -> None:
    if not holds:
        raise ContractBroken(sentence)


def _seeded(make: Callable[[], Any]) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def _batch(data: Data, rows: int = 7, first: int = 0, epoch: int = 0, history: int = 0) -> Batch:
    return data.batch(torch.arange(first, first + rows), epoch, history=history)


def _inner_parts(part: type, data: Data) -> dict[str, Any]:
    """What a part that goes around others is checked with, where it has no default."""
    found: dict[str, Any] = {}
    for option in parts.options(part).values():
        if option.type is Backbone and option.default is option.REQUIRED:
            found[option.name] = _seeded(lambda: parts.build("backbone", "lightgcn", data))
        elif option.type == Sequence[Sampler] and option.default is option.REQUIRED:
            found[option.name] = [parts.build("sampler", name, data) for name in ("uniform", "dns")]
        elif option.name == "path" and issubclass(part, Backbone | Sampler):
            found[option.name] = _generated(data)
    return found


def _generated(data: Data) -> str:
    """A folder of generated negatives, made once for a data set: each item on half its way to the next."""
    digest = data.fingerprint
    if digest not in _FOLDERS:
        folder = tempfile.mkdtemp(prefix="foilrec-check-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        own = {name: features.all().numpy() for name, features in data.features.items()}
        ids = [*data.raw_items(range(data.n_items))] * 2
        before = {name: np.concatenate([rows, rows]) for name, rows in own.items()}
        other = {name: np.concatenate([np.roll(rows, -step, 0) for step in (1, 2)]) for name, rows in own.items()}
        after = {name: (rows + other[name]) / 2 for name, rows in before.items()}
        generated.write(Path(folder), ids, after, before, difficulty=[2] * data.n_items + [1] * data.n_items)
        _FOLDERS[digest] = folder
    return _FOLDERS[digest]


def check_documented(part: type) -> None:
    """A docstring, and options that are keyword-only and annotated."""
    _must((part.__doc__ or "").strip(), f"{part.__name__} has no docstring: say what it does, its paper, its options.")
    for option in parts.options(part).values():
        annotated = inspect.signature(part).parameters[option.name].annotation is not inspect.Parameter.empty
        _must(annotated, f"{part.__name__}: option {option.name} has no type.")
        _must(f"{option.name}" in (part.__doc__ or ""), f"{part.__name__}: the docstring does not name {option.name}.")


def check_backbone(part: type[Backbone], **options: Any) -> None:
    """Shapes of tables and query, a finite loss with gradients, learning, and weights that can be saved."""
    check_documented(part)
    data, name = small_world(), part.__name__
    options = {**_inner_parts(part, data), **options}
    model: Backbone = _seeded(lambda: part(data, **options))
    model.begin_epoch(0)
    tables, batch = model.propagate(), _batch(data, history=model.history)
    query = model.query(tables, batch)
    _must(
        tables.items.shape == (data.n_items, query.shape[1]),
        f"{name}: items are {tuple(tables.items.shape)}, and must be [I, D] = {(data.n_items, query.shape[1])}.",
    )
    _must(query.shape[0] == len(batch), f"{name}: the query has {query.shape[0]} rows for a batch of {len(batch)}.")
    ids = torch.tensor([[0, 1], [2, 0]])
    _must(
        torch.allclose(tables.item_rows(ids), tables.items[ids], atol=1e-6),
        f"{name}: item_rows(ids) differs from items[ids].",
    )
    _check_learning(model, data)
    again: Backbone = part(data, **{**options, **_inner_parts(part, data)})
    again.load_state_dict(model.state_dict())
    _must(
        torch.equal(again.eval().propagate().items, model.eval().propagate().items),
        f"{name}: a copy with the same state_dict gives other items.",
    )


def _check_learning(model: Backbone, data: Data, loss: Loss | None = None) -> None:
    name = type(model if loss is None else loss).__name__
    ranking = parts.build("loss", "bpr") if loss is None else loss
    objective = Objective(model, parts.build("sampler", "uniform", data), ranking).train()
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.01)
    batch = _batch(data, 64, history=model.history)
    losses, untouched = [], {name for name, _ in model.named_parameters()}
    for _ in range(20):
        optimizer.zero_grad()
        total = objective(batch)
        total.backward()
        optimizer.step()
        losses.append(float(total.detach()))
        untouched -= {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    _must(not untouched, f"{name}: no gradient reaches {', '.join(sorted(untouched))}.")
    _must(losses[-1] < losses[0], f"{name}: 20 steps on one batch did not lower the loss.")


def _host(part: type[Sampler], data: Data, options: dict[str, Any]) -> Backbone:
    """A backbone that the sampler can work with: a plain one, one with layers to see, or one with content aligned."""
    inner = {"name": "lightgcn"}
    hosts: list[tuple[str, dict[str, Any]]] = [("lightgcn", {}), ("lightgcn", {"keep_layers": True}), ("vbpr", {})]
    for name, chosen in [*hosts, ("aligned", {"inner": inner})]:
        host: Backbone = _seeded(partial(parts.build, "backbone", name, data, **chosen))
        try:
            part(data, **options).begin_epoch(0, host, host.propagate())
        except PartsDoNotFit:
            continue
        break
    return host


def check_sampler(part: type[Sampler], **options: Any) -> None:
    """Shapes and ranges, no seen item, the same draws for any batch size, other draws for another epoch or seed."""
    check_documented(part)
    data, name = small_world(), part.__name__
    model = _host(part, data, {**_inner_parts(part, data), **options})
    tables = model.propagate()

    def draw(batch: Batch, seed: int = 0) -> Negatives:
        batch = replace(batch, seed=seed)
        sampler: Sampler = _seeded(lambda: part(data, **{**_inner_parts(part, data), **options}))
        sampler.seed = seed
        sampler.begin_epoch(batch.epoch, model, tables)
        drawn: Negatives = sampler(tables, batch, model.query(tables, batch))
        return drawn

    _check_form(name, draw(_batch(data, 40)), 40, data, model, tables)
    whole = draw(_batch(data, 40, epoch=1))  # in epoch 0 a curriculum may not have begun
    _check_form(name, whole, 40, data, model, tables)
    _must(draw(_batch(data, 1)).shape[0] == 1, f"{name}: a batch of one row gets more or fewer rows of negatives.")
    if whole.ids is None:
        return
    _must(
        not data.seen.contains(_batch(data, 40).users, whole.ids).any(),
        f"{name}: drew an item that the user took in training.",
    )
    if not part.shares_batch:
        halves = torch.cat([_ids(draw(_batch(data, 20, first, epoch=1))) for first in (0, 20)])
        _must(torch.equal(halves, whole.ids), f"{name}: two half batches draw other items than the whole.")
    batch, later = _batch(data, 40, epoch=1), _batch(data, 40, epoch=2)
    _must(torch.equal(_ids(draw(batch)), whole.ids), f"{name}: the same seed draws other items.")
    _must(not torch.equal(_ids(draw(later)), whole.ids), f"{name}: every epoch draws the same items.")
    _must(not torch.equal(_ids(draw(batch, seed=1)), whole.ids), f"{name}: every seed draws the same items.")
    _check_full_user(part, options)


def _ids(negatives: Negatives) -> Tensor:
    assert negatives.ids is not None
    return negatives.ids


def _check_form(name: str, drawn: Negatives, rows: int, data: Data, model: Backbone, tables: Tables) -> None:
    vectors = drawn.look_up(model, tables)
    _must(
        vectors.dim() == 3 and vectors.shape[0] == rows and vectors.shape[2] == tables.items.shape[1],
        f"{name}: negatives look up to {tuple(vectors.shape)}, and must be [B, K, D].",
    )
    _must(torch.isfinite(vectors).all(), f"{name}: negatives are not finite.")
    for field in ("weights", "log_q", "level", "mask"):
        value = getattr(drawn, field)
        _must(value is None or value.shape == drawn.shape, f"{name}: {field} must be [B, K] = {drawn.shape}.")
    if drawn.ids is not None:
        _must(((drawn.ids >= 0) & (drawn.ids < data.n_items)).all(), f"{name}: ids outside 0 .. {data.n_items - 1}.")
    if drawn.log_q is not None:
        _must((drawn.log_q <= 0).all(), f"{name}: log_q above 0 is no log probability.")


def _check_full_user(part: type[Sampler], options: dict[str, Any]) -> None:
    """A user with one unseen item gets that one; a user with none gets an error."""
    items = torch.arange(8)
    for left in (1, 0):
        train = torch.stack(
            [
                torch.cat([torch.zeros(8 - left, dtype=torch.long), torch.ones(2, dtype=torch.long)]),
                torch.cat([items[: 8 - left], items[:2]]),
            ],
            1,
        )
        features = {"text": Features(torch.eye(8).numpy())}
        data = Data(2, 8, train, train[:0], train[:0], features)
        model = _seeded(partial(parts.build, "backbone", "lightgcn", data))
        tables, batch = model.propagate(), _batch(data, 3)
        try:
            sampler = part(data, **{**_inner_parts(part, data), **options})
            drawn = sampler(tables, batch, model.query(tables, batch)).ids
            _must(
                left > 0 and drawn is not None and bool((drawn == 7).all()),
                f"{part.__name__}: a user with {left} unseen items got {drawn}.",
            )
        except BadData:
            _must(not left, f"{part.__name__}: a user with one unseen item got an error instead of it.")


def check_loss(part: type[Loss], **options: Any) -> None:
    """Prefers a better positive, stays finite at +-1e4, does not look at masked columns, and can be learned by."""
    check_documented(part)
    loss, name = part(**options), part.__name__
    log_q = torch.full((4, 3), 1 / 60).log()
    plain = Negatives(ids=torch.zeros(4, 3, dtype=torch.long), log_q=log_q)
    negative = torch.zeros(4, 3)
    low, high = (float(loss(torch.full((4,), level), negative, plain)) for level in (-1.0, 1.0))
    _must(high < low, f"{name}: a better positive does not lower the loss ({low} to {high}).")
    for level in (1e4, -1e4):
        positive = torch.full((4,), level, requires_grad=True)
        value = loss(positive, -positive[:, None].expand(4, 3), plain)
        value.backward()
        _must(
            torch.isfinite(value) and positive.grad is not None and torch.isfinite(positive.grad).all(),
            f"{name}: not finite for scores of {level:g}.",
        )
    mask = torch.tensor([[True, True, False]]).expand(4, 3)
    masked = Negatives(ids=torch.zeros(4, 3, dtype=torch.long), log_q=log_q, mask=mask)
    values = [float(loss(torch.ones(4), torch.tensor([[0.5, 0.2, x]]).expand(4, 3), masked)) for x in (0.0, 9.0)]
    _must(values[0] == values[1], f"{name}: a masked negative changes the loss.")
    _check_learning(_seeded(lambda: parts.build("backbone", "bprmf", small_world())), small_world(), loss)


def check_optimizer(part: type[torch.optim.Optimizer]) -> None:
    """Goes downhill with a closure, and continues alike from its saved state."""
    check_documented(part)

    def descend(steps: int, start: Tensor, state: dict[str, Any] | None = None) -> Iterator[tuple[float, Any, Tensor]]:
        weight = torch.nn.Parameter(start.clone())
        optimizer: Any = part([weight], lr=0.1)  # type: ignore[call-arg]
        if state is not None:
            optimizer.load_state_dict(state)
        for _ in range(steps):

            def closure() -> Tensor:
                optimizer.zero_grad()
                loss = (weight - 3).square().sum()
                loss.backward()
                return loss

            yield optimizer.step(closure).item(), optimizer.state_dict(), weight.detach().clone()

    whole = list(descend(20, torch.zeros(3, 2)))
    _must(whole[-1][0] < whole[0][0], f"{part.__name__}: 20 steps on a parabola did not go down.")
    *_, (_, state, weight) = descend(10, torch.zeros(3, 2))
    *_, (_, _, end) = descend(10, weight, _copied(state))
    _must(torch.equal(end, whole[-1][2]), f"{part.__name__}: a saved and restored state continues differently.")


def _copied(state: Any) -> Any:
    from copy import deepcopy

    return deepcopy(state)


def check_reader(part: type[Reader], **options: Any) -> None:
    """Numbers within range, no pair both in training and held out, ids for every number. Needs options to read."""
    check_documented(part)
    needed = [o.name for o in parts.options(part).values() if o.default is parts.Option.REQUIRED]
    if set(needed) - set(options) or "path" in set(parts.options(part)) - set(options):
        return  # nothing to read without a path: the documentation is all that can be checked
    name = part.__name__
    try:
        data = part(**options).read()
    except BadData as error:  # numbers out of range, or features that are no row an item
        raise ContractBroken(f"{name}: {error}") from error
    for phase in ("train", "valid", "test"):
        pairs = getattr(data, phase)
        held = phase != "train" and data.seen.contains(pairs[:, 0].contiguous(), pairs[:, 1:].contiguous()).any()
        _must(not held, f"{name}: {phase} holds pairs that are in train too.")
    for ids, count in ((data.user_ids, data.n_users), (data.item_ids, data.n_items)):
        _must(ids is None or len(ids) == count, f"{name}: {count} numbers and {len(ids or ())} raw ids.")
