"""Writing a data set in the layout of MMRec: whole, or not at all."""

import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foilrec.data import Data, Features
from foilrec.errors import BadData
from foilrec.reading.arrays import Array


def convert(data: Data, folder: str | Path) -> Path:
    """Writes a data set so that the reader mmrec gives the same back, with an equal fingerprint; returns the folder.

    Written are NAME.inter (NAME is the folder's; where the order in time is known, a row's timestamp is its place among
    the user's), *_feat.npy, *_knnK.npz, item_text.jsonl and the maps of raw ids;
    surrogate features go to surrogate/, and are read back with surrogate = true. Pictures are left behind. Everything
    goes to a sibling first, which then takes the folder's name: a folder that is there already must be empty.
    """
    folder = Path(folder)
    if folder.exists() and (folder.is_file() or any(folder.iterdir())):
        raise BadData(f"{folder} exists already and is not empty: nothing was written. Name a new folder.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise BadData(
            f"{folder} cannot be made ({error.strerror}): nothing was written. Name another folder."
        ) from error
    try:
        _write(data, made, folder.name)
        made.chmod(0o755)
        made.replace(folder)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return folder


def _write(data: Data, folder: Path, name: str) -> None:
    _write_pairs(data, folder / f"{name}.inter")
    for modality, features in data.features.items():
        place = folder / "surrogate" if features.surrogate else folder
        place.mkdir(exist_ok=True)
        _write_features(features, place / f"{modality}_feat.npy")
    for modality, graph in data.neighbours.items():
        arrays: dict[str, Array] = {"indices": graph.ids.numpy().astype(np.int32)}
        if graph.cosines is not None:
            arrays["cos"] = graph.cosines.numpy()
        np.savez(folder / f"{modality}_knn{graph.ids.shape[1]}.npz", allow_pickle=False, **arrays)
    if data.titles is not None or data.descriptions is not None:
        _write_texts(data, folder / "item_text.jsonl")
    everything = torch.cat([data.train, data.valid, data.test]).amax(0).tolist() if len(data.train) else [-1, -1]
    for kind, ids, count, last in (
        ("u", data.user_ids, data.n_users, everything[0]),
        ("i", data.item_ids, data.n_items, everything[1]),
    ):
        # without interactions of the last users or items, only a map tells how many there are
        if ids is not None or last + 1 < count:
            _write_ids(range(count) if ids is None else ids, folder / f"{kind}_id_mapping.csv")


def _write_pairs(data: Data, path: Path) -> None:
    import polars as pl

    parts = [part.numpy() for part in (data.train, data.valid, data.test)]
    labels = np.repeat(np.arange(3), [len(part) for part in parts])
    pairs = np.concatenate(parts)
    frame = pl.DataFrame({"userID": pairs[:, 0], "itemID": pairs[:, 1], "x_label": labels})
    if data.timed:
        frame = frame.with_columns(pl.int_range(pl.len()).over("userID").alias("timestamp"))
    frame.write_csv(path, separator="\t")


def _write_features(features: Features, path: Path, block: int = 65536) -> None:
    """Blocks at a time, in the features' own type; what an item lacks is written as zeros, whatever stood there."""
    rows = features.rows
    written = np.lib.format.open_memmap(path, "w+", rows.dtype, (len(features), features.dim))
    for start in range(0, len(features), block):
        piece = np.array(rows[start : start + block])
        if features.present is not None:
            missing = ~features.present[start : start + block].cpu().numpy()
            piece[missing & piece.any(axis=1)] = 0  # rows of -0.0 stay as they are, and so does the fingerprint
        written[start : start + block] = piece
    written.flush()


def _write_texts(data: Data, path: Path) -> None:
    titles: Sequence[str] = data.titles if data.titles is not None else [""] * data.n_items
    descriptions = data.descriptions if data.descriptions is not None else [""] * data.n_items
    with path.open("w", encoding="utf-8") as file:
        for number, (title, description) in enumerate(zip(titles, descriptions, strict=True)):
            row: dict[str, Any] = {"itemID": number, "title": title}
            file.write(json.dumps(row | ({"description": description} if description else {})) + "\n")


def _write_ids(ids: Iterable[Any], path: Path) -> None:
    lines = [str(raw) for raw in ids]
    broken = next((raw for raw in lines if "\n" in raw or "\r" in raw), None)
    if broken is not None:
        raise BadData(
            f"The raw id {broken!r} holds a line break, and {path.name} has one id a line: nothing was written."
        )
    text = "".join(f"{_quoted(raw)},{number}\n" for number, raw in enumerate(lines))
    path.write_text("raw,number\n" + text, encoding="utf-8")


def _quoted(raw: str) -> str:
    """A raw id as a CSV field."""
    return '"' + raw.replace('"', '""') + '"' if any(sign in raw for sign in ',"') else raw
