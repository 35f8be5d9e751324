"""foilrec data: describe, validate and convert data sets."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from foilrec.data import Data

app = typer.Typer(no_args_is_help=True, help="Look at a data set, check it, or write it in another layout.")

_Path = Annotated[
    str, typer.Argument(metavar="PATH", help="A file, a folder, a recipe, or the name of a reader such as shop.")
]
_Reader = Annotated[str | None, typer.Option("--reader", help="The reader to use; guessed when left out.")]
_Options = Annotated[
    list[str] | None, typer.Option("-o", metavar="KEY=VALUE", help="An option of the reader; repeat it.")
]


@app.command()
def describe(path: _Path, reader: _Reader = None, o: _Options = None) -> None:
    """Print how large and how dense a data set is, and what its items look like."""
    from rich.console import Console
    from rich.table import Table

    from foilrec.reading.describe import describe as rows_of

    rows, console = rows_of(_read(path, reader, o)), Console(markup=False, highlight=False)
    if not console.is_terminal:
        width = max(len(what) for what, _ in rows)
        for what, value in rows:
            typer.echo(f"{what:<{width}}  {value}")
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


@app.command()
def validate(path: _Path, reader: _Reader = None, o: _Options = None) -> None:
    """Read a data set, and say which checks it passed and what was found on the way."""
    from foilrec.reading.describe import checks_passed

    data = _read(path, reader, o)
    for check in checks_passed(data):
        typer.echo(f"ok    {check}")
    for note in data.notes:
        typer.echo(f"note  {note}")
    typer.echo(f"{data.name} can be used; fingerprint {data.fingerprint}")


@app.command()
def convert(
    path: _Path,
    out: Annotated[str, typer.Argument(metavar="OUT", help="The folder to write: new, or empty.")],
    reader: _Reader = None,
    o: _Options = None,
) -> None:
    """Write a data set in the layout of MMRec: whole, or not at all."""
    from foilrec.reading.convert import convert as write

    data = _read(path, reader, o)
    typer.echo(f"{write(data, out)}: {data.n_users:,} users, {data.n_items:,} items, fingerprint {data.fingerprint}")
    for note in data.notes:
        typer.echo(f"note  {note}")
    kept = (
        "each row's place among its user's, not its time"
        if data.timed
        else "no times: they are kept of a split by them"
    )
    typer.echo(f"note  written are this split, and {kept}. To split otherwise, convert the source anew.")


def _read(path: str, reader: str | None, settings: list[str] | None) -> "Data":
    """The data set, from a path, a reader's name or a recipe, and options «key=value» in TOML's words or as text."""
    from foilrec import parts
    from foilrec.reading import read
    from foilrec.reading.guess import settings_of

    options = settings_of(settings or [])
    if reader is None and path.endswith(".toml"):
        from foilrec.recipe import Recipe

        return Recipe.load(path, [f"data.{setting}" for setting in settings or []]).read()
    if reader is None:
        return read(path, **options)
    data: Data = parts.build("dataset", reader, **{"path": path} | options).read()
    return data
