"""GRU4Rec: what a user takes next, by a recurrent net over what he took before."""

from torch import Tensor, nn

from foilrec.core import Backbone, Batch, Data, Tables
from foilrec.errors import at_least, below_one, must_hold
from foilrec.numerics.dropout import drop
from foilrec.numerics.streams import of_step
from foilrec.sequences import Blocks
from foilrec.tables.by_rows import RowTables
from foilrec.tables.embeddings import Init, table


class GRU4Rec(Backbone):
    """score = (W h + b) . e_i, h the state of a GRU after the user's items. Hidasi et al., ICLR 2016.

    Items enter by the table that scores them (the later codes' "constrained" embedding). Whole histories are read from
    their start, each once a step for all its rows, where the published code runs many sessions side by side and carries
    states over from step to step. Its losses are bpr and the likes over other rows' items: take sampler inbatch. sasrec
    attends to all items at once.

    dim: width of the items. hidden: of the state, 64 .. 256. layers: 1 or 2. max_len: items read, 20 .. 200. dropout:
    of items and between layers, 0 .. .5. init: of the items.
    """

    def __init__(
        self,
        data: Data,
        *,
        dim: int = 64,
        hidden: int = 128,
        layers: int = 1,
        max_len: int = 50,
        dropout: float = 0.3,
        init: Init = "xavier",
    ) -> None:
        super().__init__(data)
        sizes = at_least(1, hidden=hidden, layers=layers, max_len=max_len)
        must_hold("gru4rec", **sizes, **below_one(dropout=dropout))
        data.histories("train")  # fails now if the order is not known
        self.history, self.dropout = max_len, dropout
        self.items = table(data.n_items, dim, init)
        self.layers = nn.ModuleList(nn.GRU(hidden if n else dim, hidden, batch_first=True) for n in range(layers))
        self.dense = nn.Linear(hidden, dim)

    def inputs(self) -> Tensor:
        """The item table, [I, D]."""
        return self.items.weight

    def propagate(self, inputs: Tensor | None = None) -> Tables:
        """The items; there are no users."""
        items = self.items.weight if inputs is None else inputs
        return RowTables(items=items) if self.row_gradients and inputs is None else Tables(items=items)

    def use_row_gradients(self) -> bool:
        """Every step touches only the items of its sequences and negatives."""
        self.row_gradients = True
        return True

    def query(self, tables: Tables, batch: Batch) -> Tensor:
        """The dense map of the state after each row's last item, [B, D]; 0 where there is none."""
        draw = (
            of_step(self.seed, "dropout", batch.epoch, batch.first, str(tables.items.device)) if self.training else None
        )

        def encode(x: Tensor, blocks: Blocks) -> Tensor:
            for layer in self.layers:
                x = blocks.through(layer, drop(x, self.dropout, draw))
            return self.dense(x)  # type: ignore[no-any-return]

        return batch.past.read(tables.compose_items, encode)
