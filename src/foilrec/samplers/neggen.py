"""NegGen's negatives: the positive with some attributes changed, written and encoded offline, in words and pictures."""

import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from foilrec.core import Backbone, Batch, Data, Negatives, Sampler, Tables, rows_of
from foilrec.errors import BadOption, PartsDoNotFit, must_hold, some
from foilrec.negatives.generated import must_fit, read
from foilrec.negatives.shelf import Shelf
from foilrec.numerics.chances import chances

COSINES = 2**22  # held at once: 16 MB


class NegGen(Sampler):
    """An item that does not exist: the row's positive with key attributes changed in all modalities alike.

    After «NegGen» (2025), whose multi-modal language model writes them; here `foilrec generate` does, offline, into a
    folder. Column 0 is a uniform negative (data.easy) at weight 1, and beside it up to `count` generated ones count at
    weight beta together. A row whose item has none, or none of the epoch's difficulty, has the uniform one alone, at
    full weight; `covered` and `notes` say how many rows have any. Those made for the row's user come before those made
    for everyone. In form "features" the backbone encodes them as it encodes items, with gradient into its feature
    towers (vbpr and causalneg can); in form "retrieve" each becomes the real item that looks most like it, and in form
    "words" the one whose words are most like its own, which any backbone can rank. gdnsm makes vectors up inside the
    recommender; here the content is changed, and can be read.

    path: the folder. form: "features"; or "retrieve": the unseen item nearest to the generated features, by the mean of
    the modalities' cosines, a missing one counting 0; or "words": the unseen item nearest by the folder's encoder of
    texts, so that the data needs no features. Of the `candidates` nearest of all, found once (the folder tells 64): a
    user who took all of those gets no generated negative. difficulty: how many attributes may differ; all numbers by
    default. delta: at 0 all of these from the start; else epochs a stage, and a stage is one number, in the order
    given, by default the largest (easiest) first; the last one stays. count: 1 .. 3; never the same twice in a row.
    beta: .1 .. 1. identity: what the ID part of a generated negative is: the "positive"'s own, so that nothing but
    content tells them apart, or "none": the backbone's for unknown items. modalities: those that are changed, all of
    the folder's that the data has by default; the others stay the positive's own. levels are 0 for the uniform one,
    and from 1 for the generated ones, the more alike the higher.
    """

    level: Tensor
    nearest: Tensor | None

    def __init__(
        self,
        data: Data,
        *,
        path: str,
        form: Literal["features", "retrieve", "words"] = "features",
        difficulty: int | tuple[int, ...] = (),
        delta: int = 0,
        count: int = 1,
        beta: float = 1.0,
        identity: Literal["positive", "none"] = "positive",
        modalities: tuple[str, ...] = (),
        candidates: int = 64,
    ) -> None:
        super().__init__(data)
        must_hold(
            "neggen",
            delta=(delta, delta >= 0, "at least 0"),
            count=(count, count >= 1, "at least 1"),
            candidates=(candidates, candidates >= 1, "at least 1"),
            beta=(beta, beta > 0, "above 0"),
        )
        self.delta, self.count, self.beta, self.identity = delta, count, beta, identity
        self.made = read(path, data)
        self.modalities = self._modalities(tuple(modalities), seen=form != "words")
        self._told = self.made.told(self.modalities)
        self.stages = self._stages((difficulty,) if isinstance(difficulty, int) else tuple(difficulty))
        self.covered = tuple(self._covered(self._shelf(stage)) for stage in self.stages)
        if not max(self.covered):
            raise PartsDoNotFit(f"neggen: no training row of {data.name} has a negative in {self.made.folder}.")
        self.shelf = self._shelf(self.stages[0])
        self._model: weakref.ref[Backbone] | None = None
        known = self.made.difficulty.unique()
        self.register_buffer("level", len(known) - torch.searchsorted(known, self.made.difficulty), persistent=False)
        search = {"words": self._alike, "retrieve": self._nearest}.get(form)
        self.register_buffer("nearest", search(candidates) if search else None, persistent=False)

    @property
    def notes(self) -> tuple[str, ...]:
        """How many items have a negative, and how many rows in each stage."""
        return f"neggen: {self.made.reach(self.data.n_items)}", *(
            f"neggen: {share:.1%} of the training rows have a generated negative of difficulty {', '.join(map(str, s))}"
            for s, share in zip(self.stages, self.covered, strict=True)
        )

    def _modalities(self, asked: tuple[str, ...], *, seen: bool) -> tuple[str, ...]:
        """The modalities of the folder that count, in the space of the data's features if those are to be seen."""
        known = self.data.features if seen else self.made.after
        found = asked or tuple(name for name in self.made.after if name in known)
        if not found or set(found) - set(self.made.after):
            raise PartsDoNotFit(
                f"neggen: modalities {list(found)} must be of the folder, with {', '.join(self.made.after)}, and of "
                f'the data, which has {", ".join(self.data.features) or "none"} (form = "words" needs none).'
            )
        if seen:
            must_fit(self.made, self.data, found, "neggen")
        return found

    def _alike(self, most: int) -> Tensor:
        """The items whose words are most like each negative's, as the folder tells: [N, most], -1 for none."""
        if self.made.alike is None:
            raise PartsDoNotFit(
                f'neggen: form = "words" needs to know which items have words like those of the negatives, and '
                f"{self.made.folder} does not tell: export it again with `foilrec generate ... --backend replay`."
            )
        return self.made.alike[:, :most]

    def _shelf(self, stage: Sequence[int]) -> Shelf:
        """What a stage draws from."""
        chosen = torch.isin(self.made.difficulty, torch.tensor(stage)) & self._told
        return Shelf(self.made.items, self.made.users, chosen, self.data.n_users)

    def _stages(self, asked: tuple[int, ...]) -> list[tuple[int, ...]]:
        """The difficulties of each stage."""
        known = self.made.difficulty.unique().flip(0).tolist()
        if unknown := set(asked) - set(known):
            raise BadOption(
                f"neggen: difficulty = {some(unknown)}, and the folder has negatives of "
                f"{', '.join(map(str, known[::-1]))} changed attributes: generate others with --difficulty."
            )
        chosen = asked or tuple(known)
        return [(each,) for each in chosen] if self.delta else [chosen]

    def _covered(self, shelf: Shelf) -> float:
        """The share of training rows that have a negative."""
        users, items = self.data.train.T.contiguous()
        return float(shelf.draw(users, items, torch.zeros(len(users)))[1].double().mean())

    def _nearest(self, most: int) -> Tensor:
        """The ids of the `most` items that look most like each negative, the nearest first: [N, most]."""
        table = self._sides([self.data.features[name].all() for name in self.modalities])
        found = []
        for rows in torch.arange(len(self.made)).split(max(1, COSINES // self.data.n_items)):
            here = self._sides([self.made.after[name].of(rows) for name in self.modalities])
            found.append((here @ table.T).topk(min(most, len(table))).indices.int())
        return torch.cat(found)

    @staticmethod
    def _sides(features: Sequence[Tensor]) -> Tensor:
        """Modalities side by side, each of length 1."""
        return torch.cat([normalize(each) for each in features], 1)

    def begin_epoch(self, epoch: int, model: Backbone, tables: Tables) -> None:
        """Moves to the epoch's stage, and looks whether the backbone can encode."""
        if self.nearest is None and type(model).encode is Backbone.encode:
            raise PartsDoNotFit(
                f"neggen describes items that do not exist, and {type(model).__name__} cannot encode them: take vbpr, "
                'causalneg, or sampler.form = "retrieve", which finds real items like them.'
            )
        self._model = weakref.ref(model)
        stage = min(epoch // self.delta, len(self.stages) - 1) if self.delta else 0
        self.shelf = self._shelf(self.stages[stage]).to(self.level.device)

    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        """The uniform one and the generated ones: vectors [B, 1 + count, D], or ids [B, 1 + count] if retrieved."""
        easy = self.data.easy(batch)[:, None]
        chance = chances(rows_of(batch), self.key(batch, "generated"), 1)[:, 0]
        rows, has = self.shelf.draw(batch.users, batch.positives, chance, self.count)
        if self.nearest is None:
            drawn = self._described(tables, batch, easy, rows)
        else:
            ids, unseen = self._unseen(batch.users, rows)
            has = has & unseen
            drawn = Negatives(ids=torch.cat([easy, ids.where(has, easy)], 1))
        used = has.sum(1, keepdim=True).to(query.dtype)
        share = self.beta * (1 + used) / used.clamp(min=1)
        return replace(
            drawn,
            weights=torch.cat([1 + used, share.expand(has.shape)], 1),
            mask=None if bool(has.all()) else pad(has, (1, 0), value=True),
            level=pad(self.level[rows] * has, (1, 0)),
            group=(),
        )

    def get_extra_state(self) -> dict[str, Any]:
        """What the folder held: a training that goes on must find the same."""
        return {"generated": self.made.digest}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Looks whether the folder is what it was."""
        self.made.must_be(state["generated"])

    def _described(self, tables: Tables, batch: Batch, easy: Tensor, rows: Tensor) -> Negatives:
        """Uniform items beside encoded descriptions, as vectors with gradient while training."""
        model = None if self._model is None else self._model()
        if model is None:
            raise BadOption("neggen: call begin_epoch before drawing: the backbone encodes what is described.")
        base = batch.positives[:, None].expand_as(rows)
        features = {
            name: self.made.after[name].of(rows) if name in self.modalities else each.of(base)
            for name, each in self.data.features.items()
        }
        described = Negatives(features=features, base=base if self.identity == "positive" else None)
        with torch.set_grad_enabled(self.training):
            return Negatives.join([Negatives(ids=easy), described], model, tables)

    def _unseen(self, users: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest item to each row that the user has not taken, and whether there is one: [B, count] each."""
        assert self.nearest is not None
        near = self.nearest[rows].long()
        free = (near >= 0) & ~self.data.seen.contains(users, near.clamp(min=0).flatten(1)).view_as(near)
        return near.gather(2, free.int().argmax(2, keepdim=True)).squeeze(2).clamp(min=0), free.any(2)
