"""The contract: what the parts hand each other, and what each kind of part must do.

Letters used for shapes everywhere: B batch, K negatives, M candidates, D dimension, F feature width, U users, I items.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from foilrec.data import Batch, Data
from foilrec.errors import BadOption, PartsDoNotFit, RunBroken
from foilrec.numerics import shapes, streams
from foilrec.numerics.angles import cosine
from foilrec.numerics.memory import must_fit, vectors_must_fit
from foilrec.numerics.rows import RowScores, scores_once, squared_once

__all__ = ["Backbone", "Batch", "Data", "Loss", "Negatives", "Reader", "Sampler", "Tables", "score"]

RowsOf = Callable[[Tensor], Tensor]
_Looked = dict[tuple[str, int], tuple[Tensor, Tensor]]


@dataclass
class Tables:
    """What a backbone knows before it sees a batch: items [I, D], users [U, D], the items of each layer in layers.

    A backbone whose loss needs more returns its own subclass: nothing is stashed on self between two calls.
    """

    items: Tensor
    users: Tensor | None = None
    layers: tuple[Tensor, ...] = ()
    _looked_up: _Looked = field(default_factory=dict, init=False, repr=False, compare=False)

    def item_rows(self, ids: Tensor) -> Tensor:
        """Item vectors with gradient: ids [...] -> [..., D]. Asked again with the same tensor, gives the same rows."""
        return self._once("items", ids, self.compose_items)

    def user_rows(self, ids: Tensor) -> Tensor:
        """User vectors with gradient: ids [B] -> [B, D]."""
        return self._once("users", ids, self.compose_users)

    def scores(self, query: Tensor, positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
        """The scores of items, each row read once: query [B, D], positives [B], negatives [B, K] -> [B], [B, K]."""
        if negatives.shape[1] > 1 and RowScores.serves(query):
            return scores_once(query, positives, negatives, self.item_rows)
        vectors_must_fit(query, negatives.shape[1])
        return score(query, self.item_rows(positives)), score(query, self.item_rows(negatives))

    def compose_items(self, ids: Tensor) -> Tensor:
        """What item_rows gives the first time: a backbone that makes items up from parts overrides it."""
        return embedding(ids, self.items)

    def compose_users(self, ids: Tensor) -> Tensor:
        """What user_rows gives the first time."""
        if self.users is None:
            raise PartsDoNotFit("This backbone has no table of users: its query comes from the history of a batch.")
        return embedding(ids, self.users)

    def _once(self, side: str, ids: Tensor, look_up: RowsOf) -> Tensor:
        """A ranking loss and a penalty read the same rows: gathered once, their gradients are added up once too.

        Rows that a sampler looked at without gradient are none for a loss, and are not kept.
        """
        if not torch.is_grad_enabled():
            return look_up(ids)
        key = side, id(ids)
        if key not in self._looked_up:
            self._looked_up[key] = ids, look_up(ids)
        return self._looked_up[key][1]


@dataclass
class Negatives:
    """K negatives a row, in exactly one of three forms.

    ids       [B, K]             items that exist
    vectors   [B, K, D]          points in the space of scores that no item is
    features  {m: [B, K, F_m]}   items that do not exist, but can be described; the backbone encodes them

    base      [B, K]  which item each described one is a variant of (None: of none)
    weights   [B, K]  how much each counts (None: all alike)
    log_q     [B, K]  log probability with which it was drawn (None: unknown)
    level     [B, K]  difficulty stage, 0 the easiest (None: not graded)
    mask      [B, K]  False where a row has no negative in that column (None: none missing)
    labels    [B, K]  how far each is liked after all, 0 .. 1, for losses that take it (None: not at all)
    group     (K,)    which of the joined sources each column came from
    """

    ids: Tensor | None = None
    vectors: Tensor | None = None
    features: Mapping[str, Tensor] | None = None
    base: Tensor | None = None
    weights: Tensor | None = None
    log_q: Tensor | None = None
    level: Tensor | None = None
    mask: Tensor | None = None
    labels: Tensor | None = None
    group: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if sum(form is not None for form in (self.ids, self.vectors, self.features)) != 1:
            raise BadOption("Negatives take exactly one of ids, vectors and features.")

    @property
    def shape(self) -> tuple[int, int]:
        """(B, K)."""
        form = next(x for x in (self.ids, self.vectors, *(self.features or {}).values()) if x is not None)
        return int(form.shape[0]), int(form.shape[1])

    def look_up(self, model: "Backbone", tables: Tables) -> Tensor:
        """The vectors to score, [B, K, D]."""
        if self.ids is not None:
            return tables.item_rows(self.ids)
        if self.vectors is not None:
            return self.vectors
        return model.encode(self.features or {}, self.base)

    @staticmethod
    def join(sources: Iterable["Negatives"], model: "Backbone", tables: Tables) -> "Negatives":
        """All columns of several sources side by side; forms that differ are looked up and become vectors."""
        parts = list(sources)
        same = all(p.ids is not None for p in parts)
        form: dict[str, Any] = (
            {"ids": torch.cat([p.ids for p in parts if p.ids is not None], 1)}
            if same
            else {"vectors": torch.cat([p.look_up(model, tables) for p in parts], 1)}
        )
        first = next(iter(form.values()))
        for name, blank in (("weights", 1.0), ("level", 0.0), ("mask", 1.0), ("labels", 0.0)):
            columns = [getattr(p, name) for p in parts]
            given = [c for c in columns if c is not None]
            if given:
                filled = [
                    torch.full(p.shape, blank, device=first.device).to(given[0].dtype) if c is None else c
                    for p, c in zip(parts, columns, strict=True)
                ]
                form[name] = torch.cat(filled, 1)
        known = [p.log_q for p in parts if p.log_q is not None]
        form["log_q"] = torch.cat(known, 1) if len(known) == len(parts) else None  # half a law is no law
        return Negatives(**form, group=tuple(i for i, p in enumerate(parts) for _ in range(p.shape[1])))


def score(query: Tensor, vectors: Tensor) -> Tensor:
    """The only score there is, a dot product: query [B, D], vectors [B, K, D] or [B, D] -> [B, K] or [B]."""
    if vectors.dim() == 2 or vectors.shape[1] == 1:  # a product of 1 x D matrices costs far more than a sum
        return ((query if vectors.dim() == 2 else query[:, None]) * vectors).sum(-1)
    return torch.bmm(vectors, query.unsqueeze(2)).squeeze(2)


def batch_rows(tables: Tables, batch: Batch, negatives: Negatives) -> list[Tensor]:
    """What a step touches, for penalties of squares: rows of users, of positives, and of negatives that are items."""
    rows = [tables.user_rows(batch.users), tables.item_rows(batch.positives)]
    return rows if negatives.ids is None else [*rows, squared_once(negatives.ids, tables.item_rows)]


class Backbone(nn.Module):
    """A recommender: turns data into vectors whose dot product is the score. Only propagate must be written.

    ranking_weight: how much the ranking loss counts beside own_loss. At 0 no negatives are drawn: own_loss gets a
    Negatives of no columns, and the sampler is not asked. history: how many past items query reads, at most, off
    batch.history; with any, batches hold whole sequences and rows without a past are not trained on.
    """

    ranking_weight: float = 1.0
    history: int = 0

    def __init__(self, data: Data) -> None:
        super().__init__()
        self.data = data
        self.seed = 0  # set by whoever runs the part, before the first epoch
        self.row_gradients = False

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user must be told before training: how much of the data the part serves, say."""
        return ()

    def begin_epoch(self, epoch: int) -> None:
        """Refresh what changes once an epoch (a pruned graph, say): a function of (self.seed, epoch)."""

    def end_epoch(self, epoch: int) -> None:
        """Refresh what evaluation and the next epoch's sampler need, after the last step: see begin_epoch."""

    def inputs(self) -> Tensor:
        """What the items bring to the graph, [I, D]: their free rows. Needed only by wrappers that replace it."""
        raise NotImplementedError(f"{type(self).__name__} has no item inputs to replace")

    def ego(self) -> Tensor:
        """inputs(), smoothed where the method smooths items before anything else, [I, D]."""
        return self.inputs()

    def propagate(self, inputs: Tensor | None = None) -> Tables:
        """Everything that does not depend on the batch; `inputs` [I, D] stands in for inputs()."""
        raise NotImplementedError

    def step_tables(self, batch: Batch, inputs: Tensor | None = None) -> Tables:
        """What a training step reads: propagate(inputs), unless it depends on the items that the step touches."""
        return self.propagate(inputs)

    def query(self, tables: Tables, batch: Batch) -> Tensor:
        """The vector [B, D] that stands for each row's user."""
        return tables.user_rows(batch.users)

    def encode(self, features: Mapping[str, Tensor], base: Tensor | None = None) -> Tensor:
        """Vectors [..., D] of items that are only described, {m: [..., F_m]}; base [...]: what they are variants of."""
        raise PartsDoNotFit(
            f"{type(self).__name__} cannot encode an item that it was not trained on: take a backbone "
            "with a feature encoder, such as vbpr."
        )

    def own_loss(self, tables: Tables, batch: Batch, negatives: Negatives) -> Tensor:
        """What the backbone wants besides the ranking loss (a regulariser, a self-supervised term): a scalar."""
        return torch.zeros((), device=batch.users.device)

    def use_row_gradients(self) -> bool:
        """Ask for row-sparse gradients where tables are looked up and not walked; True if the backbone can."""
        return False


class Sampler(nn.Module):
    """Chooses, or makes up, the negatives. Only forward must be written.

    Thrown away after training: what must serve lives in the backbone. log_q_is says how far Negatives.log_q can be
    trusted: "exact", "approximate" or "absent". shares_batch says that the rows of a batch draw from something in
    common, so that a draw depends on which rows are together; elsewhere it must not. The class says what holds with its
    defaults, and an instance what holds with its options.

    lr: the learning rate of its own parameters (None: the optimizer's). alternates: in every epoch own_loss is
    minimised in a pass of its own over the batches, while the backbone stands still, before the pass in which the
    sampler does. begins: the first epoch in which it has more to give than easy negatives.
    """

    log_q_is: str = "absent"
    shares_batch: bool = False
    lr: float | None = None
    alternates: bool = False
    begins: int = 0

    def __init__(self, data: Data) -> None:
        super().__init__()
        self.data = data
        self.seed = 0  # set by whoever runs the part, before the first epoch

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user must be told before training: how much of the data the part serves, say."""
        return ()

    def begin_epoch(self, epoch: int, model: Backbone, tables: Tables) -> None:
        """Refresh what changes once an epoch (a pool, a memory, a difficulty)."""

    def __call__(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        """forward, once what it is handed is as it must be: compiled loops look at no shapes."""
        wrong = shapes.wrong_query(query, len(batch))
        if not wrong and type(tables) is Tables:  # those of a backbone's own kind may not be made yet
            wrong = shapes.wrong_tables(tables.items, query, self.data.n_items)
        if wrong:
            raise BadOption(wrong)
        if lost := shapes.lost_rows(query):
            raise RunBroken(lost)
        made: Negatives = super().__call__(tables, batch, query)
        if not isinstance(made, Negatives) or made.shape[0] != len(batch):
            gave = f"{made.shape[0]} rows of Negatives" if isinstance(made, Negatives) else type(made).__name__
            raise BadOption(f"{type(self).__name__} gave {gave} for a batch of {len(batch)}: give a row each.")
        if wrong := shapes.wrong_items(made.ids, self.data.n_items):
            raise BadOption(f"{type(self).__name__} gave {wrong}")
        return made

    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        """Negatives for each row: selection runs without gradient, the chosen ones are scored with it."""
        raise NotImplementedError

    def own_loss(self, tables: Tables, batch: Batch, query: Tensor) -> Tensor:
        """What the sampler itself must learn, on detached vectors: a scalar."""
        return torch.zeros((), device=query.device)

    def feedback(self, batch: Batch, negatives: Negatives, scores: Tensor) -> None:
        """Hear how the drawn negatives scored, [B, K] without gradient."""

    def key(self, batch: Batch, stream: str = "") -> int:
        """The key of this sampler's draws in the batch's epoch; another stream name, other draws."""
        return streams.key(self.seed, "draw", stream, batch.epoch)

    def unseen(self, batch: Batch, count: int, stream: str = "") -> Tensor:
        """Uniform items [B, count] that each row's user did not take in training: exact, and never a loop."""
        if batch.users.device.type == "cpu":
            what = f"{type(self).__name__}: {count:,} candidates for each of {len(batch):,} rows"
            must_fit(what, 8 * len(batch) * count, "lower its count or pool, or train.batch")
        return self.data.seen.unseen(batch.users, rows_of(batch), count, self.key(batch, stream))


def rows_of(batch: Batch) -> Tensor:
    """The training rows of a batch, which its draws depend on."""
    if batch.rows is None:
        raise BadOption(
            "This batch does not say which training rows it holds, and draws depend on them: make it with "
            "Batch(users, positives, rows=..., epoch=...), or take it from data.batches() or data.batch()."
        )
    return batch.rows


class Loss(nn.Module):
    """Compares the positive's score with its negatives'. Only forward must be written.

    cosine: forward is to hear cosines and not dot products. What is served stays ranked by dot products.
    """

    cosine: bool = False

    @property
    def wants_vectors(self) -> bool:
        """Whether of_vectors has something to say."""
        return self.cosine or type(self).of_vectors is not Loss.of_vectors

    def __call__(self, positive: Tensor, negative: Tensor, negatives: Negatives) -> Tensor:
        """forward, once the scores are as they must be: of other shapes they would spread into another loss."""
        if wrong := shapes.wrong_scores(positive, negative):
            raise BadOption(wrong)
        made: Tensor = super().__call__(positive, negative, negatives)
        return made

    def forward(self, positive: Tensor, negative: Tensor, negatives: Negatives) -> Tensor:
        """positive [B], negative [B, K] -> a scalar; negatives carry weights, mask and log_q."""
        raise NotImplementedError

    def of_vectors(
        self, data: Data, tables: Tables, batch: Batch, query: Tensor, vectors: Tensor, negatives: Negatives
    ) -> Tensor | None:
        """The loss of a step off its query [B, D] and negatives' vectors [B, K, D]; None: forward is asked instead.

        For losses that need more than dot products. forward must be written all the same: who has scores alone asks it.
        """
        if not self.cosine:
            return None
        positives = tables.item_rows(batch.positives)
        return self(cosine(query, positives), cosine(query, vectors), negatives)


class Reader:
    """Brings one kind of data set into the house. Only read must be written."""

    def read(self) -> Data:
        """The data set, or BadData that says which file, line, column and value are wrong."""
        raise NotImplementedError
