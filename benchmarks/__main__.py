"""Every benchmark: python -m benchmarks [training steps sequences lattice ranking negatives footprint gpu]."""

import os
import platform
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import footprint, gpu, lattice, negatives, ranking, sequences, steps, training
from benchmarks.clock import Row, store, stored

LINES = Path("benchmarks/results.jsonl")
ALL = {
    "training": training.rows,
    "steps": steps.rows,
    "sequences": sequences.rows,
    "lattice": lattice.rows,
    "ranking": ranking.rows,
    "negatives": negatives.rows,
    "footprint": footprint.rows,
    "gpu": gpu.rows,
}


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


HEAD = """# Speed

Written by `make bench`: CPU and wall seconds on one thread, ours beside the usual form in one process, on made-up data
of Baby's size (19,445 users, 7,050 items, features of 4,096 and 384 dimensions) unless a row says otherwise. The usual
form (`benchmarks/usual.py`) is our own writing of what toolboxes do: trainable feature tables, dense unfused Adam, the
whole catalogue projected at each step, COO products, negatives and hits in Python. Training is timed once
warm, the least of four rounds of either form. A bar is the least ratio aimed at; a
row below its bar falls short. Rows of one kind (training, steps, sequences, lattice, ranking, negatives, footprint)
are of one run, the last. Where wall seconds are far above CPU seconds the machine was busy with other work: read such
rows by their ratios, which are of rounds in turn. Rows of samplers are of their state after an epoch: gdnsm's
levels are not open then; «times uniform's» is beside another timing of uniform than that of its own row, and for dens
and mixgcf on a LightGCN that keeps its layers, which has no row. Machine: {machine}.

| what | ours, CPU s | wall s | usual, CPU s | wall s | ratio | bar | note |
|---|---|---|---|---|---|---|---|
"""


def page(rows: list[Row]) -> str:
    """The same as Markdown."""
    lines = []
    for row in rows:
        usual = ["", ""] if row.usual_cpu is None else [f"{row.usual_cpu:.3g}", f"{row.usual_wall:.3g}"]
        ratio = "" if row.ratio is None else f"{row.ratio:.1f}"
        bar = "" if row.bar is None else f"{row.bar:g}"
        cells = [row.what, f"{row.ours_cpu:.3g}", f"{row.ours_wall:.3g}", *usual, ratio, bar, row.note]
        lines.append(f"| {' | '.join(cells)} |\n")
    return HEAD.format(machine=f"{platform.machine()}, {os.cpu_count()} cores, no GPU") + "".join(lines)


def main(names: list[str]) -> None:
    """Runs some benchmarks on one thread, prints and stores them, and writes the page of each group's last run."""
    torch.set_num_threads(1)
    for name in names or ALL:
        rows = ALL[name]()
        store(name, rows, LINES)
        Console(width=160).print(table(rows))
        every = [row for group in ALL for row in stored(group, LINES)]
        Path("docs/speed.md").write_text(page(every), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
