"""LATTICE's epoch beside its dense form, which holds and multiplies matrices of items by items."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from benchmarks import training, usual, world
from benchmarks.clock import Row, Timing, timed
from foilrec import parts
from foilrec.data import Data
from foilrec.evaluation import Protocol, evaluate
from foilrec.numerics import memory
from foilrec.trainer import Objective


def top_cosines(features: Tensor, k: int = 10) -> Tensor:
    """[I, I] with the k largest cosines of each row, zero elsewhere."""
    rows = normalize(features, dim=1)
    values, columns = (rows @ rows.T).topk(k, dim=1)
    return torch.zeros(len(rows), len(rows)).scatter(1, columns, values)


def normalised(graph: Tensor) -> Tensor:
    """D^-1/2 S D^-1/2 as two products with a diagonal matrix."""
    root = torch.diag(graph.sum(1).clamp(min=1e-7).rsqrt())
    return root @ graph @ root


class DenseLATTICE(usual.UsualLightGCN):
    """Trainable feature tables, dense graphs, the learned one built anew on an epoch's first batch with gradient."""

    def __init__(self, data: Data, dim: int = 64, skip: float = 0.9) -> None:
        super().__init__(data, dim)
        tables = [torch.from_numpy(each.rows).clone() for each in data.features.values()]
        self.tables = nn.ModuleList(nn.Embedding.from_pretrained(table, freeze=False) for table in tables)
        self.maps = nn.ModuleList(nn.Linear(table.shape[1], dim) for table in tables)
        self.mix, self.skip, self.first = nn.Parameter(torch.full((len(tables),), 0.5)), skip, True
        self.frozen = [normalised(top_cosines(table)) for table in tables]
        self.alike = torch.empty(0)

    def begin_epoch(self) -> None:
        """The next batch builds the graph."""
        self.first = True

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """BPR on the smoothed rows with the item graph's beside them."""
        if self.first:
            shares = self.mix.softmax(0)
            made = [top_cosines(to(table.weight)) for to, table in zip(self.maps, self.tables, strict=True)]
            learned = normalised(sum(share * graph for share, graph in zip(shares, made, strict=True)))
            frozen = sum(share * graph for share, graph in zip(shares, self.frozen, strict=True))
            alike, self.first = (1 - self.skip) * learned + self.skip * frozen, False
            self.alike = alike.detach()
        else:
            alike = self.alike
        u, i = self.walk()
        i = i + normalize(alike @ self.items.weight, dim=1)
        gap = (u[users] * i[positives]).sum(1) - (u[users] * i[negatives]).sum(1)
        return -nn.functional.logsigmoid(gap).mean()


def summed(*parts: Timing) -> Timing:
    """One after the other."""
    return Timing(sum(part.cpu for part in parts), sum(part.wall for part in parts))


def times(timing: Timing, factor: float) -> Timing:
    """So many of them."""
    return Timing(timing.cpu * factor, timing.wall * factor)


def dense(data: Data) -> dict[str, Timing]:
    """The build with its gradient, the epoch with it, and the validation, where each block of users builds anew."""
    model = DenseLATTICE(data)
    adam, source = usual.optimizer(model), usual.batches(data, training.BATCH)

    def step() -> None:
        adam.zero_grad()
        model.loss(*next(source)).backward()
        adam.step()

    @torch.no_grad()
    def built() -> None:
        model.first = True
        model.loss(*(torch.zeros(1, dtype=torch.long),) * 3)

    step()  # Adam's state is made
    model.begin_epoch()
    first, other = timed(step), timed(step, 6)
    blocks = -(-len(data.test[:, 0].unique()) // 4096)
    users, items = model.walk()
    ranking = timed(lambda: usual.evaluate(users.detach(), items.detach(), data))
    build = Timing(first.cpu - other.cpu, first.wall - other.wall)
    epoch = summed(build, times(other, len(data.train) / training.BATCH))
    return {"build": build, "epoch": epoch, "both": summed(epoch, times(timed(built), blocks), ranking)}


def ours(data: Data, train_features: bool) -> dict[str, Timing]:
    """The same of ours: an epoch's search, the first step, which alone trains the graph, the others, and evaluation.

    An epoch that follows an evaluation searches no more: the graph has not changed since.
    """
    model = parts.build("backbone", "lattice", data, train_features=train_features)
    objective = Objective(model, parts.build("sampler", "uniform", data), parts.build("loss", "bpr")).train()
    adam, source = parts.build("optimizer", "adam", model.parameters()), data.batches(training.BATCH, 0)
    model.begin_epoch(0)

    def step() -> None:
        adam.zero_grad()
        objective(next(source)).backward()
        adam.step()

    step()
    search, first, other = timed(lambda: model.begin_epoch(1)), timed(step), timed(step, 20)
    more = Timing(first.cpu - other.cpu, first.wall - other.wall)
    steps, build = times(other, len(data.train) / training.BATCH), summed(search, more)
    ranking = timed(lambda: evaluate(model.eval(), Protocol()))
    after = timed(lambda: model.train().begin_epoch(2))
    return {"build": build, "epoch": summed(build, steps), "both": summed(after, more, steps, ranking)}


def rows() -> list[Row]:
    """Both forms at Baby's size; ours with frozen features, and trained as the dense form has them."""
    data = world.like_baby({"image": 4096, "text": 384})
    theirs = dense(data)
    memory.keep_large_blocks()
    found = []
    for kind, trained in (("frozen features", False), ("trainable features", True)):
        mine = ours(data, trained)
        for key, what in (("build", "item graph, once"), ("epoch", "epoch"), ("both", "epoch and evaluation")):
            found.append(training.row(f"LATTICE, {kind}: {what}", mine[key], theirs[key], 50))
    return found
