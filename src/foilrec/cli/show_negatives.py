"""foilrec show-negatives: what a run's sampler gives for a user and a positive, as items that a person can look at."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foilrec.errors import BadOption

if TYPE_CHECKING:
    from foilrec.auditing.showing import Shown
    from foilrec.run import Run

WRITERS = {".csv": "write_csv", ".jsonl": "write_ndjson", ".parquet": "write_parquet"}


def show_negatives(
    run: Annotated[Path, typer.Argument(help="the folder of a finished run")],
    user: Annotated[str, typer.Option(help="the raw id of a user")],
    item: Annotated[
        list[str] | None, typer.Option(help="the raw id of an item that he took; may be repeated (default: three)")
    ] = None,
    epoch: Annotated[
        str | None, typer.Option(help="of a curriculum: as in this epoch, or several, 0,5,20 (default: the best one)")
    ] = None,
    draws: Annotated[int, typer.Option(min=1, help="how often the sampler is asked")] = 64,
    top: Annotated[int, typer.Option(min=1, help="items a level: the most frequent ones")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table")] = False,
    out: Annotated[Path | None, typer.Option(help="write .csv, .jsonl or .parquet instead")] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE.png", help="the items' pictures, a row a level")] = None,
) -> None:
    """The negatives of a run for one user and item, level by level; made-up ones as the nearest real items.

    The sampler is asked with the weights of the best epoch. Scores are the recommender's; «nearest» is the cosine of a
    made-up negative to the item that stands for it, 1 for an item itself.
    """
    from foilrec.auditing.showing import show
    from foilrec.run import Run

    if out is not None and out.suffix not in WRITERS:
        raise BadOption(f"--out {out}: the ending must be one of {', '.join(WRITERS)}.")
    if png is not None and png.suffix.lower() != ".png":
        raise BadOption(f"--png {png}: the ending must be .png.")
    loaded = Run(run)
    if png is not None and loaded.data.pictures is None:
        raise BadOption(f"--png {png}: {loaded.data.name} has no pictures.")
    found = show(loaded, user, item or (), epochs=_epochs(epoch), draws=draws, top=top)
    if png is not None:
        _draw(loaded, found, png)
    if as_json:
        import json

        typer.echo(json.dumps([each.as_dict() for each in found], indent=2, ensure_ascii=False))
    elif out is not None:
        _write(found, out)
    else:
        _tell(found)


def _epochs(text: str | None) -> list[int]:
    try:
        epochs = [] if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        epochs = [-1]
    if any(epoch < 0 for epoch in epochs):
        raise BadOption(f"--epoch {text}: write a number from 0, or several with commas between, such as 0,5,20.")
    return epochs


def _sections(found: "list[Shown]") -> "list[list[Shown]]":
    """A positive and what was drawn for it, one after another."""
    starts = [n for n, each in enumerate(found) if each.level == "positive"]
    return [found[a:b] for a, b in zip(starts, [*starts[1:], len(found)], strict=True)]


def _draw(run: "Run", found: "list[Shown]", path: Path) -> None:
    """A row a level, the positive first."""
    from foilrec.content.pictures import png
    from foilrec.content.strip import strip
    from foilrec.files import written_whole

    rows = []
    for positive, *negatives in _sections(found):
        for level in dict.fromkeys(each.level for each in negatives):
            rows.append([positive.number, *(each.number for each in negatives if each.level == level)])
    assert run.data.pictures is not None
    with written_whole(path) as draft:
        draft.write_bytes(png(strip(run.data.pictures, rows)))


def _write(found: "list[Shown]", path: Path) -> None:
    import polars as pl

    from foilrec.files import written_whole

    table = pl.DataFrame([each.as_dict() for each in found], infer_schema_length=None)
    with written_whole(path) as draft:
        getattr(table, WRITERS[path.suffix])(draft)
    typer.echo(f"{len(table)} rows: {path}")


def _tell(found: "list[Shown]") -> None:
    """A heading for each positive and epoch, and a table below."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, highlight=False)
    for positive, *negatives in _sections(found):
        liked = "" if positive.liked is None else f", truly liked {positive.liked:.0%}"
        title = f" «{positive.title}»" if positive.title else ""
        typer.echo(
            f"{positive.user} took {positive.item}{title}: score {positive.score:.3f}{liked}; epoch {positive.epoch}"
        )
        head, rows = (
            ["level", "item", "title", "drawn", "score", "its own", "to positive", "nearest", "seen", "liked"],
            [],
        )
        for each in negatives:
            rows.append(
                [
                    each.level,
                    str(each.item),
                    each.title or "",
                    f"{each.draws} ({each.share:.0%})",
                    f"{each.score:.3f}",
                    f"{each.item_score:.3f}",
                    f"{each.cosine:.2f}",
                    f"{each.nearest:.2f}",
                    "yes" if each.seen else "",
                    "" if each.liked is None else f"{each.liked:.0%}",
                ]
            )
        told = [n for n in range(len(head)) if any(row[n] for row in rows)]
        if console.is_terminal:
            table = Table(*(head[n] for n in told), box=SIMPLE_HEAD, pad_edge=False)
            for row in rows:
                table.add_row(*(row[n] for n in told))
            console.print(table)
        else:
            widths = {n: max(len(row[n]) for row in [head, *rows]) for n in told}
            for row in [head, *rows]:
                typer.echo("  ".join(row[n].ljust(widths[n]) for n in told).rstrip())
            typer.echo()
