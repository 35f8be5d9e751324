"""Full-ranking evaluation of all users, ours and the usual form."""

import torch

from benchmarks import usual, world
from benchmarks.clock import Row, timed
from foilrec import parts
from foilrec.evaluation import Protocol, evaluate


def rows() -> list[Row]:
    """Recall, ndcg, precision and map at 5, 10, 20, 50."""
    data = world.like_baby()
    model = parts.build("backbone", "lightgcn", data)
    protocol = Protocol(metrics=("recall", "ndcg", "precision", "map"))
    evaluate(model, protocol)
    tables = model.propagate()
    users = len(data.test[:, 0].unique())
    mine = timed(lambda: evaluate(model, protocol), 3)
    theirs = timed(lambda: usual.evaluate(tables.users.detach(), tables.items.detach(), data))
    note = f"{users / mine.cpu:,.0f} users a CPU second (bar: 25,000); {users:,} users"
    return [Row("full ranking", mine.cpu, mine.wall, theirs.cpu, theirs.wall, 10, note)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(rows())
