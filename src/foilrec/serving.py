"""A finished run as files for a vector index or another program: raw ids, vectors, and how they make a score."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from foilrec.errors import BadData, BadOption, RunBroken, must_hold, some
from foilrec.files import write_json, write_text, written_whole
from foilrec.run import Run

ENDINGS = {"parquet": ("parquet",), "npy": ("npy", "txt")}
OURS = ("about.json", *(f"{side}.{end}" for side in ("items", "users") for ends in ENDINGS.values() for end in ends))
Side = tuple[list[Any], NDArray[np.float32]]  # raw ids, and their vectors [N, D]


@torch.no_grad()
def export(run: Run, folder: str | Path, *, form: str = "parquet", force: bool = False) -> dict[str, Any]:
    """Writes vectors of all items [I, D] and of the users with training rows [n, D], and about.json, which it gives.

    form: "parquet" (columns item or user, the raw id, and vector, D float32) or "npy" (items.npy beside items.txt, a
    raw id a line). A score is the dot product of two vectors, and the run's own. A backbone that reads histories has no
    vectors of users: that file is left out, and about["query"] says so. folder: new or empty; force replaces an export.
    """
    must_hold("export", form=(form, form in ENDINGS, "parquet or npy"))
    place = Path(folder)
    if place.is_file() or (place / "recipe.toml").exists():
        raise BadOption(f"{place} is a {'file' if place.is_file() else 'run folder'}: name a folder of its own.")
    if not force and (held := sorted(path.name for path in place.glob("[!.]*"))):
        raise BadOption(f"{place} holds {some(held)}: name a new or empty folder, or replace an export with --force.")
    about = _about(run, sides := _sides(run, form), form)
    _clear(place)
    for side, made in sides.items():
        _write(place, side, *made, form)
    write_json(place / "about.json", about)  # comes last: an export without it is not whole
    return about


def _sides(run: Run, form: str) -> dict[str, Side]:
    """The items and, unless the backbone reads histories, the users, with what model.query gives for them."""
    data, model = run.data, run.model
    tables, users = model.propagate(), data.seen.counts.nonzero().squeeze(1)
    found = {"item": (data.raw_items(range(data.n_items)), tables.items)}
    if not model.history:
        query = torch.cat([model.query(tables, data.ask(rows)) for rows in users.split(4096)])
        found["user"] = data.raw_users(users.tolist()), query
    made = {side: (ids, vectors.detach().float().contiguous().numpy()) for side, (ids, vectors) in found.items()}
    for side, (ids, vectors) in made.items():
        if not np.isfinite(vectors).all():
            raise RunBroken(f"The model's {side} vectors are not finite: it has diverged. Lower optimizer.lr.")
        if form == "npy" and (broken := [repr(raw) for raw in ids if len(f"{raw}.".splitlines()) > 1]):
            raise BadData(f"Ids that hold line breaks do not fit {side}s.txt: {some(broken)}. Take the format parquet.")
    return made


def _about(run: Run, sides: dict[str, Side], form: str) -> dict[str, Any]:
    recipe, told = run.recipe, "makes its query from a history: ask the run for it. There are no users to export."
    return {
        "format": 1,  # goes up when what is written can no longer be read as before
        "foilrec": version("foilrec"),
        "run": {"name": recipe.name, "digest": recipe.digest, "seed": recipe.seed, "epoch": run.scores["best_epoch"]},
        "data": {"name": run.data.name, "fingerprint": run.data.fingerprint},
        "dim": sides["item"][1].shape[1],
        "files": {f"{side}s.{end}": len(ids) for side, (ids, _) in sides.items() for end in ENDINGS[form]},
        "score": "the dot product of a query and an item's vector; what a user has taken is to be left out afterwards",
        "query": "the vector of the user" if "user" in sides else f"{recipe.backbone.name} {told}",
    }


def _clear(folder: Path) -> None:
    try:
        for name in OURS:
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise RunBroken(f"{folder} cannot be written ({error.strerror}): choose another place.") from error


def _write(folder: Path, side: str, ids: list[Any], vectors: NDArray[np.float32], form: str) -> None:
    with written_whole(folder / f"{side}s.{form}") as draft:
        if form == "npy":
            np.save(draft, vectors, allow_pickle=False)
            write_text(folder / f"{side}s.txt", "".join(f"{raw}\n" for raw in ids))
        else:
            fixed = {"vector": pl.Array(pl.Float32, vectors.shape[1])}
            pl.DataFrame({side: ids, "vector": vectors}, schema_overrides=fixed).write_parquet(draft)
