"""Where questions are asked: first of the store, then, within the budget and with patience, of the backend."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from foilrec.content.budget import Budget, Price
from foilrec.content.chat import Backend, Usage, credible, rough, tokens
from foilrec.content.crew import nap
from foilrec.content.retry import persist
from foilrec.content.store import Call, Store
from foilrec.content.templates import Prompt
from foilrec.errors import ModelFailed


@dataclass
class Desk:
    """Asks a backend whatever the store does not know.

    told_by: the backend's name in keys, if another is to stand there (replay). stop: when it is set, nothing more is
    asked. sleep: waits between tries, until then by default. clock: seconds, of which `started` is the beginning.
    """

    backend: Backend
    store: Store
    temperature: float = 0.0
    budget: Budget = field(default_factory=Budget)
    price: Price = field(default_factory=Price)
    told_by: str = ""
    stop: threading.Event = field(default_factory=threading.Event)
    sleep: Callable[[float], None] | None = None
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self.started = self.clock()

    def key(self, prompt: Prompt, seed: int) -> str:
        """What an answer is kept under: everything that it follows from, and no secret."""
        told = {
            "backend": self.told_by or self.backend.name,
            "model": self.backend.model,
            "template": prompt.template,
            "messages": _plain(prompt),
            "schema": prompt.schema,
            "sampling": [prompt.max_tokens, self.temperature, seed],
        }
        return sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def ask(self, prompt: Prompt, seed: int) -> str:
        """The text of an answer. BudgetSpent if there is no money left for it, ModelFailed if nobody gives one."""
        key = self.key(prompt, seed)
        kept = self.store.answer(key)
        if kept is not None:
            return kept.text
        if self.told_by:  # a replay asks nobody, and so counts nothing
            return self.backend.complete(prompt.messages, prompt.schema, prompt.max_tokens, self.temperature, seed).text
        return persist(lambda: self._send(prompt, seed, key), self.sleep or (lambda s: nap(self.stop, s)), key)

    def _send(self, prompt: Prompt, seed: int, key: str) -> str:
        nap(self.stop, 0.0)
        estimate = Usage(rough(prompt.messages), prompt.max_tokens)
        question = json.dumps(_plain(prompt), ensure_ascii=False)
        call = Call(key, prompt.template, self.backend.name, self.backend.model, question, estimate, self.price)
        number = self.store.enter(call, self.budget, self.clock() - self.started)
        try:
            given = self.backend.complete(prompt.messages, prompt.schema, prompt.max_tokens, self.temperature, seed)
        except ModelFailed as error:
            self.store.unanswered(number, call, _whole(str(error)), estimate if error.unsure else Usage())
            raise
        given = given._replace(text=_whole(given.text))
        told = credible(given.usage, prompt.messages, given.text, prompt.max_tokens)
        usage = told or Usage(estimate.prompt, tokens(given.text))
        self.store.answered(number, call, given, usage, counted=told is not None)
        return given.text


def _whole(text: str) -> str:
    """A text that a file can hold: half a surrogate pair becomes a question mark."""
    return text.encode("utf-8", "replace").decode()


def _plain(prompt: Prompt) -> list[list[Any]]:
    """Messages as the store keeps them: a picture by its digest."""
    return [[m.role, m.text, None if m.picture is None else m.picture.digest] for m in prompt.messages]
