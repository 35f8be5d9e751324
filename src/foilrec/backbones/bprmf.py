"""Matrix factorisation."""

from torch import Tensor

from foilrec.core import Backbone, Batch, Data, Negatives, Tables, batch_rows
from foilrec.errors import at_least, must_hold
from foilrec.tables.by_rows import RowTables
from foilrec.tables.embeddings import Init, PenaltyOfSquares, penalty, table


class BPRMF(Backbone):
    """One free vector a user and an item: score = e_u . e_i. Rendle et al., UAI 2009 (without item biases).

    The plainest host for a sampler, and one whose steps touch nothing but the batch's rows: with optimizer lazyadam a
    step costs the same at a million items. lightgcn smooths the same tables over the user-item graph.

    dim: width of the vectors. emb_reg, l2_reg: weights of the two penalties on the batch's rows (MMRec's grids are of
    emb_reg, 1e-5 .. 2; l2_reg 1e-6 .. 1e-2). init: "normal" N(0, 0.1), or "xavier", whose scale shrinks with the
    catalogue.
    """

    def __init__(
        self, data: Data, *, dim: int = 64, emb_reg: float = 0.0, l2_reg: float = 0.0, init: Init = "normal"
    ) -> None:
        super().__init__(data)
        must_hold("bprmf", **at_least(0, emb_reg=emb_reg, l2_reg=l2_reg))
        self.users, self.items = table(data.n_users, dim, init), table(data.n_items, dim, init)
        self.emb_reg, self.l2_reg = emb_reg, l2_reg

    def inputs(self) -> Tensor:
        """The item table, [I, D]."""
        return self.items.weight

    def propagate(self, inputs: Tensor | None = None) -> Tables:
        """The two tables as they are."""
        if self.row_gradients and inputs is None:
            return RowTables(items=self.items.weight, users=self.users.weight)
        return Tables(items=self.items.weight if inputs is None else inputs, users=self.users.weight)

    def use_row_gradients(self) -> bool:
        """Every step touches only the batch's rows."""
        self.row_gradients = True
        return True

    def own_loss(self, tables: Tables, batch: Batch, negatives: Negatives) -> Tensor:
        """The penalties on the rows of users, positives and negatives."""
        if not (self.emb_reg or self.l2_reg):
            return super().own_loss(tables, batch, negatives)
        if isinstance(tables, RowTables):
            squares = tables.squares(self.query(tables, batch), batch.positives, negatives.ids)
            if squares is not None:
                made: Tensor = PenaltyOfSquares.apply(squares, len(batch), self.emb_reg, self.l2_reg)  # type: ignore[no-untyped-call]
                return made
        return penalty(batch_rows(tables, batch, negatives), self.emb_reg, self.l2_reg)
