"""From a recipe to a trainer: the parts on their device, and what the optimizer moves at which rate."""

from collections.abc import Callable
from typing import Any

import torch

from foilrec import parts
from foilrec.core import Backbone, Data, Sampler
from foilrec.errors import BadData, BadOption, some
from foilrec.recipe import Recipe
from foilrec.trainer import Objective, Trainer


def launch(recipe: Recipe, data: Data, on_step: Callable[[int, int], None] | None = None) -> Trainer:
    """The trainer of a recipe on some data, nothing trained yet; BadOption or BadData where that cannot be."""
    for phase in ("train", "valid", "test"):
        if not len(getattr(data, phase)):
            raise BadOption(f"{data.name} has no {phase} rows: choose a split, such as data.split=random.")
    full = (data.seen.counts >= data.n_items).nonzero().squeeze(1).tolist()
    if full:
        raise BadData(
            f"{data.name} leaves no negative for user {some(data.raw_users(full))}: all {data.n_items} items were "
            "taken in training. Drop such users, or add items."
        )
    model, sampler, loss = recipe.build(data)
    if not len(data.trained(model.history)):
        raise BadData(
            f"{data.name}: no training row has anything before it, which {recipe.backbone.name} reads: take data whose "
            "users have at least two training rows, or a backbone that reads no histories."
        )
    objective = Objective(model, sampler, loss).to(_device(recipe.device))
    optimizer = parts.build("optimizer", recipe.optimizer.name, _groups(model, sampler), **recipe.optimizer.options)
    if getattr(optimizer, "wants_rows", False):
        model.use_row_gradients()
    return Trainer(objective, optimizer, recipe.train, recipe.protocol("valid"), seed=recipe.seed, on_step=on_step)


def _groups(model: Backbone, sampler: Sampler) -> list[dict[str, Any]]:
    """Parameters for the optimizer: the backbone's, the sampler's, and those of each sampler with a rate of its own."""
    own = [part for part in sampler.modules() if isinstance(part, Sampler) and part.lr is not None]
    taken = {id(parameter) for part in own for parameter in part.parameters()}
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in part.parameters() if id(parameter) not in taken]}
        for part in (model, sampler)
    ]
    groups += [{"params": list(part.parameters()), "lr": part.lr} for part in own]
    return [group for group in groups if group["params"]]


def _device(name: str) -> torch.device:
    """The device of that name, tried out: torch says in many ways that it has no such device."""
    try:
        return torch.zeros(1, device=name).cpu().to(name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise BadOption(
            f"device = {name!r} cannot be used here ({str(error).splitlines()[0][:100].rstrip('.')}): take cpu, "
            "or cuda where torch finds a GPU."
        ) from error
