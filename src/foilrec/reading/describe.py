"""A data set in a table: how large, how dense, what its items look like, and what the reader noted."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from foilrec.data import Data, Features, Neighbours
from foilrec.reading.convert import convert

__all__ = ["convert", "describe"]


def describe(data: Data) -> list[tuple[str, str]]:
    """The rows (what, value) of a table that describes the data set."""
    everything = torch.cat([data.train, data.valid, data.test])
    total = len(everything)
    density = total / (data.n_users * data.n_items)
    rows = [
        ("name", data.name),
        ("users", f"{data.n_users:,}"),
        ("items", f"{data.n_items:,}"),
        ("interactions", f"{total:,}"),
        ("density", f"{density:.4%}"),
        ("split", data.split),
        ("order in time", "known" if data.timed else "not known, or not that of the split: no histories can be told"),
    ]
    for part in ("train", "valid", "test"):
        pairs: torch.Tensor = getattr(data, part)
        users = torch.bincount(pairs[:, 0]).count_nonzero()
        rows.append((part, f"{len(pairs):,} ({len(pairs) / total:.1%}) of {users:,} users"))
    rows.append(("interactions a user", _quartiles(everything[:, 0], data.n_users)))
    rows.append(("interactions an item", _quartiles(everything[:, 1], data.n_items)))
    rows += [(f"features {name}", _features(modality)) for name, modality in sorted(data.features.items())]
    rows += [(f"neighbours {name}", _graph(graph)) for name, graph in sorted(data.neighbours.items())]
    for what in ("titles", "descriptions", "pictures"):
        coverage = _coverage(getattr(data, what), data.n_items)
        rows += [(what, coverage)] if coverage else []
    raw = [kind for kind, ids in (("users", data.user_ids), ("items", data.item_ids)) if ids is not None]
    rows.append(("raw ids", " and ".join(raw) or "none: numbers are the ids"))
    rows.append(("fingerprint", data.fingerprint))
    return rows + [("note", note) for note in data.notes]


def _quartiles(numbers: torch.Tensor, count: int) -> str:
    """Least, quartiles, most and mean of how often each of `count` numbers occurs."""
    counts = torch.bincount(numbers, minlength=count).numpy()
    low, quarter, middle, three, high = np.percentile(counts, (0, 25, 50, 75, 100))
    return f"{low:.0f} to {high:.0f}, quartiles {quarter:g}, {middle:g}, {three:g}, mean {counts.mean():.1f}"


def _features(modality: Features) -> str:
    missing = 0 if modality.present is None else int((~modality.present).sum())
    words = f"{modality.dim}-d {modality.rows.dtype}, " + (
        f"{missing:,} items lack it" if missing else "every item has it"
    )
    return words + (", SURROGATE: stand-ins for the real features" if modality.surrogate else "")


def _graph(graph: Neighbours) -> str:
    return f"{graph.ids.shape[1]} an item, {'with' if graph.cosines is not None else 'without'} cosines"


def _coverage(values: Sequence[Any] | None, count: int) -> str:
    """How many items have a title, say; a lazy sequence is not walked through, so that nothing is unpacked."""
    if values is None:
        return ""
    if not isinstance(values, list | tuple):
        return f"{len(values):,} of {count:,} items (100%)"
    there = sum(value is not None and not (isinstance(value, str) and not value) for value in values)
    return f"{there:,} of {count:,} items ({there / count:.0%})"


def checks_passed(data: Data) -> list[str]:
    """What holds of every data set that a reader has let through, in words with its counts."""
    total = len(data.train) + len(data.valid) + len(data.test)
    checks = [
        f"{total:,} interactions, every line complete, every user and item numbered",
        "no pair of user and item occurs twice, or in two parts of the split",
        f"train {len(data.train):,}, valid {len(data.valid):,} and test {len(data.test):,}: none is empty",
        "every user of valid and test has training rows",
    ]
    for name, modality in sorted(data.features.items()):
        checks.append(
            f"features {name}: {len(modality):,} rows for {data.n_items:,} items, {modality.dim}-d "
            f"{modality.rows.dtype}, all finite"
        )
    for name, graph in sorted(data.neighbours.items()):
        checks.append(
            f"neighbours {name}: {graph.ids.shape[1]} for each of {len(graph.ids):,} items, all of them items"
        )
    return checks
