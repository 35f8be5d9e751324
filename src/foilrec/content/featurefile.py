"""Files of features as the readers take them: rows, the ids that they belong to, and what made them."""

import csv
import json
from collections.abc import Sequence
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from foilrec.content.encoders import Encodes
from foilrec.content.encoding import Encoded
from foilrec.content.listing import BY_ROW, Listing
from foilrec.data import Features
from foilrec.errors import BadOption
from foilrec.files import write_json, write_text, written_whole

IDS = "feature_ids.csv"


def claim(folder: Path, modality: str, ids: Sequence[Any]) -> None:
    """Raises BadOption if features of a folder are not ours to replace, or belong to other items."""
    rows, record = folder / f"{modality}_feat.npy", folder / f"{modality}_feat.json"
    foreign = [path for path in (rows, rows.with_suffix(".npz")) if path.exists() and not record.exists()]
    if foreign:
        raise BadOption(f"{foreign[0]} was not written by foilrec encode: choose another --out, or move it away.")
    beside = folder / IDS
    if beside.exists() and beside.read_bytes() != _listed(ids).encode():
        raise BadOption(f"{folder} holds features of other items ({IDS}): choose another --out.")


def write(folder: Path, modality: str, listing: Listing, encoder: Encodes, made: Encoded) -> Path:
    """Writes MODALITY_feat.npy [I, F], feature_ids.csv (the raw id of each row) and MODALITY_feat.json; the first."""
    path = folder / f"{modality}_feat.npy"
    write_text(folder / IDS, _listed(listing.ids))
    write_json(folder / f"{modality}_feat.json", record(modality, listing, encoder, made))
    with written_whole(path) as draft:
        np.save(draft, made.rows, allow_pickle=False)
    return path


def record(modality: str, listing: Listing, encoder: Encodes, made: Encoded) -> dict[str, Any]:
    """What the rows follow from, and which items have none and why."""
    return {
        "modality": modality,
        "source": listing.name,
        "encoder": encoder.name,
        "revision": encoder.revision,
        **getattr(encoder, "about", {}),
        "items": len(made.rows),
        "dim": encoder.dim,
        "distinct": made.distinct,
        "contents": made.contents,
        "rows": Features(made.rows).digest().hex(),
        "ids": IDS,
        "foilrec": version("foilrec"),
        "masked": [{"item": listing.ids[number], "why": why} for number, why in made.masked.items()],
    }


def usage(listing: Listing, paths: Sequence[Path]) -> str:
    """How a recipe comes to read the files."""
    chosen = ", ".join(f"{path.name.removesuffix('_feat.npy')} = {_quoted(path)}" for path in paths)
    if listing.reader == "shop":
        return "The shop makes its own features: foilrec data convert writes it as files, which these can be read with."
    lines = ["In a recipe:", "  [data]", f"  features = {{ {chosen} }}"]
    if listing.reader not in BY_ROW:
        lines.append(f"  feature_ids = {_quoted(paths[0].parent / IDS)}")
    return "\n".join(lines)


def _quoted(path: Path) -> str:
    return json.dumps(str(path.resolve()), ensure_ascii=False)  # TOML knows no surrogates


def _listed(ids: Sequence[Any]) -> str:
    """Raw ids as a table of one column."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["item"])
    writer.writerows([str(raw)] for raw in ids)
    return text.getvalue()
