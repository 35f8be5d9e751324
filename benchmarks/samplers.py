"""Every sampler side by side on the shop, lfm2k and Baby: python -m benchmarks.samplers, which writes docs/samplers.md.

The figures of each run are kept in docs/samplers.jsonl; data sets that are not there (FOILREC_DATA) keep their lines.
"""

import json
import sys
from pathlib import Path
from typing import Any

from foilrec import parts
from foilrec.auditing.audit import audit_samplers
from foilrec.cli.audit import LEGEND, table_of
from foilrec.errors import FoilrecError
from foilrec.recipe import Recipe

PAGE, LINES = Path("docs/samplers.md"), Path("docs/samplers.jsonl")
ROWS, SKIPPED = 8192, ("mixed", "neggen")  # made of others; read from a folder
PLACES: dict[str, tuple[dict[str, Any], int]] = {
    "shop": ({"name": "shop"}, 10),
    "lfm2k": ({"name": "mmrec", "path": "$FOILREC_DATA/lfm2k"}, 5),
    "baby": ({"name": "mmrec", "path": "$FOILREC_DATA/baby"}, 3),
}
HEAD = """# Samplers side by side

Written by `python -m benchmarks.samplers`: LightGCN (its layers kept, for samplers that mix them) trained for a few
epochs with each sampler's defaults, one seed, and {rows:,} training rows measured with the weights of the last epoch.
{legend}
A sampler that needs another backbone or other data, or that had not begun when the training ended, is named below its
table; mixed, which is made of others, and neggen, which reads a folder, are left out. What these short trainings say is
how hard and how false the draws are, not which sampler trains best: that is in [the results](results.md).
"""


def recipe(data: dict[str, Any], epochs: int) -> Recipe:
    """LightGCN for a few epochs."""
    return Recipe.from_tree(
        {
            "name": "samplers",
            "threads": 1,
            "data": data,
            "backbone": {"name": "lightgcn", "keep_layers": True},
            "optimizer": {"name": "adam", "lr": 0.005},
            "train": {"batch": 2048, "epochs": epochs, "patience": 0, "every": epochs, "meter": ROWS},
        }
    )


def lines_of(place: str) -> dict[str, Any] | None:
    """What one data set gave: the table and the notes; None where the data is not there."""
    data, epochs = PLACES[place]
    names = [name for name in parts.names("sampler") if name not in SKIPPED]
    try:
        found = audit_samplers(recipe(data, epochs), names, lambda name: print(place, name, file=sys.stderr))
    except FoilrecError as error:
        print(f"{place} is left out: {error}", file=sys.stderr)
        return None
    return {"place": place, "epochs": epochs, "table": table_of(found), "notes": found.notes, **found.as_dict()}


def page(kept: dict[str, dict[str, Any]]) -> str:
    """All data sets as Markdown."""
    text = HEAD.format(rows=ROWS, legend=LEGEND[0].upper() + LEGEND[1:])
    for place, line in kept.items():
        head, *body = [[cell for n, cell in enumerate(row) if n != 1] for row in line["table"]]
        text += f"\n## {place}, {line['epochs']} epochs\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}\n"
        text += "".join(f"| {' | '.join(row)} |\n" for row in body)
        text += "".join(f"\n- {note}" for note in line["notes"]) + ("\n" if line["notes"] else "")
    return text


def main(places: list[str]) -> None:
    """Runs some data sets and writes the page from all lines that are kept."""
    stored = LINES.read_text(encoding="utf-8").splitlines() if LINES.is_file() else []
    kept = {line["place"]: line for line in map(json.loads, stored)}
    for place in places or list(PLACES):
        line = lines_of(place)
        if line is not None:
            kept[place] = line
            LINES.write_text("".join(json.dumps(each) + "\n" for each in kept.values()), encoding="utf-8")
            PAGE.write_text(page(kept), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
