"""SLMRec: graph towers for the ids and each modality, taught to agree about the items of a batch."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, normalize

from foilrec.core import Backbone, Batch, Data, Negatives, Tables
from foilrec.errors import above, at_least, must_hold
from foilrec.faithful import promise
from foilrec.graphs.sparse import interaction_graph
from foilrec.graphs.walks import smoothed
from foilrec.numerics.inbatch import in_batch
from foilrec.tables.embeddings import Init, l2_loss, table
from foilrec.tables.late import LateTables
from foilrec.tables.projected import Projected


class SLMRec(Backbone):
    """LightGCN on ids and on each modality, and a self-supervised chain between them (task FAC). Tao et al., TMM 2022.

    Towers: LightGCN(layers) with one user table, items entering as ids Q or as Z_m = W_m F_m + b_m, F_m of length 1 and
    frozen; all towers side by side go through a linear map for users and one for items. Self-supervision, weight alpha:
    the id rows of the batch's items are mapped stage by stage, x_k = A_k x_(k-1), and at stage k each must find its own
    item's row of modality k, B_k z, among the batch's (softmax of products over temperature). The
    main loss has each user find his item among the batch's, by cosine: no negatives, unless ranking_weight asks for the
    recipe's ranking loss too.
    An item that lacks a modality enters that tower with nothing, and is left out of that stage.

    dim: width of a tower and of the vectors. layers: 3. alpha: .01 .. 1. temperature: of the chain, .1 .. 1. main:
    weight of the loss by cosine, 1 as published. main_temperature: of that loss, .2 as published. ranking_weight: how
    much the recipe's ranking loss counts, 0 as published: then the sampler is not asked. twins: "masked": the same item
    elsewhere in a batch is no negative of itself; "negatives": it is one, as published. bridge: the published code's
    map between its image and its text stage, left over from sound: another linear map in a row of them. l2_reg: penalty
    on layer 0, which the published code reads from its settings and never uses (0). scores: "product" as published, or
    "cosine", as main trains them. modalities: the stages, in order. axes: put wide features on so many principal axes
    first (128, say), which saves most of a step's cost. init: of tables, "xavier" or "normal". faithful: raise if an
    option differs from what was published.
    """

    def __init__(
        self,
        data: Data,
        *,
        dim: int = 64,
        layers: int = 3,
        alpha: float = 0.1,
        temperature: float = 0.2,
        main: float = 1.0,
        main_temperature: float = 0.2,
        ranking_weight: float = 0.0,
        twins: Literal["masked", "negatives"] = "masked",
        bridge: bool = False,
        l2_reg: float = 0.0,
        scores: Literal["product", "cosine"] = "product",
        modalities: tuple[str, ...] | None = None,
        axes: int | None = None,
        init: Init = "xavier",
        faithful: bool = False,
    ) -> None:
        super().__init__(data)
        chosen = {
            "twins": (twins, "negatives"),
            "bridge": (bridge, True),
            "l2_reg": (l2_reg, 0),
            "scores": (scores, "product"),
            "main": (main, 1),
            "ranking_weight": (ranking_weight, 0),
            "axes": (axes, None),
        }
        promise("slmrec", faithful, chosen)
        must_hold(
            "slmrec",
            **at_least(0, layers=layers, alpha=alpha, main=main, ranking_weight=ranking_weight, l2_reg=l2_reg),
            **above(0, temperature=temperature, main_temperature=main_temperature),
        )
        names = data.modalities(modalities, "slmrec teaches towers of", "take lightgcn")
        self.users, self.ids = table(data.n_users, dim, init), table(data.n_items, dim, init)
        self.graph, self.layers = interaction_graph(data.train, data.n_users, data.n_items), layers
        self.views = nn.ModuleDict()
        for name in names:
            modality = data.features[name]
            self.views[name] = Projected(modality.all(), modality.present, dim, axes=axes, unit=True)
        self.join = nn.ModuleList([nn.Linear(dim * (1 + len(names)), dim) for _ in ("users", "items")])
        self.chain = _chain(len(names) if alpha else 0, dim, bridge)
        self.alpha, self.temperature, self.main, self.main_temperature = alpha, temperature, main, main_temperature
        self.ranking_weight = ranking_weight
        self.mask_twins, self.l2_reg, self.cosine = twins == "masked", l2_reg, scores == "cosine"

    def inputs(self) -> Tensor:
        """The item ids' rows, [I, D]."""
        return self.ids.weight

    def propagate(self, inputs: Tensor | None = None) -> Tables:
        """All towers in one walk, side by side; `inputs` stands in for the item ids' rows."""
        views: list[Projected] = list(self.views.values())  # type: ignore[arg-type]
        items = torch.cat([self.ids.weight if inputs is None else inputs, *(view() for view in views)], 1)
        users = self.users.weight.repeat(1, 1 + len(views))
        return _Towers(self, users, items)

    def joined(self, side: int, towers: Tensor) -> Tensor:
        """Vectors of users (0) or items (1) from their rows in all towers: [..., (1 + M) D] -> [..., D]."""
        made: Tensor = self.join[side](towers)
        return normalize(made, dim=-1) if self.cosine else made

    def own_loss(self, tables: Tables, batch: Batch, negatives: Negatives) -> Tensor:
        """main * L_main + alpha * the chain's losses + the penalty."""
        total = super().own_loss(tables, batch, negatives)
        if self.main:
            users, items = tables.user_rows(batch.users), tables.item_rows(batch.positives)
            sides = normalize(users, dim=1), normalize(items, dim=1) / self.main_temperature
            total = total + self.main * in_batch(*sides, batch.positives if self.mask_twins else None)
        if self.alpha and isinstance(tables, _Towers):
            total = total + self.alpha * self._chain_loss(tables.item_towers(batch.positives), batch.positives)
        if self.l2_reg:
            rows = embedding(batch.users, self.users.weight), embedding(batch.positives, self.ids.weight)
            total = total + self.l2_reg * l2_loss(*rows)
        return total

    def _chain_loss(self, towers: Tensor, items: Tensor) -> Tensor:
        """The sum over stages of how badly each item of the batch finds itself: towers [B, (1 + M) D], items [B]."""
        now, *others = towers.chunk(1 + len(self.views), 1)
        losses = []
        stages: list[_Stage] = list(self.chain)  # type: ignore[arg-type]
        views: list[Projected] = list(self.views.values())  # type: ignore[arg-type]
        for stage, view, other in zip(stages, views, others, strict=True):
            now, theirs = stage.own(now), stage.other(other) / self.temperature
            here = view.has
            rows = slice(None) if here is None else here[items, 0].nonzero().squeeze(1)
            losses.append(in_batch(now[rows], theirs[rows], items[rows] if self.mask_twins else None))
        return torch.stack(losses).sum()


class _Towers(LateTables):
    """Vectors joined from the rows of a walk through all towers at once."""

    def __init__(self, model: SLMRec, users: Tensor, items: Tensor) -> None:
        of_users, self.item_rows_of_towers, self._smooth = smoothed(
            model.graph, users, items, model.layers, few=model.training
        )
        self.model = model
        super().__init__(
            self._join_all,
            lambda ids: model.joined(0, of_users(ids)),
            lambda ids: model.joined(1, self.item_towers(ids)),
        )

    def _join_all(self) -> tuple[Tensor, Tensor]:
        users, items = self._smooth()
        return self.model.joined(0, users), self.model.joined(1, items)

    def item_towers(self, ids: Tensor) -> Tensor:
        """The items' rows in all towers, [..., (1 + M) D], with gradient."""
        return self._once("towers", ids, self.item_rows_of_towers)


class _Stage(nn.Module):
    """A stage of the chain: the map of the id rows, which goes on to the next, and that of the modality's."""

    def __init__(self, dim: int, out: int, bridge: bool) -> None:
        super().__init__()
        own, self.other = nn.Linear(dim, out), nn.Linear(dim, out)
        self.own: nn.Module = nn.Sequential(nn.Linear(dim, dim), own) if bridge else own


def _chain(count: int, dim: int, bridge: bool) -> nn.ModuleList:
    """Stages dim -> dim; the last of several, dim -> dim / 2 and perhaps with a bridge before it."""
    last = [k > 0 and k == count - 1 for k in range(count)]
    return nn.ModuleList([_Stage(dim, dim // 2 if end else dim, bridge and end) for end in last])
