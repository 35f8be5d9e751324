"""Ready-made neighbour graphs of the items: MODALITY_knnK.npz."""

import re
from pathlib import Path

import numpy as np
import torch

from foilrec.data import Neighbours
from foilrec.errors import BadData, some
from foilrec.reading.arrays import open_arrays


def read_graphs(folder: Path, n_items: int) -> dict[str, Neighbours]:
    """{modality: its graph} for every MODALITY_knnK.npz of a folder; the largest K where there are several."""
    found: dict[str, tuple[int, Path]] = {}
    for path in sorted(folder.glob("*_knn*.npz")):
        named = re.fullmatch(r"(.+)_knn(\d+)", path.stem)
        if named:
            found[named[1]] = max(found.get(named[1], (0, path)), (int(named[2]), path))
    return {modality: read_graph(path, n_items) for modality, (_, path) in found.items()}


def read_graph(path: Path, n_items: int) -> Neighbours:
    """One graph: the arrays indices [I, k], items from 0 to I - 1, and cos [I, k] if the file has it."""
    arrays = open_arrays(path)
    if "indices" not in arrays:
        raise BadData(f"{path} has no array 'indices' of shape (items, k): it holds {', '.join(map(repr, arrays))}.")
    ids, cosines = arrays["indices"], arrays.get("cos")
    if ids.ndim != 2 or len(ids) != n_items or not ids.shape[1] or not np.issubdtype(ids.dtype, np.integer):
        raise BadData(
            f"{path}: 'indices' is {ids.dtype} of shape {ids.shape}, and must hold integers, a row for each of "
            f"the {n_items:,} items."
        )
    outside = np.flatnonzero(((ids < 0) | (ids >= n_items)).any(axis=1))
    if len(outside):
        raise BadData(
            f"{path}: rows {some(outside.tolist())} name neighbours outside 0 to {n_items - 1} (rows and items are "
            "counted from 0). An item with fewer neighbours names itself instead."
        )
    if cosines is not None and (cosines.shape != ids.shape or not np.isfinite(cosines).all()):
        raise BadData(
            f"{path}: 'cos' must be finite and of the shape of 'indices', {ids.shape}; it is {cosines.shape}."
        )
    values = None if cosines is None else torch.from_numpy(cosines.astype(np.float32, copy=False))
    return Neighbours(torch.from_numpy(ids.astype(np.int64)), values)
