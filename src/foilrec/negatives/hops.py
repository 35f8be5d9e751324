"""Choices that differ from layer to layer of a graph: what a sampler that mixes layers needs of the tables."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from foilrec.errors import PartsDoNotFit
from foilrec.numerics import kernels

RowsOf = Callable[[Tensor], Tensor]


def need_layers(model: nn.Module, who: str) -> None:
    """Raises PartsDoNotFit if a backbone, or one inside it, has layers and does not show them."""
    if any(getattr(part, "keep_layers", True) is False for part in model.modules()):
        raise PartsDoNotFit(f"{who} chooses layer by layer: set backbone.keep_layers = true.")


def readers(layers: Sequence[Tensor], item_rows: RowsOf) -> list[RowsOf]:
    """How the rows of each layer are read, with gradient; without layers the final rows are the only one."""
    return [_reader(layer) for layer in layers] or [item_rows]


def _reader(layer: Tensor) -> RowsOf:
    return lambda ids: embedding(ids, layer)


def hardest(query: Tensor, layers: Sequence[Tensor], ids: Tensor, count: int) -> Tensor:
    """In each layer [I, D] the best of every `count`-th part of the candidates ids [B, count M]: [B, count, L]."""
    groups, found = ids.view(len(ids), count, ids.shape[1] // count), []
    for layer in layers:
        scores = kernels.candidate_scores(query, layer, ids).view_as(groups)
        found.append(groups.gather(2, scores.argmax(2, keepdim=True)))
    return torch.cat(found, 2)


def rows_by_layer(look_ups: Sequence[RowsOf], ids: Tensor) -> Tensor:
    """The row of layer l for ids [B, K, L], with gradient: [B, K, L, D]."""
    return torch.stack([look_up(ids[..., i].contiguous()) for i, look_up in enumerate(look_ups)], 2)
