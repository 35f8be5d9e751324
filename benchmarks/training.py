"""An epoch of training at batch 2048 on data of Baby's size, ours and the usual form."""

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import torch

from benchmarks import curriculum, usual, world
from benchmarks.clock import Row, Timing
from foilrec import parts
from foilrec.core import Backbone
from foilrec.data import Data
from foilrec.graphs.sparse import neighbour_mean
from foilrec.losses.softmax import Softmax
from foilrec.numerics import memory
from foilrec.trainer import Objective

BATCH, WARM, ROUNDS, STEPS = 2048, 8, 4, 12  # an epoch has 57 whole batches
Make = Callable[[Backbone], Objective]
AXES, MANY = 128, 32  # axes as in the rows of CCDRec


class Gathered(Softmax):
    """The same loss, which is handed a vector for each negative because it might read them."""

    def of_vectors(self, *_: object) -> None:
        """It does not."""


def plain(model: Backbone) -> Objective:
    """BPR over one uniform negative."""
    return Objective(model, parts.build("sampler", "uniform", model.data), parts.build("loss", "bpr"))


def softmax(model: Backbone) -> Objective:
    """The sampled softmax over many."""
    return Objective(model, parts.build("sampler", "uniform", model.data, count=MANY), parts.build("loss", "softmax"))


def gathered(model: Backbone) -> Objective:
    """The same with vectors gathered."""
    return Objective(model, parts.build("sampler", "uniform", model.data, count=MANY), Gathered())


def per_epoch(step: Callable[..., object], batches: Iterable[object], steps: float) -> Timing:
    """The least of some rounds of steps, drawing batches included, after a few warm ones, for an epoch of `steps`.

    Other tenants of a machine slow whole seconds down: the least is what the work itself takes, of either form.
    """
    source, best = iter(batches), Timing(float("inf"), float("inf"))
    for batch in islice(source, WARM):
        step(batch)
    scale = steps / STEPS
    for _ in range(ROUNDS):
        wall, cpu = time.perf_counter(), time.process_time()
        for batch in islice(source, STEPS):
            step(batch)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        best = Timing(min(best.cpu, cpu * scale), min(best.wall, wall * scale))
    return best


def ours(data: Data, backbone: str, optimizer: str = "adam", *, objective: Make = plain, **options: object) -> Timing:
    """An epoch of ours, begin_epoch included."""
    model = parts.build("backbone", backbone, data, **options)
    heart = objective(model).train()
    adam = parts.build("optimizer", optimizer, model.parameters())
    if getattr(adam, "wants_rows", False):
        model.use_row_gradients()
    model.begin_epoch(0)
    cpu, wall = time.process_time(), time.perf_counter()
    model.begin_epoch(1)
    fixed = time.process_time() - cpu, time.perf_counter() - wall

    def step(batch: object) -> None:
        adam.zero_grad()
        heart(batch).backward()
        adam.step()

    timing = per_epoch(step, data.batches(BATCH, 0), len(data.train) / BATCH)
    return Timing(timing.cpu + fixed[0], timing.wall + fixed[1])


def many(data: Data) -> Iterator[Row]:
    """The softmax of many negatives, each item read once, beside the same with a vector gathered for each."""
    for name, backbone, optimizer in (("LightGCN", "lightgcn", "adam"), ("BPR-MF", "bprmf", "lazyadam")):
        one, other = (ours(data, backbone, optimizer, objective=form, emb_reg=1e-3) for form in (softmax, gathered))
        note = f"CPU seconds an epoch; {MANY} negatives, sampled softmax; usual: a vector gathered for each"
        yield Row(f"{name}, many negatives", one.cpu, one.wall, other.cpu, other.wall, None, note)


def usual_form(model: usual.Usual, data: Data) -> Timing:
    """An epoch of the usual form."""
    adam = usual.optimizer(model)
    model.begin_epoch()

    def step(batch: usual.Triples) -> None:
        adam.zero_grad()
        model.loss(*batch).backward()
        adam.step()

    return per_epoch(step, usual.batches(data, BATCH), len(data.train) / BATCH)


def row(what: str, mine: Timing, theirs: Timing, bar: float, note: str = "") -> Row:
    """Both timings in one row."""
    return Row(what, mine.cpu, mine.wall, theirs.cpu, theirs.wall, bar, f"CPU seconds an epoch{note}")


def rows() -> list[Row]:
    """Every training figure. The usual form runs first, with the allocator as it comes."""
    data = world.like_baby({"image": 4096, "text": 384})
    shares = zip(data.neighbours.values(), (0.1, 0.9), strict=True)
    entries = zip(*[neighbour_mean(graph.ids, share) for graph, share in shares], strict=True)
    rows, columns, values = (torch.cat(column) for column in entries)
    graph = usual.coo(rows, columns, values, (data.n_items, data.n_items))
    freedom = usual_form(usual.UsualFREEDOM(data, graph), data)
    lightgcn, bprmf = usual_form(usual.UsualLightGCN(data), data), usual_form(usual.UsualBPRMF(data), data)
    memory.keep_large_blocks()  # as foilrec.train does
    trainable = ours(data, "freedom", head_weight=1e-3, train_features=True)
    heads = [ours(data, "freedom", head_weight=1e-3, axes=axes) for axes in (None, AXES)]
    return [
        row("FREEDOM, frozen features", heads[0], freedom, 15, "; features whole"),
        row("FREEDOM, frozen features", heads[1], freedom, 15, f"; features on {AXES} axes"),
        row("FREEDOM, head weight 0", ours(data, "freedom", head_weight=0.0), freedom, 40),
        row("FREEDOM, trainable features", trainable, freedom, 4),
        row("LightGCN", ours(data, "lightgcn"), lightgcn, 4),
        row("BPR-MF", ours(data, "bprmf", "lazyadam", emb_reg=0.1), bprmf, 6),
        *many(data),
        *curriculum.rows(data, freedom),
    ]
