"""The command that has negatives written: by rules, by a model on this machine, or by a server."""

import shlex
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from foilrec.errors import BadOption, ModelFailed

if TYPE_CHECKING:
    from threading import Event

    from foilrec.content.budget import Price
    from foilrec.content.editing import Sight
    from foilrec.content.export import Route
    from foilrec.content.generation import Generation
    from foilrec.content.store import Outcome
    from foilrec.data import Data

CURES = {
    "contrast": "--band says between which cosines, --encoder by whose; --backend replay judges anew and asks nobody",
    "balance": "--balance says how unevenly modalities may change; --backend replay judges anew and asks nobody",
    "too few": "texts tell too few attributes: ask for --difficulty 1, give more text, or word lists with --lexicon",
    "no known value": "texts say nothing that the word lists know: write your own, --lexicon FILE",
}
SEEING = ("openai", "xllamacpp")  # backends that may be sent pictures


def generate(
    source: Annotated[str, typer.Argument(metavar="DATA|RECIPE", help="a data set, a reader's name, or a TOML file")],
    out: Annotated[Path | None, typer.Option(help="the folder (default: generated/DATA-BACKEND)")] = None,
    reader: Annotated[str | None, typer.Option(help="the reader to use; guessed when left out")] = None,
    o: Annotated[list[str] | None, typer.Option("-o", metavar="KEY=VALUE", help="an option of the reader")] = None,
    backend: Annotated[str, typer.Option(help="rules, openai, xllamacpp, transformers or replay")] = "rules",
    model: Annotated[str | None, typer.Option(help="of the server, or a file or folder on this machine")] = None,
    url: Annotated[str | None, typer.Option(help="openai: the server, such as http://127.0.0.1:8080/v1")] = None,
    key_env: Annotated[str | None, typer.Option(help="openai: the environment variable that holds the key")] = None,
    timeout: Annotated[float | None, typer.Option(help="openai: seconds")] = None,
    projector: Annotated[str | None, typer.Option(help="xllamacpp: the mmproj file of a model that sees")] = None,
    threads: Annotated[int | None, typer.Option(help="xllamacpp: threads (default: 1)")] = None,
    device: Annotated[str | None, typer.Option(help="transformers: such as cuda (default: cpu)")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="questions at once (default: 8 over HTTP, else 1)")] = None,
    sample: Annotated[int | None, typer.Option(min=1, help="of so many items (or pairs) only")] = None,
    difficulty: Annotated[str, typer.Option(help="how many attributes to change; 1 is the hardest")] = "1,2,3",
    personal: Annotated[bool, typer.Option("--personal", help="for each user's own taste; sends what he took")] = False,
    modalities: Annotated[str | None, typer.Option(help="such as text,image (default: what the data has)")] = None,
    words: Annotated[list[str] | None, typer.Option(metavar="NAME=FILE", help="words for a modality")] = None,
    pictures: Annotated[bool, typer.Option(help="sent to a model that sees")] = True,
    word_lists: Annotated[bool, typer.Option("--word-lists", help="new values from word lists (small models)")] = False,
    temperature: Annotated[float, typer.Option(min=0.0)] = 0.0,
    lexicon: Annotated[Path | None, typer.Option(help="word lists of yours, TOML or JSON (default: goods)")] = None,
    choose: Annotated[
        bool, typer.Option("--choose", help="a model only chooses edits; rules write (tiny ones)")
    ] = False,
    asked: Annotated[int | None, typer.Option(min=0, help="a model has so many items; rules do the others")] = None,
    items: Annotated[Path | None, typer.Option(help="a table of texts, instead of the data's own")] = None,
    text_columns: Annotated[str | None, typer.Option(help="its title and more, such as title,genres,plot")] = None,
    id_column: Annotated[str | None, typer.Option(help="its column of ids (default: guessed)")] = None,
    seed: Annotated[int, typer.Option(help="of samples and draws")] = 0,
    encoder: Annotated[str, typer.Option(help="of texts: judges contrast, and makes the features")] = "hashed",
    band: Annotated[
        str | None, typer.Option(help="cosines to the original (default: .2,.98 hashed, else .55,.97)")
    ] = None,
    balance: Annotated[float, typer.Option(min=0.0, help="how unevenly modalities may change")] = 0.15,
    route: Annotated[
        str, typer.Option(help="features: caption (words), delta (the data's own moved), image (edited pictures)")
    ] = "caption",
    editor: Annotated[str, typer.Option(help="route image: drawn (the shop), or module:function of yours")] = "drawn",
    image: Annotated[str, typer.Option(help="route image: the encoder of pictures")] = "colours",
    budget_requests: Annotated[int | None, typer.Option(min=1)] = None,
    budget_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    budget_money: Annotated[float | None, typer.Option(min=0.0, help="needs --prices")] = None,
    budget_minutes: Annotated[float | None, typer.Option(min=0.0, help="of this start")] = None,
    prices: Annotated[Path | None, typer.Option(help="TOML: [MODEL] prompt, completion, for a million tokens")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what it would take")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="go on in a folder that was begun")] = False,
) -> None:
    """Negatives that do not exist: each item with a few key attributes changed, in every modality, judged and exported.

    What is sent where, and what it costs, is in docs/generate.md; the backend `rules` sends nothing.
    """
    from foilrec.content import backends
    from foilrec.content.budget import Budget
    from foilrec.content.editing import Sight
    from foilrec.content.gates import Gates
    from foilrec.content.generation import Generation, Order, forecast
    from foilrec.content.lexicons import goods, read_lists

    way = _route(route)
    lists = goods() if lexicon is None else read_lists(lexicon)
    order = Order(
        difficulties=_numbers("--difficulty", difficulty, int),
        sample=sample,
        personal=personal,
        seed=seed,
        temperature=temperature,
        word_lists=word_lists,
        chooses=choose,
        asked=asked,
        lists=lists,
        pictures=pictures,
        modalities=None if modalities is None else _names(modalities),
        words=_words(words or []),
    )
    given: dict[str, Any] = {"model": model, "url": url, "key_env": key_env, "timeout": timeout, "projector": projector}
    given |= {"threads": threads, "device": device, "lists": lists if backend == "rules" else None}
    whom = backends.build(backend, **{name: value for name, value in given.items() if value is not None})
    price = _price(prices, model)
    seconds = None if budget_minutes is None else 60 * budget_minutes
    limits = Budget(budget_requests, budget_tokens, budget_money, seconds)
    data = _retold(_data(source, reader, o), items, text_columns, id_column)
    sight = Sight.of(data, editor, image) if route == "image" else None
    folder = out or Path("generated") / f"{data.name}-{backend}"
    if dry_run:
        typer.echo(str(forecast(data, folder, order, price, sees=backend in SEEING and data.pictures is not None)))
        return
    made = Generation(
        data,
        folder,
        whom,
        order,
        resume=resume,
        encoder=encoder,
        gates=Gates.of(encoder, _band(band), balance=balance),
        budget=limits,
        price=price,
        workers=workers,
    )
    with closing(made.store):
        _make(made, way, sight)


def _numbers(option: str, text: str, kind: type) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError as error:
        raise BadOption(f"{option} {text!r} must be numbers with commas between.") from error


def _band(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    limits = _numbers("--band", text, float)
    if len(limits) != 2:
        raise BadOption(f"--band {text!r} must be two cosines, such as .55,.97.")
    return limits[0], limits[1]


def _words(pairs: list[str]) -> dict[str, dict[str, str]]:
    from foilrec.content.goods import read_words

    found = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not equals:
            raise BadOption(f"--words {pair!r} must name a modality and a file, such as image=captions.jsonl.")
        found[name] = read_words(Path(path))
    return found


def _data(source: str, reader: str | None, settings: list[str] | None) -> "Data":
    from foilrec.cli.data import _read

    return _read(source, reader, settings)


def _route(name: str) -> "Route":
    if name not in ("caption", "delta", "image"):
        raise BadOption(f"--route {name!r} must be caption, delta or image.")
    return cast("Route", name)


def _price(prices: Path | None, model: str | None) -> "Price":
    from foilrec.content.budget import Price, read_prices

    if prices is None:
        return Price()
    if model is None:
        raise BadOption("--prices is a table by model: say which --model.")
    return read_prices(prices, model)


def _retold(data: "Data", items: Path | None, text_columns: str | None, id_column: str | None) -> "Data":
    """With the texts of a table of items, if one is given."""
    from foilrec.content.listing import Columns, retold

    if items is None:
        if text_columns or id_column:
            raise BadOption("--text-columns and --id-column belong to a table of items: give --items TABLE.")
        return data
    return retold(data, items, Columns(id_column, None if text_columns is None else _names(text_columns)))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _make(made: "Generation", route: "Route", sight: "Sight | None" = None) -> None:
    """Runs to the end, a limit, or an interruption; exports what is there, unless interrupted."""
    from foilrec.content.budget import BudgetSpent
    from foilrec.content.datasheet import write_datasheet
    from foilrec.content.export import export

    ended: BudgetSpent | ModelFailed | None = None
    total = sum(map(len, made.left().values()))
    with _gently(made.stop), _counted(total) as tell:
        try:
            for outcomes in made.run():
                tell(outcomes)
        except (BudgetSpent, ModelFailed) as error:
            ended = error
    again = f"go on with:\n  {_again()}"
    if made.stop.is_set() and ended is None:
        typer.echo(f"Interrupted. Every answer is kept in {made.folder}; {again}", err=True)
        raise typer.Exit(130)
    write_datasheet(made.store, made.folder)
    export(made.store, made.goods, made.encoder, made.folder, route, sight)
    typer.echo(summary(made))
    typer.echo(str(made.folder))
    if ended is not None:
        typer.echo(f"foilrec: {ended} What there is has been written; {again}", err=True)
        raise typer.Exit(1 if isinstance(ended, BudgetSpent) else 2)


def _again() -> str:
    return shlex.join(["foilrec", *(word for word in sys.argv[1:] if word != "--resume"), "--resume"])


def summary(made: "Generation") -> str:
    """What the folder holds, for which items, by whom, and what it took."""
    from foilrec.content.datasheet import coverage, facts, makers

    found = facts(made.store)
    states, spent = found["outcomes"], found["spent"]
    why = ", ".join(f"{gate} {n}" for gate, n in list(found["rejected_by"].items())[:4])
    took = f"{spent['requests']:,} requests, {spent['tokens']:,} tokens"
    took += f", {spent['money']:.4f} money" if spent["money"] else ""
    return (
        f"{states.get('done', 0):,} negatives; {states.get('rejected', 0):,} rejected{f' ({why})' if why else ''}; "
        f"{states.get('failed', 0):,} without an answer; {took}\n"
        f"{coverage(found['items'], found['about'].get('word lists'))}\n{makers(found)}{_cure(found)}"
    )


def _cure(found: dict[str, Any]) -> str:
    """A line on what would help where one gate took more than a third of all."""
    gate, count = next(iter(found["rejected_by"].items()), ("", 0))
    cure = CURES.get(gate.rpartition(": ")[2])
    if not cure or 3 * count <= sum(found["outcomes"].values()):
        return ""
    return f"\n{count:,} were refused by «{gate}»: {cure}."


@contextmanager
def _gently(stop: "Event") -> Iterator[None]:
    """The first Ctrl-C lets answers that are under way arrive; the second leaves at once."""

    def on_interrupt(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        stop.set()
        typer.echo("\nStopping: answers under way may still arrive; Ctrl-C again leaves at once.", err=True)

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _counted(total: int) -> "Iterator[Callable[[list[Outcome]], None]]":
    """A bar on a terminal, a line a tenth of the way elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    counts: Counter[str] = Counter()

    def count(outcomes: "list[Outcome]") -> int:
        before = counts.total()
        counts.update(outcome.state for outcome in outcomes)
        return counts.total() * 10 // max(1, total) - before * 10 // max(1, total)

    if not console.is_terminal:

        def line(outcomes: "list[Outcome]") -> None:
            if count(outcomes):
                refused = f", {counts['rejected']:,} rejected" if counts["rejected"] else ""
                console.print(f"{counts.total():,} of {total:,}{refused}", highlight=False, soft_wrap=True)

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("negatives", total=total)

        def step(outcomes: "list[Outcome]") -> None:
            count(outcomes)
            bar.update(task, completed=counts.total(), description=f"negatives, {counts['rejected']:,} rejected")

        yield step
