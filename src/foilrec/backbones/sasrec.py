"""SASRec: what a user takes next, by self-attention over what he took before."""

from typing import Literal

import torch
from torch import Tensor, nn

from foilrec.core import Backbone, Batch, Data, Tables
from foilrec.errors import at_least, below_one, must_hold
from foilrec.numerics.dropout import drop
from foilrec.numerics.streams import of_step
from foilrec.sequences import Blocks
from foilrec.tables.by_rows import RowTables
from foilrec.tables.embeddings import Init, table


class SASRec(Backbone):
    """score = h . e_i, h the last state of causal self-attention over the user's items. Kang and McAuley, ICDM 2018.

    Items enter as sqrt(dim) e_i + p_t, t counted from the start of what is read. Each block is, as released,
    n + attend(n, x) with n = LN x, then n + D(W2 D(ReLU(W1 n))) with n = LN of that, D dropout: keys and values are not
    normalised, and n is carried on. The paper's text (eq. 2-7) is norm = "all": x + D(attend(LN x)), then
    x + D(W2 D(ReLU(W1 LN x))). h is normalised once more. The scores' table of items is that of the input. A sequence
    is encoded once for all its rows; users have no vectors. gru4rec reads the same histories step by step.

    dim: width. blocks: 1 .. 4. heads: 1 .. 4, a divisor of dim. max_len: items read, 20 .. 200. dropout: .2 for dense
    data, .5 for sparse. init: of the items and places. norm: what is normalised before attention, "queries" or "all".
    """

    def __init__(
        self,
        data: Data,
        *,
        dim: int = 64,
        blocks: int = 2,
        heads: int = 1,
        max_len: int = 50,
        dropout: float = 0.5,
        init: Init = "xavier",
        norm: Literal["queries", "all"] = "queries",
    ) -> None:
        super().__init__(data)
        must_hold(
            "sasrec",
            **at_least(1, blocks=blocks, heads=heads, max_len=max_len),
            **below_one(dropout=dropout),
            dim=(dim, heads > 0 < dim and dim % heads == 0, f"a multiple of heads = {heads}, and above 0"),
        )
        data.histories("train")  # fails now if the order is not known
        self.history, self.dim, self.dropout = max_len, dim, dropout
        self.items, self.places = table(data.n_items, dim, init), table(max_len, dim, init)
        self.blocks = nn.ModuleList(_Block(dim, heads, dropout, norm == "all") for _ in range(blocks))
        self.norm = nn.LayerNorm(dim)

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
        """The state after each row's last item, [B, D]; 0 where there is none."""
        draw = (
            of_step(self.seed, "dropout", batch.epoch, batch.first, str(tables.items.device)) if self.training else None
        )

        def encode(items: Tensor, blocks: Blocks) -> Tensor:
            x = blocks.each(lambda part: part + self.places.weight[: part.shape[1]], items * self.dim**0.5)
            x = drop(x, self.dropout, draw)
            for block in self.blocks:
                x = block(x, blocks, draw)
            return self.norm(x)  # type: ignore[no-any-return]

        return batch.past.read(tables.compose_items, encode)


class _Block(nn.Module):
    """Attention to what came before, and a position-wise net."""

    def __init__(self, dim: int, heads: int, dropout: float, all_normal: bool) -> None:
        super().__init__()
        self.heads, self.rate, self.all_normal = heads, dropout, all_normal
        self.asking, self.known = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.inner, self.outer = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))

    def forward(self, x: Tensor, blocks: Blocks, draw: torch.Generator | None) -> Tensor:
        """x [n, D] -> [n, D]; what stands at a place depends on the places of its sequence up to it."""
        normal: Tensor = self.norms[0](x)
        known = self.known(normal if self.all_normal else x)
        found = blocks.each(lambda *parts: self._attend(parts, draw), self.asking(normal), *known.chunk(2, 1))
        x = x + drop(found, self.rate, draw) if self.all_normal else normal + found
        normal = self.norms[1](x)
        found = self.outer(drop(self.inner(normal).relu(), self.rate, draw))
        return (x if self.all_normal else normal) + drop(found, self.rate, draw)

    def _attend(self, parts: tuple[Tensor, ...], draw: torch.Generator | None) -> Tensor:
        """Softmax attention of each place to itself and those before it, by heads side by side: three [s, h, D]."""
        asked, keys, values = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        scores = (asked * asked.shape[3] ** -0.5) @ keys.transpose(2, 3)
        later = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).triu(1)
        shares = drop(scores.masked_fill(later, -torch.inf).softmax(3), self.rate, draw)
        found: Tensor = shares @ values
        return found.transpose(1, 2).flatten(2)
