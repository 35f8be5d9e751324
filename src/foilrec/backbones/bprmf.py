"""Matrix factorisation."""

from torch import Tensor, nn
from torch.nn.functional import embedding

from foilrec.core import Backbone, Batch, Data, Negatives, Tables
from foilrec.regularisers import emb_loss, l2_loss


class BPRMF(Backbone):
    """One free vector a user and an item: score = e_u . e_i. Rendle et al., UAI 2009 (without item biases).

    The plainest host for a sampler, and the only one whose steps touch nothing but the batch's rows: with optimizer
    `lazyadam` a step costs the same at a million items. lightgcn smooths the same tables over the user-item graph.

    dim: width of the vectors. emb_reg, l2_reg: weights of the two penalties on the batch's rows (see regularisers;
    emb_reg 1e-5 .. 2 as in MMRec's grids). init: "normal" N(0, 0.1), which does not depend on the catalogue's size, or
    "xavier", as MMRec has it.
    """

    def __init__(self, data: Data, *, dim: int = 64, emb_reg: float = 0.0, l2_reg: float = 0.0,
                 init: str = "normal") -> None:
        super().__init__(data)
        self.users, self.items = nn.Embedding(data.n_users, dim), nn.Embedding(data.n_items, dim)
        self.emb_reg, self.l2_reg = emb_reg, l2_reg
        for table in (self.users, self.items):
            start_table(table.weight, init)

    def propagate(self, inputs: Tensor | None = None) -> Tables:
        """The two tables as they are."""
        items = self.items.weight if inputs is None else inputs
        return Tables(items=items, users=self.users.weight, row_sparse=self.row_gradients and inputs is None)

    def inputs(self) -> Tensor:
        """The item table, [I, D]."""
        return self.items.weight

    def use_row_gradients(self) -> bool:
        """Every step touches only the batch's rows."""
        self.row_gradients = True
        return True

    def own_loss(self, tables: Tables, batch: Batch, negatives: Negatives) -> Tensor:
        """The penalties on the rows of users, positives and negatives."""
        if not (self.emb_reg or self.l2_reg):
            return super().own_loss(tables, batch, negatives)
        rows = [tables.user_rows(batch.users), tables.item_rows(batch.positives)]
        if negatives.ids is not None:
            rows.append(embedding(negatives.ids, tables.items, sparse=tables.row_sparse))
        return self.emb_reg * emb_loss(*rows) + self.l2_reg * l2_loss(*rows)


def start_table(weight: Tensor, init: str) -> None:
    """Fills a table in place."""
    if init == "xavier":
        nn.init.xavier_uniform_(weight)
    else:
        nn.init.normal_(weight, std=0.1)
