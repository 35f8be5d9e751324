"""The command that mines hard negatives from a trained model."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foilrec.errors import BadOption

if TYPE_CHECKING:
    from foilrec.mining.mine import Mined


class Pick(StrEnum):
    """Which of those that are left."""

    best = "best"
    random = "random"


class Way(StrEnum):
    """How the best items of a query are found."""

    auto = "auto"
    exact = "exact"
    approximate = "approximate"


WRITERS = {".parquet": "write_parquet", ".jsonl": "write_ndjson"}


def mine(
    source: Annotated[Path, typer.Argument(help="a run folder, or item vectors in a .npy file")],
    out: Annotated[Path, typer.Option(help=".parquet or .jsonl")],
    pairs: Annotated[Path | None, typer.Option(help="with vectors: .npy [P, 2], or CSV/parquet: query, item")] = None,
    queries: Annotated[Path | None, typer.Option(help="with vectors: those of the queries (default: items)")] = None,
    ranks: Annotated[str, typer.Option(help="the window of places, from 1, of what is no positive")] = "10-100",
    count: Annotated[int, typer.Option(help="negatives a positive")] = 5,
    max_score: Annotated[float | None, typer.Option(help="leave out what scores higher")] = None,
    margin: Annotated[float | None, typer.Option(help="leave out what is less than this below the positive")] = None,
    relative: Annotated[float | None, typer.Option(help="leave out above (1 - this) x the positive's score")] = None,
    pick: Annotated[Pick, typer.Option(help="of what is left: the best, or random ones")] = Pick.best,
    seed: Annotated[int, typer.Option(help="of random picks")] = 0,
    cosine: Annotated[bool, typer.Option("--cosine", help="score by cosine instead of dot product")] = False,
    search: Annotated[Way, typer.Option(help="approximate: faiss; auto: exact up to 100,000 items")] = Way.auto,
) -> None:
    """Hard negatives for every positive, in the source's ids, and a table of how hard and what was left out."""
    from foilrec.files import written_whole
    from foilrec.mining.mine import Rules
    from foilrec.mining.quarry import of_files, of_run

    if out.suffix not in WRITERS:
        raise BadOption(f"--out {out}: the ending must be one of {', '.join(WRITERS)}.")
    rules = Rules(_window(ranks), count, max_score, margin, relative, pick.value, seed)
    if source.suffix == ".npy":
        if pairs is None:
            raise BadOption("Vectors alone do not say what is a positive of what: give --pairs.")
        quarry = of_files(source, pairs, queries)
    else:
        if source.is_file():
            raise BadOption(f"{source} is no run folder, and vectors end in .npy: name one of the two.")
        if pairs is not None or queries is not None:
            raise BadOption("--pairs and --queries belong to vectors: a run brings its own.")
        quarry = of_run(source)
    found = quarry.mine(rules, cosine=cosine, search=search.value)
    with written_whole(out) as draft:
        getattr(quarry.frame(found), WRITERS[out.suffix])(draft)
    typer.echo(told(found, rules.count))
    typer.echo(str(out))


def _window(text: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    if not (dash and text.isascii() and first.strip().isdecimal() and last.strip().isdecimal()):
        raise BadOption(f"--ranks {text!r} must be two places, such as 10-100.")
    return int(first), int(last)


def told(found: "Mined", count: int) -> str:
    """What a person reads: scores by percentile, and what each filter took out."""
    width = max(len(name) for name, _ in found.table()) if found.table() else 0
    lines = [f"{'':<{width}}  " + "  ".join(f"{name:>9}" for name in ("1%", "25%", "50%", "75%", "99%"))]
    lines += [f"{name:<{width}}  " + "  ".join(f"{v:9.4f}" for v in values) for name, values in found.table()]
    got = (found.ids >= 0).sum(1)
    lines.append(f"{len(got):,} positives, {found.within:,} candidates in the window of ranks")
    lines += [f"  left out by {name}: {gone:,}" for name, gone in found.removed.items()]
    lines.append(f"{int(got.sum()):,} negatives; {int((got < count).sum()):,} positives got fewer than {count}")
    return "\n".join(lines)
