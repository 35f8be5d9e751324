"""One SQLite file that keeps every question, answer and verdict, so that nothing is asked twice and nothing is lost."""

import json
import os
import socket
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from foilrec.content.budget import Budget, Price, Spent
from foilrec.content.chat import Completion, Usage
from foilrec.errors import BadOption, RunBroken

FORMAT = 1
LEASE = 30.0  # seconds that a claim holds without being renewed

_TABLES = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS spent (
    one INTEGER PRIMARY KEY CHECK (one = 1), requests INTEGER, prompt INTEGER, completion INTEGER, money REAL);
INSERT OR IGNORE INTO spent VALUES (1, 0, 0, 0, 0.0);
CREATE TABLE IF NOT EXISTS requests (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, template TEXT NOT NULL, backend TEXT NOT NULL, model TEXT NOT NULL,
    question TEXT NOT NULL, state TEXT NOT NULL, answer TEXT, finish TEXT, faults TEXT, error TEXT,
    prompt INTEGER NOT NULL, completion INTEGER NOT NULL, counted INTEGER NOT NULL, money REAL NOT NULL,
    started REAL NOT NULL, seconds REAL);
CREATE INDEX IF NOT EXISTS by_key ON requests (key, state);
CREATE TABLE IF NOT EXISTS claims (item INTEGER PRIMARY KEY, owner TEXT NOT NULL, until REAL NOT NULL);
CREATE TABLE IF NOT EXISTS outcomes (
    item INTEGER NOT NULL, user INTEGER NOT NULL, difficulty INTEGER NOT NULL, state TEXT NOT NULL,
    gate TEXT, reason TEXT, content TEXT, PRIMARY KEY (item, user, difficulty));
"""


class Job(NamedTuple):
    """One negative to make: of an item, for a user (-1: for everyone), with so many attributes changed."""

    item: int
    user: int
    difficulty: int


class Outcome(NamedTuple):
    """What came of a job: state "done", "rejected" (by a gate, for a reason) or "failed" (nobody answered)."""

    job: Job
    state: str
    gate: str | None = None
    reason: str | None = None
    content: Mapping[str, Any] | None = None


class Call(NamedTuple):
    """A question as the store keeps it: estimate is what it is counted for until its answer is there."""

    key: str
    template: str
    backend: str
    model: str
    question: str
    estimate: Usage
    price: Price


class Store:
    """The store of a folder, for many threads and processes; survives being killed at any moment. path None: forgotten.

    A question is entered, and counted by its estimate, before it is sent: one that was under way when a process was
    killed stays counted, as it may have been paid for, and is asked again.
    """

    def __init__(self, path: Path | None, *, lease: float = LEASE) -> None:
        self.folder, self.lease = "This store" if path is None else str(path.parent), lease
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._lock = threading.RLock()
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path or ":memory:", timeout=60.0, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.executescript(_TABLES)
        except (OSError, sqlite3.Error) as error:
            raise RunBroken(f"{path} cannot be used as a store ({error}): choose another --out.") from error

    def close(self) -> None:
        """Gives up this process's claims and closes the file."""
        with self._lock:
            self._db.execute("DELETE FROM claims WHERE owner = ?", (self.owner,))
            self._db.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction that nobody else's writes come between."""
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise RunBroken(
                        f"{self.folder}: the store cannot be written ({error}). What it has is kept."
                    ) from error
                raise

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    # What the folder is about.

    def about(self) -> dict[str, Any]:
        """The settings that its negatives follow from; empty if nothing has been made yet."""
        return {name: json.loads(value) for name, value in self._rows("SELECT name, value FROM about")}

    def settle_about(self, settings: Mapping[str, Any]) -> None:
        """Notes the settings of a new store; BadOption if an old one was made with others."""
        with self._writing() as db:
            for name, value in {"format": FORMAT, **settings}.items():
                told = json.dumps(value, ensure_ascii=False, sort_keys=True)
                db.execute("INSERT OR IGNORE INTO about VALUES (?, ?)", (name, told))
                kept = db.execute("SELECT value FROM about WHERE name = ?", (name,)).fetchone()[0]
                if kept != told:
                    raise BadOption(
                        f"{self.folder} was made with {name} = {kept} and not {told}: choose another --out, or "
                        "judge the answers that it has again with --backend replay."
                    )

    def change_about(self, settings: Mapping[str, Any]) -> None:
        """Notes other settings, and forgets outcomes: they are about to be judged again."""
        with self._writing() as db:
            for name, value in settings.items():
                told = json.dumps(value, ensure_ascii=False, sort_keys=True)
                db.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (name, told))
            db.execute("DELETE FROM outcomes")

    # Questions and answers.

    def answer(self, key: str) -> Completion | None:
        """The answer to a question, if it was ever given."""
        rows = self._rows("SELECT answer, finish FROM requests WHERE key = ? AND state = 'answered' LIMIT 1", key)
        return Completion(rows[0][0], None, rows[0][1]) if rows else None

    def enter(self, call: Call, budget: Budget, seconds: float) -> int:
        """Enters a question that is about to be sent, or BudgetSpent; its number."""
        prompt, completion = call.estimate
        money = call.price.of(call.estimate)
        with self._writing() as db:
            budget.check(self.spent(), call.estimate, call.price, seconds)
            made = db.execute(
                "INSERT INTO requests (key, template, backend, model, question, state, prompt, completion, counted, "
                "money, started) VALUES (?, ?, ?, ?, ?, 'sent', ?, ?, 0, ?, ?)",
                (*call[:5], prompt, completion, money, time.time()),
            )
            self._count(db, 1, prompt, completion, money)
        return int(made.lastrowid or 0)

    def answered(self, number: int, call: Call, completion: Completion, usage: Usage, *, counted: bool) -> None:
        """Keeps an answer and what it took; counted: the backend said so, else it is our estimate."""
        self._finish(number, call, usage, "answered", counted=counted, answer=completion.text, finish=completion.finish)

    def unanswered(self, number: int, call: Call, error: str, usage: Usage) -> None:
        """Keeps why there is no answer, and what it is counted for all the same."""
        self._finish(number, call, usage, "failed", error=error[:1000])

    def _finish(
        self, number: int, call: Call, usage: Usage, state: str, *, counted: bool = False, **texts: str
    ) -> None:
        money = call.price.of(usage)
        columns = "".join(f", {name} = ?" for name in texts)
        with self._writing() as db:
            db.execute(
                "UPDATE requests SET state = ?, prompt = ?, completion = ?, counted = ?, money = ?, "
                f"seconds = ? - started{columns} WHERE id = ?",
                (state, *usage, counted, money, time.time(), *texts.values(), number),
            )
            prompt, completion = (now - then for now, then in zip(usage, call.estimate, strict=True))
            self._count(db, 0, prompt, completion, money - call.price.of(call.estimate))

    @staticmethod
    def _count(db: sqlite3.Connection, requests: int, prompt: int, completion: int, money: float) -> None:
        db.execute(
            "UPDATE spent SET requests = requests + ?, prompt = prompt + ?, completion = completion + ?, "
            "money = money + ?",
            (requests, prompt, completion, money),
        )

    def judged(self, key: str, faults: list[str]) -> None:
        """Keeps the verdict on an answer: what was wrong with it, [] for nothing."""
        with self._writing() as db:
            db.execute(
                "UPDATE requests SET faults = ? WHERE key = ? AND state = 'answered'",
                (json.dumps(faults, ensure_ascii=False), key),
            )

    def spent(self) -> Spent:
        """What the folder has cost so far."""
        requests, prompt, completion, money = self._rows("SELECT requests, prompt, completion, money FROM spent")[0]
        return Spent(requests, prompt + completion, money)

    # Who works on what.

    def claim(self, item: int) -> bool:
        """Takes an item to work on, unless another process that lives has it."""
        now = time.time()
        with self._writing() as db:
            held = db.execute("SELECT owner, until FROM claims WHERE item = ?", (item,)).fetchone()
            if held is not None and held[0] != self.owner and held[1] > now and not _dead(held[0]):
                return False
            db.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?)", (item, self.owner, now + self.lease))
        return True

    def renew(self) -> None:
        """Prolongs all claims of this process."""
        with self._writing() as db:
            db.execute("UPDATE claims SET until = ? WHERE owner = ?", (time.time() + self.lease, self.owner))

    def release(self, item: int) -> None:
        """Gives an item back."""
        with self._writing() as db:
            db.execute("DELETE FROM claims WHERE item = ? AND owner = ?", (item, self.owner))

    # What came of it.

    def conclude(self, outcome: Outcome) -> None:
        """Keeps what came of a job; an outcome that stands already stands, unless it failed."""
        job, state, gate, reason, content = outcome
        told = None if content is None else json.dumps(content, ensure_ascii=False, sort_keys=True)
        with self._writing() as db:
            db.execute(
                "INSERT INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (item, user, difficulty) DO UPDATE SET "
                "state = excluded.state, gate = excluded.gate, reason = excluded.reason, content = excluded.content "
                "WHERE outcomes.state = 'failed'",
                (*job, state, gate, reason, told),
            )

    def outcomes(self, *states: str) -> Iterator[Outcome]:
        """Outcomes in these states (all if none is named), by item, user and difficulty."""
        marks = ", ".join("?" * len(states))
        where = f"WHERE state IN ({marks})" if states else ""
        query = f"SELECT * FROM outcomes {where} ORDER BY item, user, difficulty"
        for item, user, difficulty, state, gate, reason, content in self._rows(query, *states):
            told = None if content is None else json.loads(content)
            yield Outcome(Job(item, user, difficulty), state, gate, reason, told)

    def settled(self, item: int) -> set[Job]:
        """The jobs of an item that are done or rejected."""
        query = "SELECT item, user, difficulty FROM outcomes WHERE item = ? AND state != 'failed'"
        return {Job(*row) for row in self._rows(query, item)}

    def tally(self) -> list[dict[str, Any]]:
        """Questions by template, backend, model and state: how many, tokens, money, answers with faults, seconds."""
        names = ("template", "backend", "model", "state", "requests", "prompt", "completion", "counted", "money")
        query = (
            "SELECT template, backend, model, state, COUNT(*), SUM(prompt), SUM(completion), SUM(counted), SUM(money) "
            "FROM requests GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"
        )
        return [dict(zip(names, row, strict=True)) for row in self._rows(query)]


def _dead(owner: str) -> bool:
    """Whether a claim's process is known to be gone: it ran on this machine, and no process has its number."""
    host, pid, _ = owner.rsplit(":", 2)
    if os.name != "posix" or host != socket.gethostname():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False
