"""What the items look and read like: feature files, checked row by row and put into the order of the items."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foilrec.data import Features
from foilrec.errors import BadData, BadOption, some
from foilrec.reading.arrays import Array, matrix
from foilrec.reading.log import Log
from foilrec.reading.numbering import Numbers
from foilrec.reading.places import existing_file
from foilrec.reading.texts import id_list

BLOCK = 65536


def discover(folder: Path, surrogate: bool = False) -> dict[str, tuple[Path, bool]]:
    """{modality: (file, whether it is a stand-in)}: MODALITY_feat.npy or .npz, and surrogate/ if asked.

    A stand-in is taken only for a modality that has no features of its own.
    """
    found: dict[str, tuple[Path, bool]] = {}
    for path in sorted(folder.glob("?*_feat.np[yz]")):
        modality = path.stem.removesuffix("_feat")
        if modality in found:
            raise BadData(
                f"{folder}: both {found[modality][0].name} and {path.name} hold the features {modality!r}. "
                f'Choose one with features = {{{modality} = "{path.name}"}}.'
            )
        found[modality] = path, False
    if not surrogate:
        return found
    stand_ins = sorted((folder / "surrogate").glob("*.np[yz]"))
    if not stand_ins:
        raise BadData(f"surrogate = true was asked, and {folder / 'surrogate'} holds no .npy or .npz file.")
    for path in stand_ins:
        modality = path.stem.split("_feat")[0] if "_feat" in path.stem else path.stem.split("_")[0]
        found.setdefault(modality, (path, True))
    return found


def load(path: Path, modality: str, log: Log, surrogate: bool = False) -> tuple[Features, list[str]]:
    """A file with a row for each item number of the source -> the features of the items left, and notes."""
    rows = matrix(path)
    expected = log.source_items or log.n_items
    if len(rows) != expected:
        raise BadData(
            f"{path} has {len(rows):,} rows, {'more' if len(rows) > expected else 'fewer'} than the {expected:,} "
            f"items of {log.name}. Row n must describe item n."
        )
    if log.item_numbers is not None:
        rows = rows[log.item_numbers]
    return _checked(rows, path, modality, surrogate)


def load_by_id(path: Path, modality: str, log: Log, ids: Mapping[str, int]) -> tuple[Features, list[str]]:
    """A file with a row for each raw id -> the features [I, F] of the items, absent ones zero and marked."""
    rows = matrix(path)
    if len(rows) != len(ids):
        raise BadData(
            f"{path} has {len(rows):,} rows, and feature_ids names {len(ids):,} items: one id a row is needed."
        )
    places = np.array([ids.get(str(log.raw_item(n)), -1) for n in range(log.n_items)], np.int64)
    if (places < 0).all():
        raise BadData(
            f"{path}: no item of {log.name} occurs in feature_ids, which begins {some(ids, 3)}; the items begin "
            f"{some([log.raw_item(n) for n in range(min(3, log.n_items))])}. Both must use the same raw ids."
        )
    return _checked(_placed(rows, places), path, modality, False, places)


def _placed(rows: Array, places: Numbers) -> Array:
    if np.array_equal(places, np.arange(len(rows))):
        return rows
    placed: Array = np.zeros((len(places), rows.shape[1]), rows.dtype)
    placed[places >= 0] = rows[places[places >= 0]]
    return placed


def _checked(
    rows: Array, path: Path, modality: str, surrogate: bool, places: Numbers | None = None
) -> tuple[Features, list[str]]:
    """Features whose rows are finite; rows without a direction are marked as missing."""
    present = np.ones(len(rows), bool)
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        with np.errstate(over="ignore", invalid="ignore"):
            sound = np.isfinite(np.add.reduce(block, axis=None, dtype=np.float32))
        if not sound:
            _refuse_infinite(block, path, start, places)
        present[start : start + BLOCK] = block.any(axis=1)
    if not present.any():
        raise BadData(
            f"{path}: every row is zero, so that no item has the modality {modality!r}. Write the file again."
        )
    missing = int((~present).sum())
    notes = [f"{modality}: {missing:,} of {len(rows):,} items lack it (no row, or a row of zeros)"] if missing else []
    if surrogate:
        notes.append(f"{modality}: surrogate features, stand-ins for the real ones")
    return Features(rows, torch.from_numpy(present) if missing else None, surrogate), notes


def _refuse_infinite(block: NDArray[Any], path: Path, start: int, places: Numbers | None) -> None:
    with np.errstate(over="ignore"):
        bad = np.flatnonzero(~np.isfinite(block.astype(np.float32)).all(axis=1)) + start  # read in float32 in the end
    if len(bad):
        shown = bad if places is None else places[bad]
        raise BadData(
            f"{path}: NaN or infinite values in {len(bad):,} rows: {some(shown.tolist())} (from 0; in float32). "
            "Write zeros for an item that lacks the modality, or compute its features again."
        )


def from_options(
    log: Log, folder: Path, chosen: Mapping[str, str | Path] | None, ids: str | Path | None
) -> tuple[dict[str, Features], list[str]]:
    """The features that options name, {modality: file} with the raw ids of the rows in the file `ids`."""
    if not chosen:
        return {}, []
    if ids is None:
        raise BadOption("features needs feature_ids, a file with the raw item id of each row, one a line.")
    by_id = id_list(existing_file(folder / ids))
    features, notes = {}, []
    for modality, file in chosen.items():
        features[modality], more = load_by_id(existing_file(folder / file), modality, log, by_id)
        notes += more
    return features, notes
