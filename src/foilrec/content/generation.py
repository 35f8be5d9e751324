"""A folder of generated negatives: begun, gone on with, interrupted, finished."""

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from foilrec.content.backends.replay import Replay
from foilrec.content.backends.rules import Rules
from foilrec.content.budget import Budget, Price
from foilrec.content.chat import Backend
from foilrec.content.crew import Stopped, beating, nap, shared
from foilrec.content.desk import Desk
from foilrec.content.encoder import Encoder
from foilrec.content.encoders import load
from foilrec.content.gates import Gates
from foilrec.content.goods import Goods
from foilrec.content.lexicons import WordLists, goods
from foilrec.content.listing import of_data
from foilrec.content.pipeline import Helper, Pipeline
from foilrec.content.planning import Estimate, Jobs, estimate, jobs
from foilrec.content.store import LEASE, Job, Outcome, Store
from foilrec.content.templates import MOST, VERSIONS
from foilrec.data import Data
from foilrec.errors import BadOption, ModelFailed

STORE = "store.sqlite"
IN_A_ROW = 5  # items that nobody answers for, before it is given up
Task = tuple[int, list[Job]]
KEPT = ("seed", "personal", "temperature", "word_lists", "chooses", "asked")  # of an order: what answers follow from


@dataclass(frozen=True)
class Order:
    """What is wanted.

    difficulties: how many key attributes to change, 1 the hardest, a negative for each. sample: of so many items only.
    personal: for pairs of user and item, with a digest of what the user took. word_lists: attributes and new values
    from word lists alone, as far as the data's items have them; for small models. chooses: the model chooses among
    these what to change, and rules find and write all else; for the smallest. asked: so many items are the model's,
    and the others the rules'. lists: the word lists. pictures: sent where they are seen.
    """

    difficulties: tuple[int, ...] = (1, 2, 3)
    sample: int | None = None
    personal: bool = False
    seed: int = 0
    temperature: float = 0.0
    word_lists: bool = False
    chooses: bool = False
    asked: int | None = None
    lists: WordLists = field(default_factory=goods)
    pictures: bool = True
    modalities: tuple[str, ...] | None = None
    words: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.difficulties or min(self.difficulties) < 1 or max(self.difficulties) > MOST:
            raise BadOption(f"difficulties {list(self.difficulties)} must be numbers of attributes, 1 to {MOST}.")
        if self.sample is not None and self.sample < 1:
            raise BadOption(f"A sample of {self.sample} is none: take 1 or more.")
        if self.asked is not None and self.asked < 0:
            raise BadOption(f"asked = {self.asked} must be a number of items, 0 or more.")
        if self.temperature < 0:
            raise BadOption(f"temperature = {self.temperature} must be 0 or more.")


class Generation:
    """Negatives of a data set in a folder.

    resume: the folder may have been begun; its answers are not asked for again. encoder: judges contrast, an encoder
    of texts or the name of one, by the limits of gates (None: what suits it). workers: questions at once (None: what
    suits the backend). With the backend `replay` the answers of the folder are judged again, and nobody is asked.
    """

    def __init__(
        self,
        data: Data,
        folder: str | Path,
        backend: Backend,
        order: Order | None = None,
        *,
        resume: bool = False,
        encoder: Encoder | str = "hashed",
        gates: Gates | None = None,
        budget: Budget | None = None,
        price: Price | None = None,
        workers: int | None = None,
        lease: float = LEASE,
    ) -> None:
        self.data, self.folder, self.order, self.backend = data, Path(folder), order or Order(), backend
        if isinstance(backend, Rules):
            self.order = replace(self.order, lists=backend.lists)
        self.price, self.budget, self.stop = price or Price(), budget or Budget(), threading.Event()
        self.workers = workers or backend.workers
        if self.budget.money is not None and not any(self.price):
            raise BadOption("A budget in money needs a price: give --prices.")
        self._replays, self._told_by = isinstance(backend, Replay), ""
        path = self.folder / STORE
        if path.exists() and not (resume or self._replays):
            raise BadOption(f"{folder} already holds answers: go on with --resume, or choose another --out.")
        if self._replays and not path.exists():
            raise BadOption(f"{folder} holds no answers to replay.")
        self.goods = Goods(data, self.order.modalities, self.order.words)
        self.encoder = self._encoder(encoder)
        self.gates = gates or Gates.of(self.encoder.name)
        backend.look(pictures=self.order.pictures and data.pictures is not None and "image" in self.goods.modalities)
        self.store = Store(path, lease=lease)
        try:
            self._replay() if self._replays else self.store.settle_about(self._about())
        except BaseException:
            self.store.close()
            raise

    def _encoder(self, wanted: Encoder | str) -> Encoder:
        if not isinstance(wanted, str):
            return wanted
        return cast(Encoder, load("text", wanted, of_data(self.data).texts or ()))  # as `foilrec encode` fits it

    def _replay(self) -> None:
        """Puts what the store tells in the place of what answers follow from, and forgets what came of them."""
        about = self.store.about()
        if not about:
            raise BadOption(f"{self.folder} holds no answers to replay.")
        kept = {name: about[name] for name in KEPT if name in about}
        self.order = replace(self.order, **kept, modalities=tuple(about["modalities"]))
        self.goods = Goods(self.data, self.order.modalities, self.order.words)
        self.backend, self._told_by = Replay(model=about["model"], sees=about["sees"]), about["backend"]
        self.store.settle_about({"data": self.data.fingerprint, "word lists": self._lists()})
        self.store.change_about(self._judging())

    def _judging(self) -> dict[str, Any]:
        return {"encoder": f"{self.encoder.name}@{self.encoder.revision}", "gates": self.gates.as_dict()}

    def _about(self) -> dict[str, Any]:
        """What the negatives follow from: a folder that was begun goes on only with the same."""
        return {
            "data": self.data.fingerprint,
            "texts": self.goods.digest,
            "backend": self.backend.name,
            "model": self.backend.model,
            "sees": self.backend.sees,
            "templates": VERSIONS,
            "modalities": list(self.goods.modalities),
            "word lists": self._lists(),
            "items": len(self.goods),
            "items without text": int((~self.goods.told).sum()),
            **{name: getattr(self.order, name) for name in KEPT},
            **self._judging(),
        }

    @property
    def _ruled(self) -> bool:
        """Whether `rules` stands for the model."""
        return "rules" in (self.backend.name, self._told_by)

    def _lists(self) -> str | None:
        """Which word lists the negatives follow from."""
        order = self.order
        used = self._ruled or order.word_lists or order.chooses or order.asked is not None
        return order.lists.name if used else None

    def left(self) -> Jobs:
        """The jobs of the order that are neither done nor rejected, by item."""
        return _left(self.goods, self.order, self.store)

    def run(self) -> Iterator[list[Outcome]]:
        """Makes what is left, and gives what came of each item as it ends.

        Ends early when `stop` is set; BudgetSpent when a limit is met; ModelFailed when nobody answers. Whatever ends
        it, every answer is kept.
        """
        desk = Desk(self.backend, self.store, self.order.temperature, self.budget, self.price, self._told_by, self.stop)
        pipeline = Pipeline(self.goods, desk, self.encoder, self.gates, self.order.seed, **self._bounds())
        end = beating(self.store.renew, self.store.lease / 3)
        try:
            yield from self._guarded(self._rounds(pipeline))
        except Stopped:
            return
        finally:
            end()

    def _bounds(self) -> dict[str, Any]:
        """What a pipeline must know of word lists and of whom they help."""
        order = self.order
        if self._lists() is None:
            return {}
        asked = None if order.asked is None else frozenset(list(_jobs(self.goods, order))[: order.asked])
        helped = not self._ruled and (order.chooses or asked is not None)
        return {
            "lists": order.lists,
            "values": order.lists.met(self.goods.text(number) for number in range(len(self.goods))),
            "bound": self._ruled or order.word_lists or order.chooses,
            "helper": Helper(Rules(lists=order.lists), order.chooses, asked) if helped else None,
        }

    def _rounds(self, pipeline: Pipeline) -> Iterator[list[Outcome]]:
        """All that is left; then, as long as another process holds some, what of it comes free."""
        todo = list(self.left().items())
        while todo:
            elsewhere = []
            for task, outcomes in shared(todo, self._work(pipeline), self.workers, self.stop):
                if outcomes is None:
                    elsewhere.append(task)
                else:
                    yield outcomes
            if elsewhere:
                nap(self.stop, min(1.0, self.store.lease / 4))
            todo = [task for task in elsewhere if set(task[1]) - self.store.settled(task[0])]

    def _work(self, pipeline: Pipeline) -> Callable[[Task], tuple[Task, list[Outcome] | None]]:
        def work(task: Task) -> tuple[Task, list[Outcome] | None]:
            item, wanted = task
            if not self.store.claim(item):
                return task, None
            made = []
            try:
                settled = self.store.settled(item)
                for outcome in pipeline.outcomes(item, [job for job in wanted if job not in settled]):
                    self.store.conclude(outcome)
                    made.append(outcome)
                    if self.stop.is_set():
                        raise Stopped
            finally:
                self.store.release(item)
            return task, made

        return work

    def _guarded(self, rounds: Iterator[list[Outcome]]) -> Iterator[list[Outcome]]:
        """The same, given up when nobody answers for several items in a row."""
        in_a_row = 0
        for outcomes in rounds:
            failed = [outcome for outcome in outcomes if outcome.state == "failed"]
            in_a_row = in_a_row + 1 if failed and not self._replays else 0
            yield outcomes
            if in_a_row == IN_A_ROW:
                raise ModelFailed(f"{IN_A_ROW} items in a row got no answer, the last because: {failed[-1].reason}")


def _jobs(goods: Goods, order: Order) -> Jobs:
    return jobs(goods, order.difficulties, sample=order.sample, personal=order.personal, seed=order.seed)


def _left(goods: Goods, order: Order, store: Store) -> Jobs:
    settled = {outcome.job for outcome in store.outcomes("done", "rejected")}
    todo = {item: [job for job in its if job not in settled] for item, its in _jobs(goods, order).items()}
    return {item: its for item, its in todo.items() if its}


def forecast(data: Data, folder: Path, order: Order, price: Price, *, sees: bool) -> Estimate:
    """What an order will roughly take, less what the folder has; nobody is asked and nothing is written."""
    goods = Goods(data, order.modalities, order.words)
    store = Store(folder / STORE if (folder / STORE).exists() else None)
    try:
        return estimate(goods, _left(goods, order, store), price, sees=sees and order.pictures)
    finally:
        store.close()
