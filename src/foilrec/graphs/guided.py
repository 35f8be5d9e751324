"""MCDRec's graph of an epoch: some edges, weighed by how alike their two ends are."""

import torch
from torch import Tensor
from torch.nn.functional import embedding, normalize

from foilrec.graphs.sparse import Graph, weighted_subset


@torch.no_grad()
def guided_graph(
    pairs: Tensor,
    odds: Tensor,
    users: Tensor,
    items: Tensor,
    *,
    drop: float,
    theta: float,
    inverted: bool = False,
    generator: torch.Generator,
) -> Graph:
    """The user-item matrix of 1 - drop of the pairs [N, 2], drawn without replacement by odds [N], with weights.

    With g = 1 + theta cos(user, item) of the rows users [U, D] and items [I, D], and G its sum over the edges of a user
    or an item, an edge weighs g / sqrt(G_u G_i), or 1 / sqrt(G_u G_i) if inverted; edge by edge, never U x I.
    """
    if drop:
        count = max(1, int((1 - drop) * len(pairs)))
        pairs = pairs[weighted_subset(odds.cpu(), count, generator).to(pairs.device)]
    of, to = pairs.to(users.device).unbind(1)
    g = 1 + theta * (embedding(of, normalize(users)) * embedding(to, normalize(items))).sum(1)
    of_user = g.new_zeros(len(users)).index_add_(0, of, g)
    of_item = g.new_zeros(len(items)).index_add_(0, to, g)
    roots = (of_user[of] * of_item[to]).rsqrt()
    graph: Graph = Graph(of, to, roots if inverted else g * roots, (len(users), len(items)))
    return graph.to(users.device)
