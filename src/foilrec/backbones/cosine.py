"""Any backbone, scored by cosines: what losses with a temperature are made for."""

from collections.abc import Mapping

from torch import Tensor

from foilrec.core import Backbone, Batch, Data, Negatives, Tables
from foilrec.errors import must_hold
from foilrec.numerics.angles import length, unit
from foilrec.tables.late import LateTables


class Cosine(Backbone):
    """A backbone whose users and items are brought to length 1, so that its score is a cosine over a temperature.

    Trained, evaluated and served alike, and samplers see the same scores: as SimpleX (Mao et al., CIKM 2021), BSL (Wu
    et al., ICDE 2024) and PSL (Yang et al., NeurIPS 2024) rank. A loss's own `cosine = true` changes training alone.
    Penalties of the inner backbone stay on its own rows, before they are brought to length 1.

    inner: the backbone around which it goes. temperature: .05 .. .5 for bpr and softmax (left at temperature 1); 1 for
    losses with a temperature or a margin of their own in cosines (ccl, bsl, psl).
    """

    def __init__(self, data: Data, *, inner: Backbone, temperature: float = 0.1) -> None:
        super().__init__(data)
        must_hold("cosine", temperature=(temperature, temperature > 0, "above 0"))
        self.inner, self.temperature = inner, temperature
        self.history, self.ranking_weight = inner.history, inner.ranking_weight

    def begin_epoch(self, epoch: int) -> None:
        """The inner backbone's."""
        self.inner.seed = self.seed
        self.inner.begin_epoch(epoch)

    def end_epoch(self, epoch: int) -> None:
        """The inner backbone's."""
        self.inner.end_epoch(epoch)

    def inputs(self) -> Tensor:
        """The inner backbone's item rows, [I, D], of any length."""
        return self.inner.inputs()

    def ego(self) -> Tensor:
        """The inner backbone's, [I, D]."""
        return self.inner.ego()

    def propagate(self, inputs: Tensor | None = None) -> Tables:
        """The inner tables: items at length 1, users at length 1 over the temperature."""
        return UnitTables(self.inner.propagate(inputs), self.temperature)

    def step_tables(self, batch: Batch, inputs: Tensor | None = None) -> Tables:
        """The same of a step."""
        return UnitTables(self.inner.step_tables(batch, inputs), self.temperature)

    def query(self, tables: Tables, batch: Batch) -> Tensor:
        """The inner query at length 1 over the temperature, [B, D]."""
        return unit(self.inner.query(_inner(tables), batch)) / self.temperature

    def encode(self, features: Mapping[str, Tensor], base: Tensor | None = None) -> Tensor:
        """What the inner backbone makes of described items, at length 1."""
        return unit(self.inner.encode(features, base))

    def own_loss(self, tables: Tables, batch: Batch, negatives: Negatives) -> Tensor:
        """What the inner backbone wants."""
        return self.inner.own_loss(_inner(tables), batch, negatives)

    def use_row_gradients(self) -> bool:
        """As the inner backbone can."""
        return self.inner.use_row_gradients()


class UnitTables(LateTables):
    """Items of other tables at length 1, and users at length 1 over a temperature, when someone asks for them."""

    def __init__(self, inner: Tables, temperature: float) -> None:
        super().__init__(
            lambda: (None if inner.users is None else unit(inner.users) / temperature, unit(inner.items)),
            lambda ids: unit(inner.user_rows(ids)) / temperature,
            lambda ids: unit(inner.item_rows(ids)),
            lambda: unit(inner.items),
        )
        self.inner = inner
        if inner.layers:  # their mean is the final table, here at length 1
            self.layers = tuple(layer / length(inner.items)[:, None] for layer in inner.layers)


def _inner(tables: Tables) -> Tables:
    return tables.inner if isinstance(tables, UnitTables) else tables
