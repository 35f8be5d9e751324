"""The command that writes a finished run for a vector index or another program."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Form(StrEnum):
    """How vectors and ids are written."""

    parquet = "parquet"
    npy = "npy"


def export(
    run: Annotated[Path, typer.Argument(help="a run folder")],
    out: Annotated[Path, typer.Option(help="the folder to write, new or empty")],
    form: Annotated[Form, typer.Option("--format", help="parquet, or npy with ids in .txt beside it")] = Form.parquet,
    force: Annotated[bool, typer.Option("--force", help="replace an export that stands there")] = False,
) -> None:
    """Vectors of items and users with the source's ids, whose dot products are the run's scores, and about.json."""
    from foilrec.run import Run
    from foilrec.serving import export as written

    about = written(Run(run), out, form=form.value, force=force)
    for name, rows in about["files"].items():
        typer.echo(f"{out / name}: {rows:,} rows" + ("" if name.endswith(".txt") else f" x {about['dim']}"))
    typer.echo(f"{out / 'about.json'}: a score is {about['score']}.")
    if "users" not in {Path(name).stem for name in about["files"]}:
        typer.echo(about["query"], err=True)
