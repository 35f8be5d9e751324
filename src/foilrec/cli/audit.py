"""foilrec audit: how hard, how false and how varied the negatives of a recipe or a run are, and what to do about it."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foilrec.cli.work import Changes
from foilrec.errors import BadOption, did_you_mean

if TYPE_CHECKING:
    from foilrec.auditing.audit import Audit
    from foilrec.hardness import Reading

EPOCHS = 3  # of a recipe: enough for scores to mean something
ROWS = 16384  # training rows measured: false negatives are rare, and a few hundred draws meet none
LEGEND = (
    "harder than: share of the items a user has not taken that score lower (middle half: its quartiles); more alike "
    "than: the same by likeness to the positive; beat positive: share scoring above it; height / positive's: above the "
    "user's mean score, the positive at 1; gradient of top 1%: what the "
    "heaviest 1% of the negatives carry; false / uniform: validation positives drawn, over uniform's (95% bounds); "
    "truly liked: how likely users like them, where the world tells; items reached / uniform: distinct items drawn; "
    "repeats: draws that repeat one of their row. Of made-up vectors: their length over the items', and how far they "
    "lie from the nearest item and from the positive, in mean lengths of an item (1 - cos to it: by angle)."
)


def audit(
    what: Annotated[Path, typer.Argument(metavar="RECIPE|RUN", help="a TOML file, or a run folder")],
    changes: Changes = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help=f"of a recipe: train so many (default: {EPOCHS}, or train.epochs=N)")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="training rows whose negatives are measured")] = ROWS,
    samplers: Annotated[
        str | None, typer.Option(help="of a recipe: compare these, with commas between, or «all»; one line each")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE.json", help="write the figures there too")] = None,
) -> None:
    """Measures how hard, how false and how varied negatives are: of a recipe in its first epochs, or of a run.

    A recipe is trained in a temporary folder; the test set is not scored, and nothing is left behind.
    """
    if out is not None and out.suffix != ".json":
        raise BadOption(f"--out {out}: the figures are written as JSON: let its name end in .json.")
    if what.is_dir():
        if changes or epochs or samplers:
            raise BadOption(
                f"{what} is a run, whose recipe is settled: changes, --samplers and --epochs go with a recipe's file."
            )
        found = _of_run(what, rows)
    elif what.exists():
        found = _of_recipe(what, changes or [], epochs, rows, samplers)
    else:
        raise BadOption(f"There is no recipe and no run {what}{did_you_mean(what.name, _near(what)) or '.'}")
    if out is not None:
        from foilrec.files import write_json

        write_json(out, found.as_dict())
    if as_json:
        import json

        typer.echo(json.dumps(found.as_dict(), indent=2, ensure_ascii=False))
    else:
        _tell(found)


def _near(what: Path) -> list[str]:
    """What could have been meant: recipes and run folders beside it."""
    if not what.parent.is_dir():
        return []
    return [p.name for p in what.parent.iterdir() if p.suffix == ".toml" or (p / "recipe.toml").is_file()]


def _of_run(folder: Path, rows: int) -> "Audit":
    from foilrec.auditing.audit import audit_run
    from foilrec.run import Run

    return audit_run(Run(folder), rows)


def _of_recipe(path: Path, changes: list[str], epochs: int | None, rows: int, samplers: str | None) -> "Audit":
    from foilrec import parts
    from foilrec.auditing.audit import audit_recipe, audit_samplers
    from foilrec.cli.progress import shown
    from foilrec.recipe import Recipe

    last = [] if epochs is None else [f"train.epochs={epochs}"]
    recipe = Recipe.load(path, [f"train.epochs={EPOCHS}", *changes, *last, f"train.meter={rows}"])
    if samplers is not None:
        names = parts.names("sampler") if samplers == "all" else [n.strip() for n in samplers.split(",") if n.strip()]
        if not names:
            raise BadOption(f"--samplers {samplers!r} names no sampler: write some with commas between, or «all».")
        for name in names:
            parts.find("sampler", name)  # a wrong name is told before anything is trained
        return audit_samplers(recipe, names, lambda name: typer.echo(f"{name} ...", err=True))
    with shown(recipe) as (on_epoch, on_step):
        return audit_recipe(recipe, on_epoch=on_epoch, on_step=on_step)


def _tell(found: "Audit") -> None:
    """Tables on a terminal, as wide as it is; plain lines elsewhere; then what to note, and the advice."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, highlight=False)
    rows = table_of(found)
    if console.is_terminal:
        for columns in pages(rows, console.width):
            table = Table(*(rows[0][c] for c in columns), box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
            for column, c in zip(table.columns, columns, strict=True):
                column.width = _width(rows, c)
            for row in rows[1:]:
                table.add_row(*(row[c] for c in columns))
            console.print(table)
    else:
        widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
        for row in rows:
            typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    console.print(f"\n{LEGEND}\n", soft_wrap=not console.is_terminal)
    for sentence in (*found.notes, *found.advice):
        console.print(f"- {sentence}", soft_wrap=not console.is_terminal)


def _width(rows: list[list[str]], column: int) -> int:
    """What a column needs when its head is broken between words."""
    return max(len(word) for word in (*rows[0][column].split(), *(row[column] for row in rows[1:])))


def pages(rows: list[list[str]], width: int) -> list[list[int]]:
    """The columns of each of several tables so wide, the first two (when, and which draws) in all of them."""
    fixed = _width(rows, 0) + _width(rows, 1) + 4
    made, left = [[0, 1]], width - fixed
    for column in range(2, len(rows[0])):
        needs = _width(rows, column) + 2
        if needs > left and len(made[-1]) > 2:
            made.append([0, 1])
            left = width - fixed
        made[-1].append(column)
        left -= needs
    return made


def table_of(found: "Audit") -> list[list[str]]:
    """Head and rows, one a moment and part of the draws; columns that say nothing anywhere are left out."""
    rows = [(moment.when, name, reading) for moment in found.moments for name, reading in moment.readings.items()]
    cells = [[tell(reading) for _, _, reading in rows] for tell in COLUMNS.values()]
    told = [(head, column) for head, column in zip(COLUMNS, cells, strict=True) if any(column)]
    costs = {moment.when: moment.cost for moment in found.moments if moment.cost is not None}
    if costs:
        told.append(("ms / 1,000 drawn", [f"{costs[when]:.2f}" for when, _, _ in rows]))
    body = [[when, name, *(column[n] for _, column in told)] for n, (when, name, _) in enumerate(rows)]
    return [["sampler" if costs else "when", "which", *(head for head, _ in told)], *body]


def _false(at: "Reading") -> str:
    if at.false_ratio is None:
        return ""
    return f"{at.false_ratio:.2f} ({at.false_low:.2f}-{at.false_high:.2f})"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


COLUMNS: dict[str, "Callable[[Reading], str]"] = {
    "draws": lambda at: str(at.draws),
    "harder than": lambda at: _share(at.percentile),
    "middle half": lambda at: f"{at.percentile_quartiles[0]:.0%}-{at.percentile_quartiles[2]:.0%}",
    "more alike than": lambda at: _share(at.similarity),
    "beat positive": lambda at: _share(at.above),
    "height / positive's": lambda at: _number(at.height),
    "gradient of top 1%": lambda at: _share(at.gradient_top),
    "false / uniform": _false,
    "truly liked": lambda at: _share(at.liked),
    "liked / uniform": lambda at: _number(at.liked_ratio),
    "items reached / uniform": lambda at: _number(at.coverage_ratio),
    "repeats": lambda at: _share(at.repeats),
    "length / items'": lambda at: _number(at.norm),
    "to nearest item": lambda at: _number(at.nearest),
    "1 - cos to it": lambda at: _number(at.nearest_cosine),
    "to positive": lambda at: _number(at.to_positive),
}
