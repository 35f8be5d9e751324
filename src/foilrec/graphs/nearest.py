"""Each item's nearest neighbours in a modality: ready-made, out of a cache on disk, or searched for in blocks."""

import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from foilrec import files
from foilrec.data import Data, Features, Neighbours
from foilrec.errors import BadOption, MissingExtra, RunBroken
from foilrec.graphs.sparse import nearest_pairs

Search = Literal["auto", "exact", "approximate"]
Say = Callable[[str], None]
Step = Callable[[int, int], None]

MOST_EXACT = 100_000  # items up to which "auto" is exact
LONG = 20_000  # items from which a search is announced
WORTH_KEEPING = 10**9  # products from which a search costs more than to look it up
FORMAT = 1

_listener: ContextVar[tuple[Say, Step] | None] = ContextVar("listener", default=None)


@contextmanager
def heard(say: Say, step: Step) -> Iterator[None]:
    """Inside, long searches tell their plan to `say` and their blocks to step(block, blocks); notes go to `say` too."""
    token = _listener.set((say, step))
    try:
        yield
    finally:
        _listener.reset(token)


def neighbours(data: Data, name: str, k: int, search: Search = "auto") -> Neighbours:
    """The k nearest of every item by the cosine of a modality, itself first: the data's ready-made ones, or found ones.

    ids [I, k'], k' < k only if fewer items have the modality; an item without it has only itself, with cosines of 0.
    cosines are None where a ready-made graph has none. search: "exact", "approximate" (faiss), or "auto": exact up
    to 100,000 items.
    """
    if name not in data.neighbours:
        return found(data.features[name], k, search, name)
    ready = data.neighbours[name]
    if ready.ids.shape[1] < k:
        raise BadOption(f"neighbours = {k}, but the data's graph of {name} has {ready.ids.shape[1]} a row.")
    ids, cosines = ready.ids.long(), None if ready.cosines is None else ready.cosines.float()
    own = ids == torch.arange(len(ids))[:, None]  # its first place goes to the front, as a twin may stand there;
    turn = torch.where(own, torch.where(own.cumsum(1) == 1, 0, 2), 1)  # the others fill up what has too few
    order = turn.argsort(dim=1, stable=True)[:, :k]
    ids, cosines = ids.gather(1, order), None if cosines is None else cosines.gather(1, order)
    present = data.features[name].present if name in data.features else None
    if present is not None:
        ids = torch.where(present[:, None], ids, torch.arange(len(ids))[:, None])
        cosines = None if cosines is None else torch.where(present[:, None], cosines, 0.0)
    return Neighbours(ids, cosines)


def found(features: Features, k: int, search: Search = "auto", name: str = "rows") -> Neighbours:
    """The k nearest rows of every row: from the cache if they were found before, or searched for and kept there."""
    n = len(features)
    key = {
        "format": FORMAT,
        "features": features.digest().hex(),
        "present": "" if features.present is None else _digest(features.present),
        "shape": [n, features.dim],
        "dtype": str(features.rows.dtype),
        "k": k,
        "metric": "cosine",
        "search": "approximate" if approximate(n, search) else "exact",
    }
    path = _place(key) if n * n * features.dim >= WORTH_KEEPING else None
    kept = None if path is None else _load(path, key)
    if kept is not None:
        return kept
    step = _announce(f"neighbours by {name}: {plan(n, k)}") if n >= LONG else None
    made = Neighbours(*nearest(features.all(), k, features.present, search, step))
    if path is not None:
        _keep(path, key, made)
    return made


def nearest(
    rows: Tensor, k: int, present: Tensor | None = None, search: Search = "auto", step: Step | None = None
) -> tuple[Tensor, Tensor]:
    """ids and cosines [I, k] of the k nearest rows [I, F] of each, itself first; neither cached nor I x I."""
    if approximate(len(rows), search):
        return _by_faiss(rows, k, present)
    return nearest_pairs(rows, k, present, step=step)


def plan(n: int, k: int) -> str:
    """What a graph of n items will take.

    >>> plan(63_001, 10)
    '63,001 items, k=10: 5 MB; dense would be 15.9 GB'
    """
    return f"{n:,} items, k={k}: {n * k * 8 / 1e6:.0f} MB; dense would be {4 * n * n / 1e9:.1f} GB"


def approximate(n: int, search: Search) -> bool:
    """Whether a search among n is to be approximate."""
    return search == "approximate" or (search == "auto" and n > MOST_EXACT)


def inverted_file(rows: Tensor, what: str) -> Any:
    """faiss's index of rows [n, F] for largest inner products: 4 sqrt(n) lists, of which a search reads the nearest 64.

    What lies in another list is missed. what: begins the sentence that tells who needs faiss, where it is not there.
    """
    try:
        import faiss
    except ImportError as error:
        raise MissingExtra("faiss", "ann", what) from error
    held, width = rows.detach().float().cpu().contiguous().numpy(), rows.shape[1]
    lists = max(1, int(4 * len(held) ** 0.5))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT)
    index.train(held)
    index.add(held)
    index.nprobe = min(lists, 64)
    return index


def _by_faiss(rows: Tensor, k: int, present: Tensor | None) -> tuple[Tensor, Tensor]:
    """Nearest among the lists of an inverted file that lie nearest."""
    n = len(rows)
    here = torch.arange(n) if present is None else present.nonzero().squeeze(1).cpu()
    held = normalize(rows.detach().float().cpu(), dim=1)[here]
    k = min(k, max(1, len(here)))
    index = inverted_file(held, f'Neighbours of {n:,} items (search = "exact" does without, in hours)')
    cosines, places = (torch.from_numpy(part) for part in index.search(held.numpy(), k))
    found_ids = torch.where(places < 0, -1, here[places.clamp(min=0)])
    ids, values = torch.arange(n)[:, None].repeat(1, k), torch.zeros(n, k)
    ids[here], values[here] = _itself_first(found_ids, cosines, here[:, None])
    return ids.to(rows.device), values.to(rows.device)


def _itself_first(ids: Tensor, cosines: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's own id put first and taken out elsewhere; own ids with a cosine of 0 where too few were found."""
    none = (ids == own) | (ids < 0)
    order = none.int().argsort(dim=1, stable=True)
    ids, cosines, none = (part.gather(1, order)[:, :-1] for part in (ids, cosines, none))
    ids, cosines = torch.where(none, own, ids), torch.where(none, 0.0, cosines)
    return torch.cat([own, ids], 1), torch.cat([torch.ones(own.shape), cosines], 1)


def folder() -> Path | None:
    """Where graphs are kept: FOILREC_CACHE, by default ~/.cache/foilrec; None if that is 0 (keep nothing)."""
    chosen = os.environ.get("FOILREC_CACHE", "")
    return None if chosen == "0" else Path(chosen or "~/.cache/foilrec").expanduser()


def _place(key: dict[str, Any]) -> Path | None:
    name = blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=16).hexdigest()
    return None if (where := folder()) is None else where / "neighbours" / f"{name}.safetensors"


def _digest(*tensors: Tensor) -> str:
    digest = blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _load(path: Path, key: dict[str, Any]) -> Neighbours | None:
    """The graph of that key, None if there is none; a file that is not what its name says is told and passed over."""
    if not path.exists():
        return None
    try:
        tree = files.load_tree(path)
        ids, cosines = tree["ids"], tree["cosines"]
        if tree["key"] == key and tree["digest"] == _digest(ids, cosines):
            return Neighbours(ids.long(), cosines)
    except (RunBroken, KeyError, TypeError, AttributeError):
        pass
    _note(f"{path} is damaged or of another kind: its neighbours are searched for again.")
    return None


def _keep(path: Path, key: dict[str, Any], made: Neighbours) -> None:
    ids, cosines = made.ids.int(), made.cosines
    assert cosines is not None
    try:
        tree = {"key": key, "digest": _digest(ids, cosines), "ids": ids, "cosines": cosines}
        files.save_tree(path, tree)
    except RunBroken as error:
        _note(f"Neighbours were found and not kept: {error}")


def _announce(text: str) -> Step | None:
    """Tells whoever listens; what it wants to hear of the blocks."""
    listener = _listener.get()
    if listener is None:
        return None
    listener[0](text)
    return listener[1]


def _note(text: str) -> None:
    listener = _listener.get()
    if listener is None:
        warnings.warn(text, stacklevel=2)
    else:
        listener[0](text)
