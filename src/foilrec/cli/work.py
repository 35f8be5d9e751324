"""Commands that train and put to use: demo, train, evaluate, recommend."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foilrec.errors import BadOption, some

if TYPE_CHECKING:
    from foilrec.core import Data
    from foilrec.recipe import Recipe
    from foilrec.run import Run

SHOWN = 10  # users that a terminal shows when none are named
Changes = Annotated[
    list[str] | None,
    typer.Argument(help="changes to the recipe, such as sampler.name=dns seed=3", metavar="KEY=VALUE"),
]


def demo(
    out: Annotated[Path | None, typer.Option(help="where the runs go (default: a temporary folder)")] = None,
    seed: Annotated[int, typer.Option(help="seed of the runs")] = 0,
) -> None:
    """Trains a recommender on the synthetic shop with negatives of three hardnesses, and compares them."""
    from foilrec.demonstration import demonstrate

    demonstrate(out, seed)


def train(
    recipe: Annotated[Path, typer.Argument(help="a TOML file; recipes/ has many")],
    changes: Changes = None,
    out: Annotated[Path | None, typer.Option(help="the run folder (default: runs/NAME-DIGEST-sSEED)")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on where the folder's checkpoint stands")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="only the result")] = False,
    seeds: Annotated[
        str | None, typer.Option(help="several runs: how many, such as 5, or which, such as 1,2,5; --out holds them")
    ] = None,
) -> None:
    """Trains a recipe to the end, scores the test set once, and leaves a run folder."""
    from foilrec.recipe import Recipe
    from foilrec.stretch import default_folder

    chosen, words = Recipe.load(recipe, changes or ()), [str(recipe), *(changes or ())]
    if seeds is not None:
        _train_seeds(chosen, seeds, out, words, resume=resume, quiet=quiet)
        return
    folder = out or default_folder(chosen)
    again = shlex.join(["foilrec", "train", *words, "--out", str(folder), "--resume"])
    run = _to_the_end(chosen, folder, None, again, resume=resume, quiet=quiet)
    typer.echo(result(run.scores["test"], run.scores["best_epoch"]))
    typer.echo(str(run.folder))


def _to_the_end(recipe: "Recipe", folder: Path, data: "Data | None", again: str, *, resume: bool, quiet: bool) -> "Run":
    """The finished run; an interruption tells the command that goes on, and exits."""
    from foilrec.cli.progress import shown
    from foilrec.stretch import train as run_to_the_end

    try:
        with shown(recipe, quiet=quiet) as (on_epoch, on_step):
            say = None if quiet else _say
            return run_to_the_end(
                recipe, folder, data=data, resume=resume, on_start=say, on_epoch=on_epoch, on_step=on_step
            )
    except KeyboardInterrupt:
        saved = (folder / "last.safetensors").is_file()
        where = f"The last finished epoch is saved in {folder}" if saved else "No epoch was finished"
        typer.echo(f"\nInterrupted. {where}; go on with:\n  {again}", err=True)
        raise typer.Exit(130) from None


def _say(notes: Sequence[str]) -> None:
    """What the parts must tell before they train."""
    for note in notes:
        typer.echo(note, err=True)


def _train_seeds(
    recipe: "Recipe", seeds: str, out: Path | None, words: list[str], *, resume: bool, quiet: bool
) -> None:
    """A run for each seed, a line for each run, and then their means with intervals."""
    from foilrec.cli.contest import show
    from foilrec.comparing.compare import compare
    from foilrec.repeat import repeat, seeds_of

    where = [] if out is None else ["--out", str(out)]
    again = shlex.join(["foilrec", "train", *words, "--seeds", seeds, *where, "--resume"])

    def one(chosen: "Recipe", folder: Path, data: "Data") -> "Run":
        if not quiet:
            typer.echo(f"seed {chosen.seed}: {folder}", err=True)
        return _to_the_end(chosen, folder, data, again, resume=resume, quiet=quiet)

    runs = repeat(recipe, seeds_of(seeds, recipe.seed), out, resume=resume, one=one)
    for run in runs:
        typer.echo(str(run.folder))
    show(compare(runs))


def result(means: dict[str, float], epoch: int) -> str:
    """One line of test scores."""
    names = [name for name in means if name.split("@")[0] in ("recall", "ndcg")]
    return f"test, from epoch {epoch}: " + "  ".join(f"{name} {means[name]:.4f}" for name in names)


def evaluate(
    run: Annotated[Path, typer.Argument(help="a run folder")],
    split: Annotated[str, typer.Option(help="test or valid")] = "test",
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table")] = False,
) -> None:
    """Scores the best weights of a run again, by the protocol of its recipe."""
    import json

    from foilrec.run import Run

    scores = Run(run).evaluate(split)
    if as_json:
        typer.echo(json.dumps({"protocol": scores.protocol.as_dict(), "users": len(scores.users), **scores.means}))
        return
    typer.echo(f"{split}: {len(scores.users)} users, hidden from the ranking: {' and '.join(scores.protocol.masked)}")
    for name, value in scores.means.items():
        typer.echo(f"  {name:<16} {value:.6f}")


def recommend(
    run: Annotated[Path, typer.Argument(help="a run folder")],
    users: Annotated[str, typer.Option(help="raw ids with commas between, @FILE with one a line, or all")] = "all",
    top: Annotated[int, typer.Option(min=1, help="how many items a user")] = 10,
    out: Annotated[Path | None, typer.Option(help=".parquet, .csv or .jsonl (default: the terminal)")] = None,
    hide: Annotated[str | None, typer.Option(help="raw ids of items that nobody gets, or @FILE")] = None,
    only: Annotated[str | None, typer.Option(help="raw ids of the items to choose from, or @FILE")] = None,
) -> None:
    """The best items for some users, in the source's own ids.

    What they took in training is left out; of a run over histories, all that they took.
    """
    from foilrec import run as runs
    from foilrec.files import written_whole

    writers = {".parquet": "write_parquet", ".csv": "write_csv", ".jsonl": "write_ndjson"}
    if out is not None and out.suffix not in writers:
        raise BadOption(f"--out {out}: the ending must be one of {', '.join(writers)}.")
    loaded = runs.Run(run)
    asked = None if users == "all" else _ids("users", users)
    hidden, chosen = (None if ids is None else _ids(name, ids) for name, ids in (("hide", hide), ("only", only)))
    unknown = [] if asked is None else loaded.known_users(asked)[1]
    if asked and len(unknown) == len(asked):
        hint = f" Write --users @{users} to read that file." if Path(users).is_file() else ""
        raise BadOption(f"The training data has none of the users {some(unknown)}, or no training row of them.{hint}")
    known = None if asked is None else [user for user in asked if user not in unknown]
    table = loaded.recommend(known, top, hide=hidden or (), only=chosen)
    if out is None:
        every = table["user"].unique(maintain_order=True)
        few = users == "all" and sys.stdout.isatty() and len(every) > SHOWN
        shown = table.filter(table["user"].is_in(every[:SHOWN].implode())) if few else table
        typer.echo(shown.write_csv(separator="\t"), nl=False)
        if few:
            typer.echo(f"The first {SHOWN} of {len(every):,} users; --out FILE takes all.", err=True)
    else:
        with written_whole(out) as draft:
            getattr(table, writers[out.suffix])(draft)
        typer.echo(f"{table['user'].n_unique()} users, {len(table)} rows: {out}")
    for name, items in (("hide", hidden), ("only", chosen)):
        if lacking := loaded.known_items(items or ())[1]:
            typer.echo(f"--{name}: the training data has none of {some(lacking)}.", err=True)
    if unknown:
        said = f"the training data has nothing of {len(unknown):,} of those asked for, who got no recommendations"
        typer.echo(f"foilrec: {said}: {some(unknown, 20)}.", err=True)
        raise typer.Exit(1)


def _ids(option: str, text: str) -> list[str]:
    try:
        parts = Path(text[1:]).read_text(encoding="utf-8-sig").splitlines() if text.startswith("@") else text.split(",")
    except FileNotFoundError as error:
        raise BadOption(f"--{option} {text}: there is no file {text[1:]}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadOption(f"--{option} {text}: {text[1:]} cannot be read as text ({error}).") from error
    ids = [part.strip() for part in parts if part.strip()]
    if not ids:
        raise BadOption(f"--{option} {text!r} names none.")
    return ids
