"""Every benchmark: python -m benchmarks [training ranking negatives footprint]."""

import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import footprint, negatives, ranking, training
from benchmarks.clock import Row, store

ALL = {"training": training.rows, "ranking": ranking.rows, "negatives": negatives.rows, "footprint": footprint.rows}


def table(rows: list[Row]) -> Table:
    """What a person reads."""
    shown = Table("what", "ours, CPU s", "wall", "usual, CPU s", "wall", "ratio", "bar", "note")
    for row in rows:
        usual = ["", ""] if row.usual_cpu is None else [f"{row.usual_cpu:.3g}", f"{row.usual_wall:.3g}"]
        ratio = "" if row.ratio is None else f"{row.ratio:.1f}"
        shown.add_row(
            row.what,
            f"{row.ours_cpu:.3g}",
            f"{row.ours_wall:.3g}",
            *usual,
            ratio,
            "" if row.bar is None else f"{row.bar:g}",
            row.note,
        )
    return shown


def main(names: list[str]) -> None:
    """Runs some benchmarks on one thread, prints them, and stores a JSON line for each figure."""
    torch.set_num_threads(1)
    rows = [row for name in names or ALL for row in ALL[name]()]
    store(rows, Path("benchmarks/results.jsonl"))
    Console(width=160).print(table(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
