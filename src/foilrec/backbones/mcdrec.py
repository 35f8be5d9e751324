"""MCDRec: items denoised under their content, a graph whose edges are weighed by the outcome, and BM3's agreement."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, embedding

from foilrec.core import Backbone, Batch, Data, Negatives, Tables
from foilrec.diffusion.representation import Representation
from foilrec.diffusion.unet import dropped
from foilrec.errors import PartsDoNotFit, at_least, below_one, must_hold
from foilrec.faithful import promise
from foilrec.graphs.guided import guided_graph
from foilrec.graphs.sparse import interaction_graph, inverse_root_degrees
from foilrec.numerics import streams
from foilrec.tables.embeddings import Init, emb_loss, table
from foilrec.tables.late import LateTables
from foilrec.tables.projected import Projected


class MCDRec(Backbone):
    """Representation diffusion and diffusion-guided graph denoising, around BM3. Ma et al., WWW 2024 companion.

    With h_m = W_m F_m + b_m: noisy item rows are estimated back under the h_m in training (L_dm, the mean squared
    error); p = (1 - share) Q + share x with the estimate x; items = LightGCN(layers; c(MLP([p ; h_m ...]))) + Q, where
    c takes the mean over items away; users and items go through one linear map f before they are scored. After an epoch
    the chain back from noise gives x of every item, for evaluation and for the graph: each epoch some edges are drawn
    without replacement by 1 / sqrt(d_u d_i), and weigh g = 1 + theta cos(e_u, x_i) over the roots of its sums at both
    ends. Evaluation walks the whole graph without weights. BM3's agreement, by cosine: f(u) with i', f(i) with u',
    f(h_m) with Q' and h_m', where ' is dropout without gradient. Where an item lacks a modality a learned vector stands
    for h_m. The recipe's ranking loss is the paper's BPR term, which the published code works out and never adds.

    dim: width. layers: 1. steps: T, 10 .. 100. schedule, scale: as in aligned. share: w, .3 .. 1. weight: of L_dm, .5.
    estimator: "unet" as published, or a multi-layer perceptron, "mlp", at a small part of its cost. estimates: of which
    items in a step: the "batch"'s positives and one random negative a row, where others keep their last x, or "all" as
    published. representation: false leaves out this diffusion (and denoise), for aligned to bring its own. join:
    "centred" as above, or "published", without c: then all vectors share a direction, with which the agreement is
    content, and ranks follow popularity for long (docs/fidelity/mcdrec.md). drop: share of edges left out, .1. theta:
    .05 .. .5 (0: no weights). edges: "multiplied", or "inverted" as published: the code leaves out the factor g, so
    that likeness lowers an edge's weight. agreement, content_weight: of BM3's losses, and of those of content among
    them (2). emb_reg: of the norms of all users and items (.1). ranking_weight: of the ranking loss, 0 in the code:
    then the sampler is not asked. dropout: of what is agreed with, .3. modalities: which content, all by default. axes:
    put wide content on so many principal axes first. init: "xavier", or "normal". faithful: raise if an option differs
    from what was published.
    """

    odds: Tensor

    def __init__(
        self,
        data: Data,
        *,
        dim: int = 64,
        layers: int = 1,
        steps: int = 20,
        schedule: str = "linear",
        scale: Literal["none", "unit"] | float = "none",
        share: float = 0.5,
        weight: float = 0.5,
        estimator: Literal["mlp", "unet"] = "mlp",
        estimates: Literal["batch", "all"] = "batch",
        representation: bool = True,
        join: Literal["centred", "published"] = "centred",
        drop: float = 0.1,
        theta: float = 0.3,
        edges: Literal["multiplied", "inverted"] = "multiplied",
        agreement: float = 1.0,
        content_weight: float = 2.0,
        emb_reg: float = 0.1,
        ranking_weight: float = 1.0,
        dropout: float = 0.3,
        modalities: tuple[str, ...] | None = None,
        axes: int | None = None,
        init: Init = "xavier",
        faithful: bool = False,
    ) -> None:
        super().__init__(data)
        chosen = {
            "estimator": (estimator, "unet"),
            "estimates": (estimates, "all"),
            "join": (join, "published"),
            "edges": (edges, "inverted"),
            "ranking_weight": (ranking_weight, 0),
            "schedule": (schedule, "linear"),
            "scale": (scale, "none"),
            "agreement": (agreement, 1),
            "representation": (representation, True),
            "axes": (axes, None),
        }
        promise("mcdrec", faithful, chosen)
        limits = at_least(0, layers=layers, weight=weight, agreement=agreement, ranking_weight=ranking_weight)
        limits |= at_least(0, content_weight=content_weight, emb_reg=emb_reg) | below_one(drop=drop, theta=theta)
        must_hold("mcdrec", **limits, **below_one(dropout=dropout), share=(share, 0 <= share <= 1, "in 0 .. 1"))
        names = data.modalities(modalities, "mcdrec conditions on", "take lightgcn")
        self.users, self.ids = table(data.n_users, dim, init), table(data.n_items, dim, init)
        self.layers, self.share, self.weight, self.drop, self.theta = layers, share, weight, drop, theta
        self.everywhere, self.inverted = estimates == "all", edges == "inverted"
        self.centred = join == "centred"
        self.agreement, self.content_weight, self.dropout = agreement, content_weight, dropout
        self.emb_reg, self.ranking_weight = emb_reg, ranking_weight
        self.contents = nn.ModuleDict({name: _content(data, name, dim, axes) for name in names})
        self.steps, self.representation = steps, None
        if representation:
            self.representation = Representation(
                data.n_items, dim, len(names), estimator=estimator, schedule=schedule, steps=steps, scale=scale
            )
        widths = [dim * (1 + len(names)), 2 * dim, dim, dim]
        self.join = nn.ModuleList([_linear(widths[k], widths[k + 1]) for k in range(3)])
        self.predictor = _linear(dim, dim)
        self.whole = interaction_graph(data.train, data.n_users, data.n_items)
        self.graph = self.whole
        self.register_buffer("odds", inverse_root_degrees(data.train, data.n_users, data.n_items), persistent=False)

    def begin_epoch(self, epoch: int) -> None:
        """Draws this epoch's edges and weighs them."""
        if self.drop or self.theta:
            self.graph = guided_graph(
                self.data.train,
                self.odds,
                self.users.weight,
                self.ids.weight if self.representation is None else self.representation.ends(self.ids.weight),
                drop=self.drop,
                theta=self.theta,
                inverted=self.inverted,
                generator=streams.generator(self.seed, "edges", epoch),
            )

    @torch.no_grad()
    def end_epoch(self, epoch: int) -> None:
        """Runs the whole chain for x of every item."""
        if self.representation is not None:
            for _, rows in self.denoise(epoch):
                self.representation.clean.copy_(rows)
            self.representation.ready.fill_(True)

    def inputs(self) -> Tensor:
        """The item ids' rows, [I, D]: what is diffused."""
        return self.ids.weight

    def propagate(self, inputs: Tensor | None = None) -> Tables:
        """As evaluation has them, with the last chain's x; `inputs` stands in for p."""
        self._must_take(inputs)
        if inputs is None:
            table, own = self.ids.weight, self.representation
            inputs = table if own is None else own.fused(table, self.share)
        return self._tables(inputs, self._contents())

    def _must_take(self, inputs: Tensor | None) -> None:
        if inputs is not None and self.representation is not None:
            raise PartsDoNotFit("mcdrec has a diffusion of its own: inside another, set its representation = false.")

    def step_tables(self, batch: Batch, inputs: Tensor | None = None) -> Tables:
        """As a step has them: x estimated for its items, dropout in the join, and L_dm."""
        self._must_take(inputs)
        noise, contents, table = (
            streams.of_step(self.seed, "noise", batch.epoch, batch.first),
            self._contents(),
            self.ids.weight,
        )
        own, counts = self.representation, None
        if own is None:
            return self._tables(table if inputs is None else inputs, contents, noise=noise)
        items = torch.arange(self.data.n_items, device=table.device)
        if not self.everywhere:
            items, counts = torch.cat([batch.positives, self.data.easy(batch)]).unique(return_counts=True)
        alignment, x = own.estimate(
            embedding(items, table),
            [embedding(items, content) for content in contents],
            noise,
            weights=None if counts is None else counts / counts.float().mean(),
            scale=own.diffusion.scale_of(table),
        )
        rows = torch.lerp(embedding(items, table), x, self.share)
        if not self.everywhere:
            rows = own.fused(table, self.share).index_copy(0, items, rows)
        return self._tables(rows, contents, alignment, noise)

    @torch.no_grad()
    def denoise(self, epoch: int) -> Iterator[tuple[int, Tensor]]:
        """The reverse chain over all items after an epoch: t = T - 1 .. 0, each with the rows [I, D] it leads to."""
        if self.representation is None:
            raise PartsDoNotFit("mcdrec without its representation diffusion has no chain: put aligned around it.")
        noise = streams.generator(self.seed, "chain", epoch)
        yield from self.representation.chain(self.ids.weight.detach(), self._contents(), noise)

    def _contents(self) -> list[Tensor]:
        return [content() for content in self.contents.values()]

    def _tables(
        self,
        rows: Tensor,
        contents: list[Tensor],
        alignment: Tensor | None = None,
        noise: torch.Generator | None = None,
    ) -> Tables:
        """Joins p with the content, walks, adds Q."""
        ego = torch.cat([rows, *contents], 1)
        for layer in self.join[:-1]:
            ego = dropped(layer(ego).relu(), 0.1, noise)
        ego = self.join[-1](ego)
        if self.centred:
            ego = ego - ego.mean(0)
        graph = self.graph if self.training else self.whole
        users, items = graph.smooth(self.users.weight, ego, self.layers)
        return _Predicted(self.predictor, users, items + self.ids.weight, contents, alignment)

    def own_loss(self, tables: Tables, batch: Batch, negatives: Negatives) -> Tensor:
        """weight * L_dm + agreement * BM3's losses + emb_reg * norms."""
        total = super().own_loss(tables, batch, negatives)
        if not isinstance(tables, _Predicted):
            return total
        if tables.alignment is not None:
            total = total + self.weight * tables.alignment
        if self.agreement:
            total = total + self.agreement * self._agreement(tables, batch)
        return total + self.emb_reg * emb_loss(tables.before[1], tables.before[0]) if self.emb_reg else total

    def _agreement(self, tables: "_Predicted", batch: Batch) -> Tensor:
        """How far the predictions of users, positives and content are from what they should agree with, each [B]."""
        noise = streams.of_step(self.seed, "targets", batch.epoch, batch.first)

        def target(rows: Tensor) -> Tensor:
            return dropped(rows.detach(), self.dropout, noise)

        users, items = embedding(batch.users, tables.before[0]), embedding(batch.positives, tables.before[1])
        total = _away(tables.user_rows(batch.users), target(items))
        total = total + _away(tables.item_rows(batch.positives), target(users))
        ids = target(embedding(batch.positives, self.ids.weight))
        parts: list[Projected] = list(self.contents.values())  # type: ignore[arg-type]
        for part, content in zip(parts, tables.contents, strict=True):
            rows = embedding(batch.positives, content)
            told = self.predictor(rows)
            apart = _away(told, ids) + _away(told, target(rows))
            total = total + self.content_weight * (apart if part.has is None else apart * part.has[batch.positives, 0])
        return total.mean()


class _Predicted(LateTables):
    """Users and items after the linear map; `before` it, [U, D] and [I, D], the content they came from, and L_dm."""

    def __init__(
        self, predictor: nn.Module, users: Tensor, items: Tensor, contents: list[Tensor], alignment: Tensor | None
    ) -> None:
        self.before, self.contents, self.alignment = (users, items), contents, alignment
        super().__init__(
            lambda: (predictor(users), predictor(items)),
            lambda ids: predictor(embedding(ids, users)),
            lambda ids: predictor(embedding(ids, items)),
        )


def _content(data: Data, name: str, dim: int, axes: int | None) -> Projected:
    modality = data.features[name]
    return Projected(modality.all(), modality.present, dim, axes=axes, null=True)


def _linear(inside: int, out: int) -> nn.Linear:
    made = nn.Linear(inside, out)
    nn.init.xavier_normal_(made.weight)
    return made


def _away(x: Tensor, y: Tensor) -> Tensor:
    """1 - cosine, row by row."""
    return 1 - cosine_similarity(x, y, dim=1)
