"""Items aligned with their content by a conditioned diffusion: CCDRec's DMA, around any backbone."""

from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from foilrec.core import Backbone, Batch, Data, Negatives, Tables
from foilrec.diffusion.process import Diffusion
from foilrec.diffusion.schedules import schedule as make_schedule
from foilrec.diffusion.tokenmixer import TokenMixer
from foilrec.errors import at_least, must_hold
from foilrec.faithful import promise
from foilrec.numerics import streams
from foilrec.numerics.principal import principal
from foilrec.tables.late import LateTables

KEPT = 2**26  # bytes of a chain that may be kept for the sampler's pools: more than Baby's 36 MB


class AlignedTables(LateTables):
    """The inner backbone's tables, and the loss of the diffusion that made their inputs."""

    def __init__(self, inner: Tables, alignment: Tensor) -> None:
        super().__init__(lambda: (inner.users, inner.items), inner.user_rows, inner.item_rows, lambda: inner.items)
        self.inner, self.alignment = inner, alignment
        self.layers = inner.layers


class Aligned(Backbone):
    """CCDRec's DMA (Yang et al., AAAI 2025), eq. 1-5: item rows denoised under their content, fused into a backbone.

    In training, for the items J that a step touches (positives and one random negative a row), a noisy item row e^t is
    estimated back by attention over [e^t, one token a modality, step]; L_dm is the mean squared error, and
    f_J = (1 - mu) h_J + mu f(e^t) takes the place of the inner backbone's inputs, h = ego() elsewhere. After an epoch
    the whole reverse chain gives E^0, and every item enters evaluation as (1 - mu) h + mu E^0. `denoise` is the chain,
    for samplers that take pools from it (ccdrec).

    inner: the backbone around which it goes, one that takes inputs (bprmf, lightgcn, vbpr, freedom). mu: share of the
    estimate, .3 .. .8. weight: lambda of L_dm, .5 .. 2; with mu = 0, weight = 0 and ego = "inputs" the inner backbone
    is as it is alone. steps: T, 5 .. 100. schedule: one of diffusion.schedules; the published linear one does not
    depend on T. scale: "none" as published, "unit" (rows over their root mean square: the noise is measured in them),
    or a number. fuse: "batch" as published, or "all": other rows are fused with the last E^0, as in evaluation. ego:
    "smoothed" as published (FREEDOM's items enter as S Q), or "inputs", as without alignment. stop_target: keep L_dm
    from pulling the item rows themselves; published off. modalities: which content, all by default. axes: put wide
    content on so many principal axes first (128, say), which saves most of a step's cost; published: the features
    whole. faithful: raise if an option differs from what was published.
    """

    clean: Tensor
    ready: Tensor

    def __init__(
        self,
        data: Data,
        *,
        inner: Backbone,
        mu: float = 0.5,
        weight: float = 1.0,
        steps: int = 20,
        schedule: str = "linear",
        scale: Literal["none", "unit"] | float = "none",
        fuse: Literal["batch", "all"] = "batch",
        ego: Literal["smoothed", "inputs"] = "smoothed",
        stop_target: bool = False,
        modalities: tuple[str, ...] | None = None,
        axes: int | None = None,
        faithful: bool = False,
    ) -> None:
        super().__init__(data)
        chosen = {
            "schedule": (schedule, "linear"),
            "scale": (scale, "none"),
            "fuse": (fuse, "batch"),
            "ego": (ego, "smoothed"),
            "stop_target": (stop_target, False),
            "axes": (axes, None),
        }
        promise("aligned", faithful, chosen)
        limits = at_least(0, weight=weight) | at_least(1, axes=axes)
        must_hold("aligned", mu=(mu, 0 <= mu <= 1, "in 0 .. 1"), **limits)
        names = data.modalities(modalities, "aligned conditions on", "take the inner backbone alone")
        self.inner, self.mu, self.weight, self.ranking_weight = inner, mu, weight, inner.ranking_weight
        self.history = inner.history
        self.fuse, self.stop_target, self.smoothed = fuse, stop_target, ego == "smoothed"
        rows = inner.inputs()
        self.diffusion = Diffusion(make_schedule(schedule, steps), "sample", scale)
        self.estimator = TokenMixer(rows.shape[1], steps)
        self.reduced = {name: self._on_axes(name, axes) for name in names if axes and data.features[name].dim > axes}
        widths = {n: self.reduced[n].shape[1] if n in self.reduced else data.features[n].dim for n in names}
        self.heads = nn.ModuleDict({name: nn.Linear(width, rows.shape[1]) for name, width in widths.items()})
        self.register_buffer("clean", torch.zeros_like(rows, requires_grad=False))
        self.register_buffer("ready", torch.tensor(False))
        self._chain: tuple[tuple[int, ...], list[tuple[int, Tensor]]] = (), []

    def _on_axes(self, name: str, axes: int) -> Tensor:
        features = self.data.features[name]
        return principal(features.all(), axes, features.present)

    @property
    def steps(self) -> int:
        """T."""
        return self.diffusion.steps

    def begin_epoch(self, epoch: int) -> None:
        """The inner backbone's."""
        self.inner.seed = self.seed
        self.inner.begin_epoch(epoch)

    @torch.no_grad()
    def end_epoch(self, epoch: int) -> None:
        """Runs the whole chain for E^0, when anything reads it."""
        self.inner.end_epoch(epoch)
        if self.mu:
            chain = list(self.denoise(epoch)) if self._keeps else []
            for _, rows in chain or self.denoise(epoch):
                self.clean.copy_(rows)
            self.ready.fill_(True)
            self._chain = self._stamp(epoch), chain

    def inputs(self) -> Tensor:
        """The inner backbone's item rows, [I, D]: what is diffused."""
        return self.inner.inputs()

    def ego(self) -> Tensor:
        """h of every item, [I, D]."""
        return self.inner.ego() if self.smoothed else self.inner.inputs()

    def propagate(self, inputs: Tensor | None = None) -> Tables:
        """The inner tables as evaluation has them: every item fused with the last E^0, once there is one."""
        return self.inner.propagate(self._fused_with_last(self.ego() if inputs is None else inputs))

    def _fused_with_last(self, ego: Tensor) -> Tensor:
        return torch.lerp(ego, self.clean, self.mu) if self.mu and bool(self.ready) else ego

    def step_tables(self, batch: Batch, inputs: Tensor | None = None) -> Tables:
        """The inner tables with the step's items fused with their estimates, and L_dm."""
        items, counts = torch.cat([batch.positives, self.data.easy(batch)]).unique(return_counts=True)
        alignment, estimate = self._align(items, counts, batch)
        ego = self.ego() if inputs is None else inputs
        base = self._fused_with_last(ego) if self.fuse == "all" else ego
        if self.mu:
            base = base.index_copy(0, items, torch.lerp(embedding(items, ego), estimate, self.mu))
        return AlignedTables(self.inner.step_tables(batch, base), alignment)

    def _align(self, items: Tensor, counts: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """L_dm and the estimates [N, D] of distinct items [N] that stand `counts` times in J."""
        table, generator = self.inputs(), streams.of_step(self.seed, "noise", batch.epoch, batch.first)
        times = self.diffusion.antithetic(len(items), generator).to(items.device)
        eps = torch.randn(len(items), table.shape[1], generator=generator).to(table)
        conditions, present = self._conditions(items)
        return self.diffusion.loss(
            lambda x, t: self.estimator(x, t, conditions, present),
            embedding(items, table),
            times,
            eps,
            weights=counts / counts.float().mean(),
            scale=self.diffusion.scale_of(table),
            stop_target=self.stop_target,
        )

    def _conditions(self, items: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """A token [N, D] a modality, and which items have it, [N, M], unless all have all."""
        features = {name: self.data.features[name] for name in self.heads}
        tokens = [head(self._content(name, items)) for name, head in self.heads.items()]
        if all(modality.present is None for modality in features.values()):
            return tokens, None
        return tokens, torch.stack([modality.has(items) for modality in features.values()], 1)

    def _content(self, name: str, items: Tensor) -> Tensor:
        if name in self.reduced:
            return self.reduced[name][items.cpu()].to(items.device)
        return self.data.features[name].of(items)

    @torch.no_grad()
    def denoise(self, epoch: int) -> Iterator[tuple[int, Tensor]]:
        """The reverse chain over all items after an epoch: t = T - 1 .. 0, each with the rows [I, D] it leads to.

        What end_epoch has just run is given again, where it is small enough to be kept.
        """
        if self._chain[1] and self._chain[0] == self._stamp(epoch):
            yield from self._chain[1]
            return
        table = self.inputs().detach()
        blocks = [self._conditions(ids) for ids in torch.arange(len(table), device=table.device).split(1024)]
        tokens = [torch.cat(column) for column in zip(*(block[0] for block in blocks), strict=True)]
        masks = [block[1] for block in blocks if block[1] is not None]
        denoiser = self.estimator.prepare(tokens, torch.cat(masks) if masks else None)
        noise = streams.generator(self.seed, "chain", epoch)
        for t, rows, _ in self.diffusion.regenerate(denoiser, table, noise=noise):
            yield t, rows

    @property
    def _keeps(self) -> bool:
        return self.steps * self.clean.numel() * self.clean.element_size() <= KEPT

    def _stamp(self, epoch: int) -> tuple[int, ...]:
        """What a chain follows from: its noise, and how often each parameter has been changed."""
        return epoch, *(parameter._version for parameter in self.parameters())

    def query(self, tables: Tables, batch: Batch) -> Tensor:
        """The inner backbone's."""
        return self.inner.query(_inner(tables), batch)

    def encode(self, features: Mapping[str, Tensor], base: Tensor | None = None) -> Tensor:
        """The inner backbone's: a part that a variant keeps of its base (vbpr's id) is the one before the fusion."""
        return self.inner.encode(features, base)

    def own_loss(self, tables: Tables, batch: Batch, negatives: Negatives) -> Tensor:
        """What the inner backbone wants, and weight * L_dm."""
        own = self.inner.own_loss(_inner(tables), batch, negatives)
        return own + self.weight * tables.alignment if isinstance(tables, AlignedTables) else own

    def use_row_gradients(self) -> bool:
        """As the inner backbone can."""
        return self.inner.use_row_gradients()


def _inner(tables: Tables) -> Tables:
    return tables.inner if isinstance(tables, AlignedTables) else tables
