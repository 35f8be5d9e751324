"""Made-up vectors with an item pushed in their place: every sampler that offers it, whichever that is."""

import inspect

import pytest
import torch

from foilrec import parts
from foilrec.core import Data
from foilrec.negatives.pushed import pushing
from foilrec.trainer import Objective

OFFERS = {name: inspect.signature(parts.find("sampler", name)).parameters for name in parts.names("sampler")}
PUSHING = [name for name, options in OFFERS.items() if "push" in options]
LATE = 60  # an epoch by which every sampler makes vectors


def test_the_value_is_the_vectors_and_the_gradient_the_items() -> None:
    rows, made = torch.randn(3, 1, 4, requires_grad=True), torch.randn(3, 2, 4)
    found = pushing(made, rows)
    assert torch.equal(found, made)
    weights = torch.randn(3, 2, 4)
    (found * weights).sum().backward()
    assert torch.equal(rows.grad, weights.sum(1, keepdim=True))
    assert torch.equal(pushing(made, rows.detach()), made)


def test_all_that_make_vectors_up_without_a_gradient_offer_it() -> None:
    assert {"adar", "cnsdiff", "dmns", "gdnsm"} <= set(PUSHING)


@pytest.mark.parametrize("name", PUSHING)
def test_with_an_item_pushed_the_items_together_stay_where_they_are(name: str, world: Data) -> None:
    drift, losses = {}, {}
    for push in ("none", "easy"):
        torch.manual_seed(0)
        model = parts.build("backbone", "bprmf", world, dim=8)
        sampler = parts.build("sampler", name, world, dim=8, push=push)
        objective = Objective(model, sampler, parts.build("loss", "bpr")).train()
        with torch.no_grad():
            sampler.begin_epoch(LATE, model, model.propagate())
        loss = objective(world.batch(torch.arange(256), LATE), "model")
        loss.backward()
        drift[push], losses[push] = float(model.items.weight.grad.sum(0).abs().max()), loss.detach()
    assert torch.equal(losses["none"], losses["easy"])
    assert drift["easy"] < 1e-6 < 0.01 * drift["none"]
