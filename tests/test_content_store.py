"""The store: nothing is asked twice or lost, budgets hold to the last question, work is shared and never doubled."""

import json
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from foilrec.content.backends.rules import Rules
from foilrec.content.budget import Budget, BudgetSpent, Price, read_prices
from foilrec.content.chat import Completion, Message, Usage, credible, rough
from foilrec.content.crew import Stopped, nap, shared
from foilrec.content.desk import Desk
from foilrec.content.goods import Item
from foilrec.content.pictures import PROBE
from foilrec.content.store import Job, Outcome, Store
from foilrec.content.templates import Prompt, analyse
from foilrec.errors import BadOption, ModelFailed, RunBroken

ROOT = Path(__file__).parents[1]
PROMPT = analyse(Item(0, "Red hat"))


class Counting(Rules):
    """Rules that count what they are asked, tell a usage, and fail as they are told."""

    def __init__(self, *errors: ModelFailed, usage: Usage | None = None) -> None:
        super().__init__()
        self.errors, self.usage, self.asked = list(errors), usage, 0

    def complete(self, *question: Any) -> Completion:
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        return super().complete(*question)._replace(usage=self.usage)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store.sqlite")


def test_what_was_answered_is_never_asked_again(store: Store, tmp_path: Path) -> None:
    backend = Counting()
    desk = Desk(backend, store)
    first = desk.ask(PROMPT, 1)
    assert desk.ask(PROMPT, 1) == first and backend.asked == 1
    store.close()
    again = Store(tmp_path / "store.sqlite")
    assert Desk(backend, again).ask(PROMPT, 1) == first and backend.asked == 1
    again.close()


def test_a_key_is_of_everything_that_an_answer_follows_from(store: Store) -> None:
    seen = analyse(Item(0, "Red hat", picture=PROBE), sees=True)
    other = Counting()
    other.model = "other"
    desk, warm = Desk(Rules(), store), Desk(Rules(), store, temperature=0.5)
    words = analyse(Item(0, "Blue hat"))
    changed = [Prompt("analyse/2", PROMPT.messages, PROMPT.schema, PROMPT.max_tokens)]
    changed += [
        Prompt("analyse/1", PROMPT.messages, PROMPT.schema, 1),
        Prompt("analyse/1", PROMPT.messages, {}, PROMPT.max_tokens),
    ]
    keys = [desk.key(one, 1) for one in (PROMPT, seen, words, *changed)]
    keys += [desk.key(PROMPT, 2), warm.key(PROMPT, 1), Desk(other, store).key(PROMPT, 1)]
    keys.append(Desk(Rules(), store, told_by="openai").key(PROMPT, 1))
    assert len(set(keys)) == len(keys) and desk.key(PROMPT, 1) == keys[0]


@pytest.mark.parametrize(
    ("budget", "price", "count"),
    [
        (Budget(requests=3), Price(), 3),
        (Budget(tokens=3 * (rough(PROMPT.messages) + PROMPT.max_tokens)), Price(), 3),
        (Budget(money=0.02), Price(1.0, 10.0), None),
        (Budget(requests=0), Price(), 0),
        (Budget(seconds=-1.0), Price(), 0),
    ],
)
def test_a_budget_holds_before_every_question(store: Store, budget: Budget, price: Price, count: int | None) -> None:
    usage = Usage(rough(PROMPT.messages), PROMPT.max_tokens)
    backend = Counting(usage=usage)
    desk = Desk(backend, store, budget=budget, price=price)
    with pytest.raises(BudgetSpent, match="is spent"):
        for seed in range(100):
            desk.ask(PROMPT, seed)
    spent = store.spent()
    assert count is None or backend.asked == count == spent.requests
    assert budget.money is None or spent.money <= budget.money < spent.money + price.of(usage)
    assert spent.tokens == sum(usage) * backend.asked and spent.money == pytest.approx(price.of(usage) * backend.asked)


def test_a_budget_holds_for_threads_together(store: Store) -> None:
    backend = Counting()
    desk = Desk(backend, store, budget=Budget(requests=10))
    with pytest.raises(BudgetSpent):
        list(shared(range(50), lambda seed: desk.ask(PROMPT, seed), 8, threading.Event()))
    assert backend.asked == store.spent().requests == 10


def test_questions_count_by_their_estimate_until_they_are_answered(store: Store) -> None:
    full = rough(PROMPT.messages) + PROMPT.max_tokens
    unsure, sure = ModelFailed("lost", unsure=True), ModelFailed("no")
    desk = Desk(Counting(unsure, sure), store)
    for seed, tokens in ((1, full), (2, full)):
        with pytest.raises(ModelFailed):
            desk.ask(PROMPT, seed)
        assert store.spent().tokens == tokens
    desk.ask(PROMPT, 3)
    assert full < store.spent().tokens < 2 * full
    states = {row["state"]: row["requests"] for row in store.tally()}
    assert states == {"failed": 2, "answered": 1}


def test_a_usage_is_believed_only_if_it_can_be_true() -> None:
    messages, answer = [Message("user", "x" * 400)], "y" * 200
    assert credible(Usage(110, 60), messages, answer, 100) == (110, 60)
    assert credible(Usage(110, 4000), messages, answer, 5000) == (110, 4000)  # thoughts that are not shown
    for lie in (None, Usage(0, 0), Usage(110, 0), Usage(-5, 60), Usage(10**12, 60), Usage(110, 10**9)):
        assert credible(lie, messages, answer, 100) is None
    assert credible(Usage(1500, 60), [messages[0]._replace(picture=PROBE)], answer, 100)


def test_another_order_in_the_same_folder_is_refused(store: Store) -> None:
    store.settle_about({"model": "a", "seed": 0})
    store.settle_about({"model": "a", "seed": 0})
    with pytest.raises(BadOption, match="made with seed = 0 and not 1"):
        store.settle_about({"model": "a", "seed": 1})
    store.conclude(Outcome(Job(1, -1, 1), "rejected", "gate", "why"))
    store.change_about({"seed": 1})
    assert store.about()["seed"] == 1 and not list(store.outcomes())


def test_an_outcome_stands_unless_it_failed(store: Store) -> None:
    job = Job(1, -1, 2)
    for state, wanted in (("failed", "failed"), ("done", "done"), ("rejected", "done"), ("failed", "done")):
        store.conclude(Outcome(job, state, content={"title": state}))
        assert [outcome.state for outcome in store.outcomes()] == [wanted]
        assert (job in store.settled(1)) == (wanted == "done")


def test_an_item_is_held_by_one_until_it_is_released_or_its_lease_ends(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    one, two = Store(path, lease=0.2), Store(path, lease=0.2)
    assert one.claim(7) and one.claim(7) and not two.claim(7) and two.claim(8)
    one.release(7)
    assert two.claim(7) and not one.claim(7)
    for _ in range(3):
        threading.Event().wait(0.1)
        two.renew()
    assert not one.claim(7)
    threading.Event().wait(0.25)
    assert one.claim(7)
    one.close()
    assert two.claim(7)
    two.close()


def test_a_dead_process_holds_nothing(store: Store) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    host = store.owner.rsplit(":", 2)[0]
    for pid, free in ((gone.stdout.decode().strip(), True), (os.getpid(), False)):
        with sqlite3.connect(store.folder + "/store.sqlite") as other:
            other.execute("INSERT OR REPLACE INTO claims VALUES (3, ?, 1e12)", (f"{host}:{pid}:else",))
        assert store.claim(3) is free


def test_a_file_that_is_no_store_is_explained(tmp_path: Path) -> None:
    (tmp_path / "store.sqlite").write_bytes(b"nothing like it" * 100)
    with pytest.raises(RunBroken, match="cannot be used as a store"):
        Store(tmp_path / "store.sqlite")


def test_what_no_file_can_hold_is_kept_all_the_same(store: Store) -> None:
    class Broken(Rules):
        def complete(self, *_: Any) -> Completion:
            return Completion('{"a": "\ud83d"}')

    assert Desk(Broken(), store).ask(PROMPT, 1) == '{"a": "?"}'


def test_errors_that_pass_are_asked_again_with_growing_pauses(store: Store) -> None:
    pauses: list[float] = []
    passing = [ModelFailed("busy", passing=True, after=after) for after in (None, 7.0, None, None, None)]
    backend = Counting(*passing)
    assert Desk(backend, store, sleep=pauses.append).ask(PROMPT, 1)
    assert backend.asked == 6 and pauses[1] == 7.0
    assert all(0.5 * 2**n <= pause <= 2**n for n, pause in enumerate(pauses) if n != 1)
    backend = Counting(*[ModelFailed("busy", passing=True)] * 9)
    with pytest.raises(ModelFailed):
        Desk(backend, store, sleep=pauses.append).ask(PROMPT, 2)
    assert backend.asked == 6
    for error in (ModelFailed("final"), ModelFailed("come back tomorrow", passing=True, after=86_400.0)):
        backend = Counting(error)
        with pytest.raises(ModelFailed):
            Desk(backend, store, sleep=pauses.append).ask(PROMPT, 3)
        assert backend.asked == 1


def test_nothing_is_asked_once_everything_stops(store: Store) -> None:
    stop, backend = threading.Event(), Counting()
    stop.set()
    with pytest.raises(Stopped):
        Desk(backend, store, stop=stop).ask(PROMPT, 1)
    assert backend.asked == 0 and store.spent().requests == 0
    with pytest.raises(Stopped):
        nap(stop, 60.0)


def test_shared_work_is_done_once_and_the_first_error_ends_it() -> None:
    stop = threading.Event()
    assert sorted(shared(range(200), lambda n: n * n, 8, stop)) == [n * n for n in range(200)] and not stop.is_set()
    seen = []

    def fails(n: int) -> int:
        if n == 5:
            raise ModelFailed("five")
        return n

    with pytest.raises(ModelFailed, match="five"):
        for n in shared(range(10_000), fails, 3, stop):
            seen.append(n)
    assert stop.is_set() and len(seen) < 10_000


def test_prices_are_read_from_a_table(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text('["big-model"]\nprompt = 0.15\ncompletion = 0.6\n[odd]\nprice = 1\n')
    assert read_prices(path, "big-model").of(Usage(1_000_000, 500_000)) == pytest.approx(0.45)
    for model, told in (("bigmodel", "did you mean 'big-model'"), ("odd", "must have prompt and completion")):
        with pytest.raises(BadOption, match=told):
            read_prices(path, model)
    with pytest.raises(BadOption, match="cannot be read"):
        read_prices(tmp_path / "none.toml", "x")


def test_killed_at_random_moments_nothing_is_lost_or_paid_twice() -> None:
    """Workers on one folder are killed with SIGKILL, and two work at once: see the module that does it."""
    if os.name != "posix":
        pytest.skip("processes are forked and killed")
    known = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "benchmarks.killed", "3"]
    done = subprocess.run(words, cwd=ROOT, env=known, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    killed, two = map(json.loads, done.stdout.splitlines())
    assert killed["kills"] == 3 and two["asked again"] == 0
