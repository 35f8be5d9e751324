"""An epoch of sasrec and gru4rec on data of Beauty's size, ours and the usual form, padded to 50 items."""

import random
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmarks import usual, world
from benchmarks.clock import Row, Timing
from benchmarks.training import per_epoch
from foilrec import parts
from foilrec.data import Data
from foilrec.numerics import memory
from foilrec.trainer import Objective

LENGTH, USERS, ROWS = 50, 128, 1024  # items read; users a step of the usual form, rows a step of ours


class UsualSASRec(nn.Module):
    """Two blocks of torch's attention over padded sequences, masked."""

    def __init__(self, data: Data, dim: int = 64) -> None:
        super().__init__()
        self.items, self.places = nn.Embedding(data.n_items + 1, dim, padding_idx=0), nn.Embedding(LENGTH, dim)
        self.attention = nn.ModuleList(nn.MultiheadAttention(dim, 1, 0.5, batch_first=True) for _ in range(2))
        self.nets = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(0.5), nn.Linear(dim, dim)) for _ in range(2)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(5))
        self.drop = nn.Dropout(0.5)

    def states(self, items: Tensor) -> Tensor:
        """[S, LENGTH] -> [S, LENGTH, D]."""
        x = self.drop(self.items(items) * 8 + self.places(torch.arange(LENGTH)))
        empty, later = (items == 0)[..., None], torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
        for n, (attention, net) in enumerate(zip(self.attention, self.nets, strict=True)):
            normal = self.norms[2 * n](x)
            x = normal + attention(normal, x, x, attn_mask=later, need_weights=False)[0]
            x = self.norms[2 * n + 1](x)
            x = (x + self.drop(net(x))).masked_fill(empty, 0)
        found: Tensor = self.norms[4](x)
        return found


class UsualGRU4Rec(nn.Module):
    """One layer of torch's GRU over padded sequences."""

    def __init__(self, data: Data, dim: int = 64, hidden: int = 128) -> None:
        super().__init__()
        self.items = nn.Embedding(data.n_items + 1, dim, padding_idx=0)
        self.layer, self.dense = nn.GRU(dim, hidden, batch_first=True), nn.Linear(hidden, dim)
        self.drop = nn.Dropout(0.3)

    def states(self, items: Tensor) -> Tensor:
        """[S, LENGTH] -> [S, LENGTH, D]."""
        found: Tensor = self.dense(self.layer(self.drop(self.items(items)))[0])
        return found


def padded(data: Data) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """What was taken, what came next and one negative for it, [USERS, LENGTH] each, 0 before a sequence's start."""
    taken: list[list[int]] = [[] for _ in range(data.n_users)]
    for user, item in data.train.tolist():
        taken[user].append(item + 1)
    while True:
        three = torch.zeros(3, USERS, LENGTH, dtype=torch.long)
        for row, user in enumerate(random.sample(range(data.n_users), USERS)):
            last, known = taken[user][-LENGTH - 1 :], set(taken[user])
            for place in range(1, len(last)):
                negative = random.randint(1, data.n_items)
                while negative in known:
                    negative = random.randint(1, data.n_items)
                at = LENGTH - len(last) + place
                three[0, row, at], three[1, row, at], three[2, row, at] = last[place - 1], last[place], negative
        yield three[0], three[1], three[2]


def usual_form(model: UsualSASRec | UsualGRU4Rec, data: Data) -> Timing:
    """An epoch of the usual form: every user once."""
    adam = usual.optimizer(model.train())

    def step(batch: tuple[Tensor, Tensor, Tensor]) -> None:
        adam.zero_grad()
        items, positives, negatives = batch
        states, there = model.states(items), positives > 0
        for wanted, label in ((positives, 1.0), (negatives, 0.0)):
            scores = (states * model.items(wanted)).sum(2)[there]
            binary_cross_entropy_with_logits(scores, torch.full_like(scores, label)).backward(retain_graph=label > 0)
        adam.step()

    return per_epoch(step, padded(data), data.n_users / USERS)


def ours(data: Data, backbone: str) -> Timing:
    """An epoch of ours: every row once, stretch by stretch."""
    model, sampler = parts.build("backbone", backbone, data), parts.build("sampler", "uniform", data)
    objective = Objective(model, sampler, parts.build("loss", "bce")).train()
    adam = parts.build("optimizer", "adam", model.parameters())
    model.use_row_gradients()
    model.begin_epoch(0)

    def step(batch: object) -> None:
        adam.zero_grad()
        objective(batch).backward()
        adam.step()

    return per_epoch(step, data.batches(ROWS, 0, history=LENGTH), len(data.steps(ROWS, 0, 0, LENGTH)))


def rows() -> list[Row]:
    """Both backbones; the usual form runs first, with the allocator as it comes."""
    data, forms = world.like_beauty(), {"SASRec": UsualSASRec, "GRU4Rec": UsualGRU4Rec}
    theirs = {name: usual_form(form(data), data) for name, form in forms.items()}
    memory.keep_large_blocks()  # as foilrec.train does
    mine = {name: ours(data, name.lower()) for name in forms}
    note = f"CPU seconds an epoch; {data.n_users:,} users, {data.n_items:,} items, {len(data.train):,} rows"
    return [
        Row(name, mine[name].cpu, mine[name].wall, theirs[name].cpu, theirs[name].wall, note=note) for name in forms
    ]
