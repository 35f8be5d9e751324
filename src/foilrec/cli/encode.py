"""The command that turns what items say and show into features."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foilrec.content.encoders import names
from foilrec.errors import BadOption

if TYPE_CHECKING:
    from foilrec.content.listing import Listing


def _listed(modality: str) -> str:
    return f"{', '.join(names(modality))}, or a model: OWNER/MODEL or ./FOLDER"


def encode(
    source: Annotated[
        str, typer.Argument(metavar="DATA|RECIPE|ITEMS", help="a data set, a TOML file, or a table of items")
    ],
    changes: Annotated[
        list[str] | None, typer.Argument(help="options of encoders, such as text.dim=64", metavar="KEY=VALUE")
    ] = None,
    out: Annotated[Path, typer.Option(help="the folder of the features; that of the data will do")] = Path("features"),
    text: Annotated[str | None, typer.Option(help=_listed("text"))] = None,
    image: Annotated[str | None, typer.Option(help=_listed("image"))] = None,
    items: Annotated[Path | None, typer.Option(help="a table of texts and pictures, if the data has none")] = None,
    pictures: Annotated[Path | None, typer.Option(help="a folder of ID.jpg or ID.png, or a .npy file of them")] = None,
    id_column: Annotated[str | None, typer.Option(help="of a table of items: the ids (default: guessed)")] = None,
    text_columns: Annotated[str | None, typer.Option(help="its texts, with commas between (default: guessed)")] = None,
    picture_column: Annotated[str | None, typer.Option(help="paths of its pictures (default: guessed)")] = None,
    reader: Annotated[str | None, typer.Option(help="the reader to use; guessed when left out")] = None,
    o: Annotated[list[str] | None, typer.Option("-o", metavar="KEY=VALUE", help="an option of the reader")] = None,
) -> None:
    """Features of items from their texts and pictures, as the readers take them, and a record of what made them.

    What was encoded once is kept and not encoded again; an interrupted encoding goes on where it stood.
    """
    from foilrec.content.listing import Columns
    from foilrec.reading.guess import settings_of

    chosen = {modality: name for modality, name in (("text", text), ("image", image)) if name is not None}
    if not chosen:
        raise BadOption("Say which encoder: --text NAME, --image NAME, or both.")
    options = _options(changes or [], chosen)
    said = None if text_columns is None else [name.strip() for name in text_columns.split(",")]
    columns = Columns(id_column, said, picture_column)
    listing = _listing(source, reader, settings_of(o or []), items, pictures, columns)
    try:
        _encode(listing, out, chosen, options)
    except KeyboardInterrupt:
        again = shlex.join(["foilrec", *sys.argv[1:]])
        typer.echo(
            f"\nInterrupted. What was encoded is kept (unless FOILREC_CACHE=0); go on with:\n  {again}", err=True
        )
        raise typer.Exit(130) from None


def _options(changes: list[str], chosen: dict[str, str]) -> dict[str, dict[str, Any]]:
    """{modality: options of its encoder}."""
    from foilrec.toml import value_of

    options: dict[str, dict[str, Any]] = {modality: {} for modality in chosen}
    for change in changes:
        key, equals, value = change.partition("=")
        modality, dot, name = key.partition(".")
        if not equals or not dot or modality not in chosen:
            raise BadOption(
                f"{change!r} is no option of an encoder: write {' or '.join(f'{m}.KEY=VALUE' for m in chosen)}."
            )
        options[modality][name] = value_of(value)
    return options


def _listing(
    source: str,
    reader: str | None,
    options: dict[str, Any],
    items: Path | None,
    pictures: Path | None,
    columns: Any,
) -> "Listing":
    from dataclasses import replace

    from foilrec.content.listing import Columns, listing, of_table, pictures_of

    found = listing(source, reader, options, columns if items is None else Columns())
    if items is not None:
        found = found.told_by(of_table(items, columns))
    elif found.reader and columns != Columns():
        raise BadOption(f"{source} is a data set: columns belong to a table of items, --items TABLE.")
    return found if pictures is None else replace(found, pictures=pictures_of(found.ids, pictures))


def _encode(listing: "Listing", out: Path, chosen: dict[str, str], options: dict[str, dict[str, Any]]) -> None:
    import torch

    from foilrec.cli.progress import counted
    from foilrec.content import encoders
    from foilrec.content.encoding import encode as rows_of
    from foilrec.content.featurefile import claim, usage, write
    from foilrec.content.pixels import readable
    from foilrec.provenance import free_cores

    for modality in chosen:
        listing.of(modality)
        claim(out, modality, listing.ids)
    if "image" in chosen:
        readable(listing.of("image"))  # before the texts, which take their time
    torch.set_num_threads(free_cores())
    paths = []
    for modality, name in chosen.items():
        encoder = encoders.load(modality, name, listing.texts or (), **options[modality])
        with counted(modality) as (step, say):
            made = rows_of(modality, listing.of(modality), encoder, step, say)
        paths.append(write(out, modality, listing, encoder, made))
        kept = f", {made.found:,} of them kept from before" if made.found else ""
        typer.echo(
            f"{paths[-1]}: {len(made.rows):,} items x {encoder.dim} by {encoder.name}@{encoder.revision}; "
            f"{made.distinct:,} distinct{kept}"
        )
        if made.masked:
            why = "; ".join(f"{listing.ids[number]} ({reason})" for number, reason in list(made.masked.items())[:3])
            more = f", and {len(made.masked) - 3:,} more" if len(made.masked) > 3 else ""
            typer.echo(f"  {len(made.masked):,} items lack it (zeros, listed in {modality}_feat.json): {why}{more}")
    typer.echo(usage(listing, paths))
