"""A sampler of your own, checked and trained: negatives from the positive's own category."""

import torch

import foilrec
from foilrec import contracts
from foilrec.core import Batch, Data, Negatives, Sampler, Tables
from foilrec.world.tastes import Tastes


class SameCategory(Sampler):
    """Of `pool` uniform unseen items, the first that shares the positive's category; the first at all if none does.

    pool: candidates a row.
    """

    def __init__(self, data: Data, *, pool: int = 16) -> None:
        super().__init__(data)
        self.pool = pool
        shop = data.oracle if isinstance(data.oracle, Tastes) else None
        self.category = torch.as_tensor(shop.catalogue.attributes["category"]) if shop else None

    def forward(self, tables: Tables, batch: Batch, query: torch.Tensor) -> Negatives:
        """ids [B, 1]."""
        candidates = self.unseen(batch, self.pool)
        if self.category is None:
            return Negatives(ids=candidates[:, :1])
        same = self.category[candidates] == self.category[batch.positives][:, None]
        return Negatives(ids=candidates.gather(1, same.int().argmax(1, keepdim=True)))


if __name__ == "__main__":
    contracts.check_sampler(SameCategory)
    recipe = foilrec.Recipe.from_tree(
        {"name": "same-category", "sampler": {"name": "__main__:SameCategory"}, "train": {"epochs": 5, "batch": 1024}}
    )
    run = foilrec.train(recipe, "runs/same-category")
    print(run.scores["test"]["recall@20"])
    print(run.recommend(["u0000"], top=3))
