"""The training loop, for every backbone, sampler, loss and optimizer: a generator that yields after each epoch."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor, nn

from foilrec.core import Backbone, Batch, Loss, Negatives, Sampler, Tables, score
from foilrec.errors import RunBroken
from foilrec.evaluation import Protocol, evaluate
from foilrec.hardness import Meter
from foilrec.numerics.memory import vectors_must_fit
from foilrec.settings import Settings

__all__ = ["Epoch", "Objective", "Progress", "Settings", "Trainer"]

State = dict[str, Any]
Turn = Literal["both", "sampler", "model"]


@dataclass(frozen=True)
class Epoch:
    """What there is to tell after an epoch: its number from 0, mean loss a row, seconds of training, validation means
    if any, and how hard the negatives were (the plain values of hardness.Reading, by part of the draws)."""

    number: int
    loss: float
    wall_seconds: float
    cpu_seconds: float
    valid: dict[str, float] | None
    best: bool
    last: bool
    hardness: dict[str, dict[str, Any]] | None = None


@dataclass
class Progress:
    """Where a training stands: everything that early stopping remembers."""

    epoch: int = 0
    best: float = float("-inf")
    best_epoch: int = -1
    without_gain: int = 0
    done: bool = False


class Objective(nn.Module):
    """The heart: tables, query, negatives, ranking loss, and what the parts want besides. One batch -> a scalar."""

    def __init__(self, model: Backbone, sampler: Sampler, loss: Loss) -> None:
        super().__init__()
        self.model, self.sampler, self.loss = model, sampler, loss

    def forward(self, batch: Batch, turn: Turn = "both") -> Tensor:
        """The total loss of one batch, or the part of it by which the backbone, or the sampler, learns in its turn."""
        if turn == "sampler":
            with torch.no_grad():
                tables = self.model.step_tables(batch)
                query = self.model.query(tables, batch)
            return self.sampler.own_loss(tables, batch, query)
        tables = self.model.step_tables(batch)
        if not self.model.ranking_weight:
            nothing = Negatives(ids=batch.positives.new_empty(len(batch), 0))
            return self.model.own_loss(tables, batch, nothing)
        query = self.model.query(tables, batch)
        with torch.no_grad() if not any(p.requires_grad for p in self.sampler.parameters()) else torch.enable_grad():
            negatives = self.sampler(tables, batch, query)
        ranking, negative = self._ranking(tables, batch, query, negatives)
        self.sampler.feedback(batch, negatives, negative.detach())
        total: Tensor = self.model.ranking_weight * ranking + self.model.own_loss(tables, batch, negatives)
        return total if turn == "model" else total + self.sampler.own_loss(tables, batch, query)

    def _ranking(self, tables: Tables, batch: Batch, query: Tensor, negatives: Negatives) -> tuple[Tensor, Tensor]:
        """The ranking loss, and the scores of the negatives."""
        if negatives.ids is not None and not self.loss.wants_vectors:
            positive, negative = tables.scores(query, batch.positives, negatives.ids)
            return self.loss(positive, negative, negatives), negative
        vectors_must_fit(query, negatives.shape[1])
        vectors = negatives.look_up(self.model, tables)
        negative = score(query, vectors)
        ranking = self.loss.of_vectors(self.model.data, tables, batch, query, vectors, negatives)
        if ranking is None:
            ranking = self.loss(score(query, tables.item_rows(batch.positives)), negative, negatives)
        return ranking, negative


class Trainer:
    """Runs epochs as long as someone asks for the next: `for epoch in trainer.epochs(): ...`.

    After each yield, state() is everything that a later Trainer of the same parts needs to go on bit for bit, and
    best() the weights of the best epoch so far.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        settings: Settings,
        protocol: Protocol,
        *,
        seed: int = 0,
        on_step: Callable[[int, int], None] | None = None,
    ) -> None:
        self.objective, self.optimizer, self.settings = objective, optimizer, settings
        self.protocol, self.seed, self.on_step = protocol, seed, on_step
        self.progress = Progress()
        self._best: dict[str, Tensor] = {}
        self._best_sampler: dict[str, Any] = {}
        model, rows = objective.model, settings.meter
        self._meter = Meter(model.data, rows, seed=seed, history=model.history) if rows else None

    def epochs(self) -> Iterator[Epoch]:
        """One Epoch after another until the last; a resumed trainer starts where its state stood."""
        while not self.progress.done:
            wall, cpu = time.perf_counter(), time.process_time()
            number = self.progress.epoch
            loss = self._run(number)
            spent = time.perf_counter() - wall, time.process_time() - cpu
            hardness = self._measure(number)
            due = (number + 1) % self.settings.every == 0 or number + 1 == self.settings.epochs
            valid = evaluate(self.objective.model, self.protocol).means if due else None
            best = self._note(number, valid)
            yield Epoch(number, loss, *spent, valid, best, self.progress.done, hardness)

    def _measure(self, number: int) -> dict[str, dict[str, Any]] | None:
        """How hard the sampler's negatives are at the end of an epoch: told, and never fed back."""
        if self._meter is None:
            return None
        parts = self.objective
        readings = self._meter(parts.model, parts.sampler, parts.loss, number)
        return {name: reading.as_dict() for name, reading in readings.items()}

    def _run(self, number: int) -> float:
        model, sampler, data = self.objective.model, self.objective.sampler, self.objective.model.data
        self.objective.train()
        model.begin_epoch(number)
        with torch.no_grad():
            sampler.begin_epoch(number, model, model.propagate())
        losses: list[Tensor] = []  # read after the epoch: a GPU need not wait for the next batch
        device = next(model.parameters()).device
        steps = data.steps(self.settings.batch, self.seed, number, model.history)
        turns = _turns(sampler)
        for step, (turn, rows) in enumerate(product(turns, steps), 1):
            batch = data.batch(rows, number, seed=self.seed, history=model.history)
            try:
                losses.append(self._step(batch.to(device), turn) * len(rows))
            except RunBroken:
                if all(map(torch.isfinite, losses)):
                    raise
                break  # the loss was lost before, as is told below
            if self.on_step is not None:
                self.on_step(step, len(turns) * len(steps))
        mean = float(torch.stack(losses).cpu().double().sum()) / sum(map(len, steps))
        if mean != mean or abs(mean) == float("inf"):
            raise RunBroken(
                f"The loss became {mean} in epoch {number}: lower optimizer.lr, or look at the features "
                "with `foilrec data validate`."
            )
        model.end_epoch(number)
        return mean

    def _step(self, batch: Batch, turn: Turn = "both") -> Tensor:
        def closure() -> Tensor:
            self.optimizer.zero_grad(set_to_none=True)
            loss: Tensor = self.objective(batch, turn)
            loss.backward()
            if turn == "sampler":  # item rows carry gradients wherever tables are not made anew: they are not for now
                self.objective.model.zero_grad(set_to_none=True)
            return loss.detach()

        return self.optimizer.step(closure)  # type: ignore[return-value, arg-type]

    def _note(self, number: int, valid: dict[str, float] | None) -> bool:
        """Updates the progress after an epoch; whether it is the best so far."""
        at, best = self.progress, False
        at.epoch = number + 1
        if valid is not None:
            best = valid[self.settings.select] > at.best
            at.without_gain = 0 if best else at.without_gain + 1
            if best:
                at.best, at.best_epoch = valid[self.settings.select], number
                self._best = copy(self.objective.model.state_dict())
                self._best_sampler = copy(self.objective.sampler.state_dict())
        out_of_patience = self.settings.patience and at.without_gain >= self.settings.patience
        at.done = at.epoch >= self.settings.epochs or bool(out_of_patience)
        return best

    def best(self) -> dict[str, Tensor]:
        """The weights of the best epoch so far."""
        return self._best

    def best_sampler(self) -> dict[str, Any]:
        """What the sampler had learnt by then; nothing of one that learns nothing."""
        return self._best_sampler

    def state(self) -> State:
        """Weights, moments, sampler, stopping state: a tree of tensors and plain values. The seed and the epoch
        number stand for every random stream."""
        return {
            "objective": copy(self.objective.state_dict()),
            "best": self._best,
            "best_sampler": self._best_sampler,
            "optimizer": copy(self.optimizer.state_dict()),
            "progress": asdict(self.progress),
        }

    def load_state(self, state: State) -> None:
        """Goes back to where state() was taken."""
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._best, self._best_sampler = state["best"], state.get("best_sampler", {})
        self.progress = Progress(**state["progress"])


def _turns(sampler: Sampler) -> tuple[Turn, ...]:
    """Who learns in each pass over an epoch's batches; a sampler inside another counts too."""
    alternates = any(isinstance(part, Sampler) and part.alternates for part in sampler.modules())
    return ("sampler", "model") if alternates else ("both",)


def copy(tree: Any) -> Any:
    """The same nested dicts and lists with every tensor copied, onto the CPU: a GPU holds what it works on."""
    if isinstance(tree, Tensor):
        return tree.detach().to("cpu", copy=True)
    if isinstance(tree, dict):
        return {key: copy(value) for key, value in tree.items()}
    return [copy(value) for value in tree] if isinstance(tree, list | tuple) else tree
