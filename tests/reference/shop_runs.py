"""Short trainings on the shop, and a shop some of whose items lack a modality: for the tests of whole backbones."""

from dataclasses import replace
from typing import Any

import torch

from foilrec import parts
from foilrec.core import Data
from foilrec.evaluation import Protocol, evaluate
from foilrec.trainer import Objective, Settings, Trainer


def patchy_world(world: Data) -> Data:
    """The small shop, some of whose items lack the image, some the text, and one both."""
    features = dict(world.features)
    for name, missing in (("image", [3, 4, 5, 40, *range(10, 20)]), ("text", [5, 6, 30])):
        present = torch.ones(world.n_items, dtype=torch.bool)
        present[missing] = False
        features[name] = replace(features[name], present=present)
    return replace(world, features=features)


def learned_beyond_popularity(backbone: dict[str, Any], *, epochs: int, lr: float = 0.01) -> float:
    """Recall@20 on the shop's test rows after some epochs, over that of ranking by popularity."""
    data: Data = parts.build("dataset", "shop", users=300, items=200).read()
    torch.manual_seed(0)
    options = {key: value for key, value in backbone.items() if key != "name"}
    model = parts.build("backbone", backbone["name"], data, **options)
    objective = Objective(model, parts.build("sampler", "uniform", data), parts.build("loss", "bpr"))
    adam = parts.build("optimizer", "adam", objective.parameters(), lr=lr)
    protocol = Protocol(split="test", ks=(20,), metrics=("recall",))
    settings = Settings(batch=512, epochs=epochs, patience=0, every=epochs, meter=0)
    for _ in Trainer(objective, adam, settings, protocol).epochs():
        pass
    popular = parts.build("backbone", "bprmf", data, dim=1)
    with torch.no_grad():
        popular.users.weight.fill_(1.0)
        popular.items.weight.copy_(data.popularity[:, None])
    learned, plain = (evaluate(which.eval(), protocol).means["recall@20"] for which in (model, popular))
    return learned / plain
