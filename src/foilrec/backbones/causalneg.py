"""NegGen's causal model: what the key attributes of an item do, read off the difference to generated negatives."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, softplus

from foilrec.core import Backbone, Batch, Data, Negatives, Tables, rows_of
from foilrec.data import Features
from foilrec.errors import BadOption, PartsDoNotFit, above, at_least, must_hold
from foilrec.faithful import promise
from foilrec.graphs.sparse import interaction_graph
from foilrec.graphs.walks import smoothed
from foilrec.negatives.generated import read
from foilrec.negatives.shelf import Shelf
from foilrec.numerics import streams
from foilrec.numerics.chances import chances
from foilrec.numerics.principal import Axes
from foilrec.tables.embeddings import Init, l2_loss, table
from foilrec.tables.late import LateTables

BLOCK = 4096  # items whose content is read at once


class CausalNeg(Backbone):
    """LightGCN whose items also bring the effect of their key attributes. The causal module of «NegGen» (2025).

    The modalities of an item, W_m F_m + b_m, attend to each other and give their mean h; those of a generated negative,
    the same item with key attributes changed, give h' by the same weights. What both share cancels in h - h'; with a
    two-layer perceptron P, c = P(h - h') is the effect of what was changed, and n = P(h') the negative. L_rec = -log
    sigmoid(u.i + lam u.c - u.n) and L_align = -log(e^(c.i / tau) / (e^(c.i / tau) + e^(n.i / tau))) are own_loss, beta
    L_rec + alpha L_align, for one negative a row: of those made for its user, else for everyone, by chance. A row
    without one takes the content of its uniform item (data.easy). Served is i + lam c with h' the mean over all
    negatives of an item; where it has none, the mean of h over the catalogue, as of the epoch's end. In training the
    tables hold c beside one of them, another every epoch.
    L_rec alone gives an item's ID no negative to be told from, so that the recipe's ranking loss and sampler teach
    ranking beside it, with weight ranking_weight; as published it is 0, the tables being trained as LightGCN before,
    which is not done here. Where the data's features are not in the space of the negatives, those of the folder serve.

    path: a folder of `foilrec generate`. dim, layers: of LightGCN. heads: of the attention; dim is a multiple. lam: .4;
    0 with alpha = 0 leaves the causal part out. alpha: 1e-2; 0 for no alignment. tau: .2. beta: 1. identity: score the
    negative u.n + u.i, so that content alone tells it apart. attention: between "modalities", or "single" tokens, which
    is a linear map, as released. align: "softmax", or "unbounded", (n.i - c.i) / tau, as released. edits: "own", or
    "shuffled", every item's negatives being another's. difficulty: how many attributes may differ, all by default.
    modalities: all of the folder by default. axes: put wide features on so many principal axes of the items first (128,
    say), which saves most of a step's cost. l2_reg: penalty on layer 0. init: of tables, "normal" N(0, 0.1) or
    "xavier". faithful: raise if an option differs from what was released.
    """

    middle: Tensor

    def __init__(
        self,
        data: Data,
        *,
        path: str,
        dim: int = 64,
        layers: int = 2,
        heads: int = 8,
        lam: float = 0.4,
        alpha: float = 1e-2,
        tau: float = 0.2,
        beta: float = 1.0,
        ranking_weight: float = 1.0,
        identity: bool = False,
        attention: Literal["modalities", "single"] = "modalities",
        align: Literal["softmax", "unbounded"] = "softmax",
        edits: Literal["own", "shuffled"] = "own",
        difficulty: tuple[int, ...] = (),
        modalities: tuple[str, ...] = (),
        axes: int | None = None,
        l2_reg: float = 0.0,
        init: Init = "normal",
        faithful: bool = False,
    ) -> None:
        super().__init__(data)
        released = {
            "ranking_weight": (ranking_weight, 0),
            "beta": (beta, 1),
            "identity": (identity, False),
            "attention": (attention, "single"),
            "align": (align, "unbounded"),
            "edits": (edits, "own"),
            "heads": (heads, 8),
            "axes": (axes, None),
        }
        promise("causalneg", faithful, released)
        must_hold(
            "causalneg",
            **at_least(1, heads=heads, axes=axes),
            **at_least(0, layers=layers, lam=lam, alpha=alpha, beta=beta, ranking_weight=ranking_weight, l2_reg=l2_reg),
            **above(0, tau=tau),
            dim=(dim, heads > 0 < dim and dim % heads == 0, f"a multiple of heads = {heads}, and above 0"),
        )
        self.layers, self.lam, self.alpha, self.tau, self.beta = layers, lam, alpha, tau, beta
        self.ranking_weight, self.identity, self.l2_reg = ranking_weight, identity, l2_reg
        self.bounded = align == "softmax"
        self._open(path, modalities, difficulty, edits == "shuffled")
        whole = {name: self.made.originals(data, name) for name in self.modalities}
        frames = {name: _axes(features, axes) for name, features in whole.items()}
        self.frames = nn.ModuleDict(frames)
        self.originals = {name: _framed(features, frames[name]) for name, features in whole.items()}
        self.changed = {name: _framed(self.made.after[name], frames[name]) for name in whole}
        self.users, self.ids = table(data.n_users, dim, init), table(data.n_items, dim, init)
        self.graph = interaction_graph(data.train, data.n_users, data.n_items)
        self.tokens = nn.ModuleList(nn.Linear(self.changed[name].dim, dim) for name in self.modalities)
        self.attention = _Attention(dim, heads, single=attention == "single")
        self.effect = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.register_buffer("middle", torch.zeros(dim))
        self.epoch = 0
        self.end_epoch(0)

    def _open(self, path: str, modalities: Sequence[str], difficulty: Sequence[int], shuffled: bool) -> None:
        """Reads the folder."""
        self.made = read(path, self.data)
        self.modalities = tuple(modalities) or tuple(self.made.after)
        if unknown := set(self.modalities) - set(self.made.after):
            raise PartsDoNotFit(
                f"causalneg: the folder has negatives in {', '.join(self.made.after)}, not in {', '.join(unknown)}."
            )
        chosen = self.made.told(self.modalities)
        if difficulty:
            chosen = chosen & torch.isin(self.made.difficulty, torch.tensor(list(difficulty)))
        if not chosen.any():
            raise BadOption(f"causalneg: the folder has no negatives of difficulty = {tuple(difficulty)!r}.")
        self.shelf = Shelf(self.made.items, self.made.users, chosen, self.data.n_users, shuffled=shuffled)
        self.complete = len(self.made.items[chosen].unique()) == self.data.n_items

    @property
    def notes(self) -> tuple[str, ...]:
        """How many items have a negative."""
        return (f"causalneg: {self.made.reach(self.data.n_items)}",)

    def inputs(self) -> Tensor:
        """The item ids' rows, [I, D]."""
        return self.ids.weight

    def begin_epoch(self, epoch: int) -> None:
        """Which negatives the epoch draws."""
        self.epoch = epoch

    @torch.no_grad()
    def end_epoch(self, epoch: int) -> None:
        """Refreshes the mean of h over the catalogue, if there are items without a negative."""
        if self.complete:
            return
        total, count = torch.zeros_like(self.middle), 0
        for ids in torch.arange(self.data.n_items, device=total.device).split(BLOCK):
            made, has = self.content(self._own(ids))
            total, count = total + made.sum(0), count + int(has.sum())
        self.middle.copy_(total / max(1, count))

    def _own(self, ids: Tensor) -> list[Tensor]:
        return [self.originals[name].of(ids) for name in self.modalities]

    def _changed(self, rows: Tensor) -> list[Tensor]:
        return [self.changed[name].of(rows) for name in self.modalities]

    def content(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """h [..., D] of the modalities' features [..., F_m], and where there is any: what is all 0 is not there."""
        has = torch.stack([(each != 0).any(-1) for each in features], -1)
        tokens = torch.stack([linear(each) for linear, each in zip(self.tokens, features, strict=True)], -2)
        return self.attention(tokens, has), has.any(-1)

    def effects(self, ids: Tensor) -> Tensor:
        """c of items [n], [n, D]: what the tables hold of it; 0 without content."""
        own, has = self.content(self._own(ids))
        made: Tensor = self.effect(own - self._others(ids)) * has[:, None]
        return made

    def _others(self, ids: Tensor) -> Tensor:
        """h' beside items [n], [n, D]: of one negative each in training, the mean over all of them in evaluation."""
        if self.training:
            chance = chances(ids, streams.key(self.seed, "effect", self.epoch), 1)[:, 0]
            rows, has = self.shelf.draw(None, ids, chance)
            return torch.where(has, self.content(self._changed(rows[:, 0]))[0], self.middle)
        rows, owner = self.shelf.of(ids)
        sums = self.middle.new_zeros(len(ids), len(self.middle))
        sums.index_add_(0, owner, self.content(self._changed(rows))[0])
        counts = torch.bincount(owner, minlength=len(ids))[:, None]
        return torch.where(counts > 0, sums / counts.clamp(min=1), self.middle)

    def propagate(self, inputs: Tensor | None = None) -> Tables:
        """LightGCN's tables, and lam times the effects beside the items."""
        return _Causal(self, self.users.weight, self.ids.weight if inputs is None else inputs)

    def encode(self, features: Mapping[str, Tensor], base: Tensor | None = None) -> Tensor:
        """n = P(h') of described items [..., D]; they have no ID part, whatever they vary."""
        made: Tensor = self.effect(self.content([self.frames[name](features[name]) for name in self.modalities])[0])
        return made

    def own_loss(self, tables: Tables, batch: Batch, negatives: Negatives) -> Tensor:
        """beta L_rec + alpha L_align, means over the rows, and the penalty."""
        total = super().own_loss(tables, batch, negatives)
        if (self.beta or self.alpha) and isinstance(tables, _Causal):
            query, own = tables.user_rows(batch.users), tables.plain(batch.positives)
            effect, negative, known = self._pair(batch)
            lead = (query * (self.lam * effect - negative)).sum(1)
            lead = lead if self.identity else lead + (query * own).sum(1)
            away = ((negative - effect) * own).sum(1) / self.tau
            away = softplus(away) if self.bounded else away
            total = total + ((self.beta * softplus(-lead) + self.alpha * away) * known).mean()
        if self.l2_reg:
            items = torch.cat([batch.positives[:, None], *([] if negatives.ids is None else [negatives.ids])], 1)
            rows = embedding(batch.users, self.users.weight), embedding(items, self.ids.weight)
            total = total + self.l2_reg * l2_loss(*rows)
        return total

    def _pair(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """c and n of each row's own draw, [B, D], and the rows [B] in which both sides have content."""
        chance = chances(rows_of(batch), streams.key(self.seed, "generated", batch.epoch), 1)[:, 0]
        rows, has = self.shelf.draw(batch.users, batch.positives, chance)
        easy = self._own(self.data.easy(batch))
        other = [torch.where(has, *each) for each in zip(self._changed(rows[:, 0]), easy, strict=True)]
        own, here = self.content(self._own(batch.positives))
        changed, there = self.content(other)
        return self.effect(own - changed), self.effect(changed), here & there

    def get_extra_state(self) -> dict[str, Any]:
        """What the folder held: weights are of no use beside another."""
        return {"generated": self.made.digest}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Looks whether the folder is what it was."""
        self.made.must_be(state["generated"])


def _axes(items: Features, axes: int | None) -> Axes:
    """The principal axes of the items that have a modality, where it is wider; else none."""
    if not axes or items.dim <= axes:
        return Axes()
    return Axes(items.of(items.has(torch.arange(len(items))).nonzero().squeeze(1)), axes)


def _framed(features: Features, frame: Axes) -> Features:
    """All rows of a modality as they are read from now on."""
    if frame.mean is None:
        return features
    return Features(torch.cat([frame(features.of(rows)) for rows in torch.arange(len(features)).split(BLOCK)]).numpy())


class _Causal(LateTables):
    """LightGCN's rows, and items with their effects, worked out for what is asked."""

    def __init__(self, model: CausalNeg, users: Tensor, items: Tensor) -> None:
        self.model = model
        of_users, self._plain, self._smooth = smoothed(model.graph, users, items, model.layers, few=model.training)
        super().__init__(self._all, of_users, self._composed)

    def plain(self, ids: Tensor) -> Tensor:
        """Items without their effects, [..., D], with gradient."""
        return self._once("plain", ids, self._plain)

    def _composed(self, ids: Tensor) -> Tensor:
        if not self.model.lam:
            return self.plain(ids)
        distinct, place = ids.unique(return_inverse=True)
        return self.plain(ids) + self.model.lam * embedding(place, self.model.effects(distinct))

    def _all(self) -> tuple[Tensor, Tensor]:
        users, items = self._smooth()
        if self.model.lam:
            blocks = torch.arange(len(items), device=items.device).split(BLOCK)
            items = items + self.model.lam * torch.cat([self.model.effects(ids) for ids in blocks])
        return users, items


class _Attention(nn.Module):
    """Multi-head self-attention among the tokens of an item, and the mean of what comes out."""

    def __init__(self, dim: int, heads: int, *, single: bool) -> None:
        super().__init__()
        self.heads, self.single = heads, single
        self.inner, self.outer = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, has: Tensor) -> Tensor:
        """tokens [..., M, D], has [..., M] -> [..., D]; 0 where there is no token. single: each attends to itself."""
        query, key, value = (x.unflatten(-1, (self.heads, -1)) for x in self.inner(tokens).chunk(3, -1))
        share = has / has.sum(-1, keepdim=True).clamp(min=1)
        share = share[..., None]
        if not self.single:  # products of M x M matrices, M being 2 or 3, cost more than sums
            logits = (query[..., :, None, :, :] * key[..., None, :, :, :]).sum(-1) * query.shape[-1] ** -0.5
            logits = logits.masked_fill(~has[..., None, :, None], torch.finfo(logits.dtype).min)
            share = (logits.softmax(-2) * share[..., None]).sum(-3)  # the mean of what each attends to
        made: Tensor = self.outer((share[..., None] * value).sum(-3).flatten(-2)) * has.any(-1, keepdim=True)
        return made
