"""A world in which what comes next follows from what came last, and from nothing else: popularity knows nothing."""

import torch

from foilrec.core import Data
from foilrec.evaluation import Protocol, evaluate
from foilrec.numerics import streams
from foilrec.trainer import Objective, Settings, Trainer


def ring(
    users: int = 150, groups: int = 12, each: int = 5, length: int = 9, *, stray: float = 0.1, seed: int = 0
) -> Data:
    """Items stand in groups round a ring; a user goes on to some item of the next group, now and then to any item.

    Every group is as popular as any other. Sequences have 3 .. length items; the last is test, the last but one valid.
    """
    generator = streams.generator(seed, "ring")
    parts: tuple[list[tuple[int, int]], ...] = ([], [], [])
    for user in range(users):
        taken: list[int] = []
        group = int(torch.randint(groups, (), generator=generator))
        for _ in range(int(torch.randint(3, length + 1, (), generator=generator))):
            if float(torch.rand((), generator=generator)) < stray:
                group = int(torch.randint(groups, (), generator=generator))
            taken.append(group * each + int(torch.randint(each, (), generator=generator)))
            group = (group + 1) % groups
        taken = list(dict.fromkeys(taken))
        held = 2 if len(taken) > 2 else 0
        for place, item in enumerate(taken):
            parts[max(0, place - len(taken) + held + 1)].append((user, item))
    train, valid, test = (torch.tensor(rows) for rows in parts)
    return Data(users, groups * each, train, valid, test, name="ring", split="leave-one-out", timed=True)


def trained(objective: Objective, *, epochs: int, lr: float = 0.01, batch: int = 128) -> float:
    """Recall@5 on test after some epochs; popularity has 5 / I."""
    adam = torch.optim.Adam(objective.parameters(), lr=lr)
    protocol = Protocol(split="test", ks=(5,), metrics=("recall",), masked=("train", "valid"))
    settings = Settings(batch=batch, epochs=epochs, patience=0, every=epochs, meter=0, select="recall@5")
    for _ in Trainer(objective, adam, settings, protocol).epochs():
        pass
    return evaluate(objective.model, protocol).means["recall@5"]
