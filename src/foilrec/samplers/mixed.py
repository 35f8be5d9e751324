"""Several samplers side by side."""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from foilrec.core import Backbone, Batch, Data, Negatives, Sampler, Tables
from foilrec.errors import BadOption, must_hold
from foilrec.numerics import streams

WAYS = ("exact", "approximate", "absent")


@dataclass
class Joined(Negatives):
    """The columns of all sources, and the sources as they came, so that each can hear of its own."""

    sources: tuple[Negatives, ...] = ()


class Mixed(Sampler):
    """The negatives of several samplers for every row, each sampler with its share of the loss.

    A loss that is a mean over K columns becomes sum_i share_i (mean over the K_i columns of sampler i): weights are
    share_i K / K_i, times a sampler's own, K counting a row's columns that are not masked. uniform beside inbatch is
    mixed negative sampling (Yang et al., WWW 2020); an easy and a hard one beside each other are what ccdrec and graded
    have built in. log_q is known where every part knows its own, each column's by the law of its sampler: shares of
    unbiased estimates of a sum over the catalogue add up to one. It is not the law of the mixture. Items beside made-up
    vectors become vectors. `group` keeps which part a column came from, and the hardness meter tells them apart. Each
    part has a seed of its own. Beside one that alternates (dmns) the others teach the backbone by their draws alone.

    parts: the samplers, in a recipe parts = [{name = "uniform"}, {name = "dns", pool = 32}]. shares: one a part, above
    0, made to add up to 1; without them every column counts alike.
    """

    def __init__(self, data: Data, *, parts: Sequence[Sampler], shares: tuple[float, ...] = ()) -> None:
        super().__init__(data)
        fair = bool(parts) and len(shares) in (0, len(parts)) and all(share > 0 for share in shares)
        must_hold(
            "mixed",
            parts=(len(parts), bool(parts), "one sampler or more, a list of tables with a name each"),
            shares=(shares, fair, f"numbers above 0, one for each of {len(parts)} parts"),
        )
        self.parts = nn.ModuleList(parts)
        self.shares = tuple(share / sum(shares) for share in shares)
        self.log_q_is = self._known()
        self.shares_batch = any(part.shares_batch for part in parts)
        self.seed = 0
        self._model: weakref.ref[Backbone] | None = None

    @property
    def seed(self) -> int:
        """Set like any sampler's; every part gets one that follows from it."""
        return self._seed

    @seed.setter
    def seed(self, seed: int) -> None:
        """Passes it on."""
        self._seed = seed
        for place, part in enumerate(getattr(self, "parts", ())):
            part.seed = streams.key(seed, "mixed", place)

    def begin_epoch(self, epoch: int, model: Backbone, tables: Tables) -> None:
        """Passed on to every part."""
        self._model = weakref.ref(model)
        for part in self._samplers():
            part.begin_epoch(epoch, model, tables)
        self.log_q_is = self._known()

    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Joined:
        """All columns, in the order of the parts."""
        sources = tuple(part(tables, batch, query) for part in self._samplers())
        with torch.set_grad_enabled(self.training):  # items that become vectors are looked up here
            joined = Negatives.join(self._weighted(sources), self._known_model(sources), tables)
        return Joined(**{f.name: getattr(joined, f.name) for f in fields(Negatives)}, sources=sources)

    def own_loss(self, tables: Tables, batch: Batch, query: Tensor) -> Tensor:
        """The sum of what the parts want to learn."""
        return torch.stack([part.own_loss(tables, batch, query) for part in self._samplers()]).sum()

    def feedback(self, batch: Batch, negatives: Negatives, scores: Tensor) -> None:
        """Every part hears of its own columns."""
        assert isinstance(negatives, Joined)
        columns = scores.split([source.shape[1] for source in negatives.sources], 1)
        for part, source, own in zip(self._samplers(), negatives.sources, columns, strict=True):
            part.feedback(batch, source, own)

    def _known(self) -> str:
        """How far log_q is known where it is known least: a part may learn only from the backbone what its law is."""
        return WAYS[max(WAYS.index(part.log_q_is) for part in self._samplers())]

    def _samplers(self) -> list[Sampler]:
        return [part for part in self.parts if isinstance(part, Sampler)]

    def _weighted(self, sources: tuple[Negatives, ...]) -> list[Negatives]:
        """The sources with weights that give each its share."""
        if not self.shares:
            return list(sources)
        left, found = [_left(source) for source in sources], []
        for share, source, mine in zip(self.shares, sources, left, strict=True):
            values = {f.name: getattr(source, f.name) for f in fields(Negatives)}
            weights = share * sum(left) / mine.clamp(min=1)
            values["weights"] = weights.expand(source.shape) if source.weights is None else weights * source.weights
            found.append(Negatives(**values))
        return found

    def _known_model(self, sources: tuple[Negatives, ...]) -> Backbone:
        """The epoch's backbone: only descriptions of items that do not exist need it."""
        model = None if self._model is None else self._model()
        if model is None and any(source.features is not None for source in sources):
            raise BadOption("mixed: call begin_epoch before drawing: a part describes items that the backbone encodes.")
        return model  # type: ignore[return-value]


def _left(source: Negatives) -> Tensor:
    """How many columns of each row hold a negative, [B, 1]."""
    if source.mask is not None:
        return source.mask.sum(1, keepdim=True).to(torch.get_default_dtype())
    form = next(x for x in (source.ids, source.vectors, *(source.features or {}).values()) if x is not None)
    return torch.full((source.shape[0], 1), float(source.shape[1]), device=form.device)
