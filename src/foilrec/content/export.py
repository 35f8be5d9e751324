"""Generated negatives as files: a table, JSON lines, and features aligned to the table's rows."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from foilrec.content.alike import alike
from foilrec.content.editing import Sight
from foilrec.content.encoder import Array, Encoder, cosines
from foilrec.content.gates import views
from foilrec.content.goods import Goods
from foilrec.content.routes import fit, moved
from foilrec.content.store import Outcome, Store
from foilrec.errors import PartsDoNotFit
from foilrec.files import write_json, written_whole

if TYPE_CHECKING:
    import polars as pl

Route = Literal["caption", "delta", "image"]
BLOCK = 256  # texts encoded at once
OWN = 0.9  # median cosine from which the data's features are this encoder's own


def export(
    store: Store,
    goods: Goods,
    encoder: Encoder,
    folder: Path,
    route: Route = "caption",
    sight: Sight | None = None,
) -> int:
    """Writes negatives.parquet, negatives.jsonl, rejected.jsonl, MODALITY_neg.npy, MODALITY_pos.npy and features.json.

    Row n of every .npy belongs to row n of the table, in the order of items, users and difficulties. MODALITY_neg is
    by the route; with `delta` MODALITY_pos holds the data's own features, with `image` those of pictures are by sight.
    The table names the real items whose words are most like the negative's. The number of negatives.
    """
    outcomes = list(store.outcomes("done"))
    made = _by_caption(outcomes, goods, encoder)
    table = frame(outcomes, goods).with_columns(_alike(outcomes, goods, encoder, made["text"][1]))
    notes: dict[str, Any] = {"rows": len(outcomes), "route": route, "encoder": encoder.name}
    notes |= {"revision": encoder.revision, "modalities": {}}
    for modality, (before, after) in made.items():
        note: dict[str, Any] = {}
        if route == "delta":
            before, after, note = _by_delta(modality, outcomes, goods, before, after)
        elif route == "image" and modality == "image":
            before, after, note = _by_sight(outcomes, goods, sight)
        notes["modalities"][modality] = {"dim": int(after.shape[1]), **note}
        made[modality] = before, after
    for name, write in (("negatives.parquet", "write_parquet"), ("negatives.jsonl", "write_ndjson")):
        with written_whole(folder / name) as draft:
            getattr(table, write)(draft)
    with written_whole(folder / "rejected.jsonl") as draft:
        _refused(store, goods).write_ndjson(draft)
    for modality, sides in made.items():
        for ending, rows in zip(("pos", "neg"), sides, strict=True):
            with written_whole(folder / f"{modality}_{ending}.npy") as draft:
                np.save(draft, rows, allow_pickle=False)
    write_json(folder / "features.json", notes)
    return len(outcomes)


def frame(outcomes: Sequence[Outcome], goods: Goods) -> "pl.DataFrame":
    """A row a negative: item and user (raw ids), difficulty, edits, texts, captions before and after, cosines."""
    import polars as pl

    text, number = pl.String, pl.Float64
    edit = pl.Struct({"name": text, "old": text, "new": text, "modality": text})
    contents: list[Mapping[str, Any]] = [outcome.content or {} for outcome in outcomes]
    columns = [
        *_ids(outcomes, goods),
        pl.Series("by", [c.get("by") for c in contents], dtype=text),
        pl.Series("edits", [c["edits"] for c in contents], dtype=pl.List(edit)),
        pl.Series("title", [c["title"] for c in contents], dtype=text),
        pl.Series("description", [c["description"] for c in contents], dtype=text),
    ]
    for m in goods.modalities[1:]:
        columns.append(pl.Series(f"{m}_caption", [c["captions"][m] for c in contents], dtype=text))
        columns.append(pl.Series(f"{m}_caption_before", [c["captions_before"][m] for c in contents], dtype=text))
    columns += [pl.Series(f"cos_{m}", [c["cosines"][m] for c in contents], dtype=number) for m in goods.modalities]
    return pl.DataFrame([*columns, pl.Series("nearest", [c["nearest"] for c in contents], dtype=number)])


def _ids(outcomes: Sequence[Outcome], goods: Goods) -> list["pl.Series"]:
    """Items and users as the source names them; no user where a negative is for everyone."""
    import polars as pl

    data = goods.data
    items = data.raw_items([o.job.item for o in outcomes])
    users = [None if o.job.user < 0 else data.raw_users([o.job.user])[0] for o in outcomes]
    every = data.raw_items(range(data.n_items)), data.raw_users(range(data.n_users))
    kinds = [pl.Series(ids).dtype for ids in every]
    return [
        pl.Series("item", items, dtype=kinds[0]),
        pl.Series("user", users, dtype=kinds[1]),
        pl.Series("difficulty", [o.job.difficulty for o in outcomes], dtype=pl.Int64),
    ]


def _refused(store: Store, goods: Goods) -> "pl.DataFrame":
    """A row a job that came to nothing: what stopped it, and why."""
    import polars as pl

    outcomes = list(store.outcomes("rejected", "failed"))
    return pl.DataFrame(
        [
            *_ids(outcomes, goods),
            *(pl.Series(n, [getattr(o, n) for o in outcomes], dtype=pl.String) for n in ("state", "gate", "reason")),
        ]
    )


def _by_caption(outcomes: Sequence[Outcome], goods: Goods, encoder: Encoder) -> dict[str, tuple[Array, Array]]:
    """{modality: (positives [N, E], negatives [N, E])}, from words alone."""
    before: dict[str, list[str]] = {m: [] for m in goods.modalities}
    after: dict[str, list[str]] = {m: [] for m in goods.modalities}
    for outcome in outcomes:
        content = outcome.content or {}
        texts = {name: content[name] for name in ("title", "description")}
        was = {"text": goods.text(outcome.job.item), **content["captions_before"]}
        for told, said in ((before, was), (after, views(texts, content["captions"]))):
            for modality in goods.modalities:
                told[modality].append(said[modality])
    return {m: (_encoded(before[m], encoder), _encoded(after[m], encoder)) for m in goods.modalities}


def _encoded(texts: Sequence[str], encoder: Encoder) -> Array:
    """Rows [n, E]; a text that stands several times is encoded once."""
    distinct = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    known = list(distinct)
    blocks = [encoder(known[at : at + BLOCK]) for at in range(0, len(known), BLOCK)]
    rows = np.concatenate([np.zeros((0, encoder.dim), np.float32), *blocks])
    made: Array = rows[[distinct[text] for text in texts]] if len(texts) else rows
    return made


def _alike(outcomes: Sequence[Outcome], goods: Goods, encoder: Encoder, rows: Array) -> "pl.Series":
    """The raw ids of the real items nearest to each negative by its text, [N] lists."""
    import polars as pl

    catalogue = _encoded([goods.text(number) for number in range(len(goods))], encoder)
    near = alike(rows, catalogue, [outcome.job.item for outcome in outcomes])
    raw = goods.data.raw_items([number for row in near for number in row])
    starts = np.cumsum([0, *map(len, near)]).tolist()
    kind = pl.Series(goods.data.raw_items(range(len(goods)))).dtype
    lists = [raw[a:b] for a, b in pairwise(starts)]
    return pl.Series("alike", lists, dtype=pl.List(kind))


def _by_sight(outcomes: Sequence[Outcome], goods: Goods, sight: Sight | None) -> tuple[Array, Array, dict[str, Any]]:
    """Pictures of the positives and of the negatives, encoded [N, F]; which rows have none."""
    if sight is None or goods.data.pictures is None:
        raise PartsDoNotFit("Route image needs pictures, an editor and an encoder of pictures.")
    edits = [(outcome.content or {})["edits"] for outcome in outcomes]
    before, after = sight.rows(goods.data.pictures, [outcome.job.item for outcome in outcomes], edits)
    told = {"encoder": f"{sight.encoder.name}@{sight.encoder.revision}", "editor": sight.editor}
    return before, after, {**told, "missing": np.flatnonzero(~after.any(1)).tolist()}


def _by_delta(
    modality: str, outcomes: Sequence[Outcome], goods: Goods, before: Array, after: Array
) -> tuple[Array, Array, dict[str, Any]]:
    """The data's own features of the positives [N, F], moved by what changed in words; R^2 of the map, if one is."""
    if modality not in goods.data.features:
        raise PartsDoNotFit(
            f"Route delta: {goods.data.name} has no features of {modality} to move; it has "
            f"{', '.join(goods.data.features) or 'none'}: take --route caption."
        )
    features = goods.data.features[modality]
    items = torch.tensor([outcome.job.item for outcome in outcomes], dtype=torch.long)
    own, has = features.of(items).numpy(), features.has(items).numpy()
    first = np.unique(items.numpy(), return_index=True)[1]
    first = first[has[first]]
    if _is_own(before[first], own[first]):
        weights, note = np.eye(own.shape[1], dtype=np.float32), dict[str, Any](map="none: this encoder's own features")
    else:
        found = fit(before[first], own[first], modality)
        weights, note = found.weights, {"r2": found.r2, "penalty": found.penalty}
    made = np.where(has[:, None], moved(own, before, after, weights), 0).astype(np.float32)
    return own, made, {**note, "missing": np.flatnonzero(~has).tolist()}


def _is_own(words: Array, own: Array) -> bool:
    """Whether features [n, F] are these encoded words [n, E], so that what changed in words needs no map."""
    return words.shape == own.shape and len(words) > 0 and float(np.median(cosines(words, own))) >= OWN
