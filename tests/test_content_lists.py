"""Word lists of one's own, models that only choose among their values, and rules that do what a model is not asked."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from commands import Command
from foilrec.content.backends.replay import Replay
from foilrec.content.backends.rules import Rules
from foilrec.content.chat import Completion, Message
from foilrec.content.datasheet import coverage, facts, makers, page
from foilrec.content.generation import Generation, Order
from foilrec.content.lexicons import WordLists, goods, read_lists
from foilrec.content.schema import Schema
from foilrec.data import Data
from foilrec.errors import BadOption

FILMS = Path(__file__).parents[1] / "examples" / "films.toml"
PLOTS = ("a lonely lawyer in Paris", "a dark drama", "crime in a small town", "", "nothing that is known")


class Chooser:
    """Takes the last of the values that it may choose from, and counts what it is asked."""

    name, model, workers, sees = "chooser", "last", 1, False

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    def look(self, *, pictures: bool) -> None:
        """Nobody to look for."""

    def complete(
        self, messages: Sequence[Message], schema: Schema, max_tokens: int, temperature: float, seed: int
    ) -> Completion:
        self.asked[messages[1].text.splitlines()[0]] += 1
        edits = []
        for choice in schema["properties"]["edits"]["items"]["anyOf"][: schema["properties"]["edits"]["minItems"]]:
            members = choice["properties"]
            told = {name: members[name]["const"] for name in ("name", "old", "modality")}
            edits.append({**told, "new": members["new"]["enum"][-1]})
        return Completion(json.dumps({"edits": edits}))


@pytest.fixture(scope="module")
def films() -> WordLists:
    return read_lists(FILMS)


@pytest.fixture(scope="module")
def plots(world: Data) -> Data:
    """The small shop's interactions, with films instead of its goods; every fifth says nothing, another no value."""
    told = [PLOTS[number % 5] for number in range(world.n_items)]
    return replace(world, titles=told, descriptions=None, pictures=None, features={})


def run(data: Data, folder: Path, backend: object, order: Order) -> Generation:
    one = Generation(data, folder, backend, order)  # type: ignore[arg-type]
    list(one.run())
    return one


def test_lists_of_ones_own_read_and_rewrite_texts(films: WordLists, plots: Data, tmp_path: Path) -> None:
    assert films.name.startswith("films@") and films.name != goods().name
    assert films.found("A DARK crime in New York") == {"genre": "crime", "place": "New York", "tone": "DARK"}
    one = run(plots, tmp_path, Rules(lists=films), Order(difficulties=(1,)))
    for outcome in one.store.outcomes("done"):
        content, plot = outcome.content or {}, PLOTS[outcome.job.item % 5]
        (edit,) = content["edits"]
        assert edit["new"] in films.attributes[edit["name"]].values
        assert content["title"].lower() == plot.lower().replace(edit["old"].lower(), edit["new"].lower())
    one.store.close()


def test_items_that_say_no_known_value_are_told_as_such(films: WordLists, plots: Data, tmp_path: Path) -> None:
    one = run(plots, tmp_path, Rules(lists=films), Order(difficulties=(1, 2)))
    found = facts(one.store)
    taken = set(plots.train[:, 1].tolist())
    silent = sum(number % 5 == 4 for number in taken)
    told = sum(number % 5 != 3 for number in taken)
    assert silent and found["items"]["no known value"] == silent
    assert found["items"]["with negatives"] == told - silent and sum(found["items"].values()) == plots.n_items
    assert found["rejected_by"]["analyse: no known value"] == 2 * silent
    assert f"{silent} say no value of the word lists {films.name}" in page(found)
    assert f"{told - silent} of {plots.n_items} items have a negative" in coverage(found["items"], films.name)
    one.store.close()


def test_a_model_that_only_chooses_is_asked_nothing_else(plots: Data, films: WordLists, tmp_path: Path) -> None:
    chooser = Chooser()
    one = run(plots, tmp_path, chooser, Order(difficulties=(1,), chooses=True, lists=films))
    done = list(one.store.outcomes("done"))
    assert done and set(chooser.asked) == {"Task: intervene"} and chooser.asked.total() >= len(done)
    met = films.met(PLOTS)
    for outcome in done:
        (edit,) = (outcome.content or {})["edits"]
        assert edit["new"] == [v for v in met[edit["name"]] if v not in PLOTS[outcome.job.item % 5]][-1]
    assert {row["template"] for row in one.store.tally()} == {"intervene/1"}
    assert "choosing what to change" in page(facts(one.store))
    before = [outcome.content for outcome in one.store.outcomes("done")]
    one.store.close()
    again = run(plots, tmp_path, Replay(), Order(difficulties=(1,), lists=films))
    assert [outcome.content for outcome in again.store.outcomes("done")] == before
    again.store.close()
    with pytest.raises(BadOption, match="word lists"):
        Generation(plots, tmp_path, Replay())


@pytest.mark.parametrize("chooses", [False, True])
def test_rules_do_the_items_that_a_model_is_not_asked_about(
    plots: Data, films: WordLists, tmp_path: Path, chooses: bool
) -> None:
    helped = Rules(lists=films) if not chooses else Chooser()
    helped.name = "model"
    order = Order(difficulties=(1,), chooses=chooses, word_lists=True, asked=12, lists=films)
    one = run(plots, tmp_path, helped, order)
    by = Counter((outcome.content or {})["by"] for outcome in one.store.outcomes("done"))
    alone = run(plots, tmp_path / "rules", Rules(lists=films), replace(order, asked=None, chooses=False))
    assert by["model"] + by["rules"] == len(list(alone.store.outcomes("done"))) and 0 < by["model"] <= 12
    found = facts(one.store)
    assert makers(found).startswith(f"rules: {by['rules']}, model: {by['model']}, dropped: ")
    ruled = {o.job: o.content for o in one.store.outcomes("done") if (o.content or {})["by"] == "rules"}
    assert ruled == {o.job: o.content for o in alone.store.outcomes("done") if o.job in ruled}
    one.store.close()
    alone.store.close()


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.toml", "genre = [", "cannot be read as TOML"),
        ("a.json", "{", "cannot be read as TOML"),
        ("a.toml", "", "holds no word lists"),
        ("a.toml", 'genre = ["drama"]', "two values or more"),
        ("a.toml", "genre = [1, 2]", "two values or more"),
        ("a.toml", 'genre = ["drama", "Drama"]', "'drama' stands twice"),
        ("a.toml", 'genre = ["drama", "war"]\ntheme = ["War", "love"]', "'war' stands twice, in genre and theme"),
        ("a.toml", 'genre = {values = ["a", "b"], weight = 1}', "it takes values, seen, importance"),
        ("a.toml", 'genre = {values = ["a", "b"], importance = 2}', "importance one of"),
        ("a.toml", f'genre = ["a", "{"b" * 41}"]', "longer than 40 characters"),
    ],
)
def test_lists_that_cannot_be_used_are_explained(tmp_path: Path, name: str, text: str, told: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadOption, match=told):
        read_lists(path)


def test_json_says_the_same_as_toml(tmp_path: Path) -> None:
    tree = {"era": ["1990s", "future"], "look": {"values": ["red", "blue"], "seen": True, "importance": 1}}
    (tmp_path / "x.json").write_text(json.dumps(tree))
    (tmp_path / "x.toml").write_text(
        'era = ["1990s", "future"]\n[look]\nvalues = ["red", "blue"]\nseen = true\nimportance = 1\n'
    )
    one, other = read_lists(tmp_path / "x.json"), read_lists(tmp_path / "x.toml")
    assert one.name == other.name and one.attributes == other.attributes
    assert read_lists(tmp_path / "x.toml").attributes["look"].seen


def test_from_a_table_of_films_to_a_folder_by_the_command(foilrec: Command, tmp_path: Path) -> None:
    rows = [
        {"item": f"item-{n:05d}", "name": f"Film {n}", "kind": ["Drama", "War"], "plot": PLOTS[n % 5]}
        for n in range(60)
    ]
    (tmp_path / "films.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ("generate", "shop", "-o", "users=60", "-o", "items=60", "--modalities", "text", "--difficulty", "1,2")
    table = ("--items", tmp_path / "films.jsonl", "--text-columns", "name,kind,plot")
    said = foilrec(*words, *table, "--lexicon", FILMS, "--out", tmp_path / "out")
    assert said.code == 0, said.err
    assert "\nrules: " in said.out and "items have a negative" in said.out
    made = pl.read_parquet(tmp_path / "out" / "negatives.parquet")
    assert all(title.startswith("Film ") for title in made["title"]) and set(made["by"]) == {"rules"}
    for row in made.iter_rows(named=True):
        was = f"Drama War. {PLOTS[int(row['item'][5:]) % 5]}".rstrip(". ")
        for edit in row["edits"]:
            assert edit["old"] in was and edit["new"].lower() in row["description"].lower()
    sheet = (tmp_path / "out" / "datasheet.md").read_text()
    assert "word lists: films@" in sheet and "Negatives by who chose what to change: rules: " in sheet
    for more, told in (
        (("--text-columns", "name"), "give --items TABLE"),
        (("--items", tmp_path / "films.jsonl", "--text-columns", "nmae"), "did you mean 'name'"),
        (("--lexicon", tmp_path / "none.toml"), "cannot be read as TOML"),
    ):
        wrong = foilrec(*words, *more, "--out", tmp_path / "wrong")
        assert wrong.code == 2 and told in wrong.err, wrong
