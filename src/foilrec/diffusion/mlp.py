"""A multi-layer perceptron as the network of a diffusion, with conditions that can be left out."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear

from foilrec.diffusion.chains import Denoise
from foilrec.diffusion.steps import step_embedding
from foilrec.errors import BadOption

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh}


class MLP(nn.Module):
    """Layers on [x_t, step embedding, conditions ...] side by side, for a diffusion of vectors (as in GDNSM, CNSDiff).

    dim: D. steps: T. conditions: the width of each. hidden: widths between; none makes it a single linear map.
    activation: one of gelu, relu, silu, tanh. step_dim: width of the sinusoids; step_hidden: width of a two-layer map
    that they go through first, or None for none.

    droppable: whether conditions may be missing. Each then has a learned null vector, taken where present [N, M] is
    False: dropped at random in training, it gives the unconditional output that classifier-free guidance needs (Ho and
    Salimans 2022). always: so many conditions, the first ones, are never missing all the same, and not among the M.
    """

    def __init__(
        self,
        dim: int,
        steps: int,
        conditions: Sequence[int] = (),
        *,
        hidden: Sequence[int] = (128,),
        activation: Literal["gelu", "relu", "silu", "tanh"] = "gelu",
        step_dim: int = 64,
        step_hidden: int | None = None,
        droppable: bool = True,
        always: int = 0,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise BadOption(f"MLP: activation = {activation!r} must be one of {', '.join(ACTIVATIONS)}.")
        act = ACTIVATIONS[activation]
        self.register_buffer("steps", step_embedding(torch.arange(steps), step_dim), persistent=False)
        self.steps: Tensor
        self.step_map: nn.Module = nn.Identity()
        if step_hidden is not None:
            self.step_map = nn.Sequential(nn.Linear(step_dim, step_hidden), act(), nn.Linear(step_hidden, step_dim))
        widths = [*hidden, dim]
        self.parts = [dim, step_dim, *conditions]
        self.first = nn.Linear(sum(self.parts), widths[0])
        later = [layer for a, b in pairwise(widths) for layer in (act(), nn.Linear(a, b))]
        self.later = nn.Sequential(*later)
        self.always, missing = always, conditions[always:] if droppable else ()
        self.nulls = nn.ParameterList([nn.init.normal_(torch.empty(width), std=0.1) for width in missing])

    def forward(self, x: Tensor, t: Tensor, conditions: Sequence[Tensor] = (), present: Tensor | None = None) -> Tensor:
        """x [N, D], t [N] or [], conditions [N, width] each -> [N, D], with gradient."""
        return self.prepare(conditions, present)(x, t)

    def prepare(self, conditions: Sequence[Tensor] = (), present: Tensor | None = None) -> Denoise:
        """f(x, t) for a chain, with gradient; what conditions and steps give the first layer is worked out once.

        BadOption where there are more or fewer conditions than were announced.
        """
        if present is not None and not self.nulls:
            raise BadOption("MLP: conditions may not be missing here: announce them as droppable.")
        from_x, steps, fixed, given, weights = self._prepared(conditions)
        for place, (condition, weight) in enumerate(zip(given, weights, strict=True)):
            if present is not None:
                condition = torch.where(present[:, place, None], condition, self.nulls[place])
            fixed = fixed + linear(condition, weight)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            made: Tensor = self.later(linear(x, from_x) + fixed + embedding(t.long(), steps))
            return made

        return denoise

    @torch.no_grad()
    def mixture(
        self, conditions: Sequence[Tensor], has: Tensor, sets: Sequence[Sequence[int]], shares: Tensor
    ) -> Denoise:
        """f(x [K, N, D], t []) = sum_s shares[k, s] f_s(x_k, t), for guidance, without gradient.

        f_s is the network told of the conditions in sets[s] alone, as far as a row has them, has [N, M]; each row of
        shares [K, S] adds up to 1. The first layer, and the last, which is linear, run once for each k; a network of a
        single layer runs once, and its conditions are mixed beforehand.
        """
        from_x, steps, fixed, given, weights = self._prepared(conditions)
        nulls = [linear(null, weight) for null, weight in zip(self.nulls, weights, strict=True)]
        fixed = fixed + torch.stack(nulls).sum(0)
        told = torch.stack([linear(c, weight, -null) for c, weight, null in zip(given, weights, nulls, strict=True)])
        told = (told * has.T[..., None]).flatten(1)  # what knowing each condition changes
        member = told.new_tensor([[float(m in each) for m in range(len(given))] for each in sets])
        if not len(self.later):
            mixed = (shares.to(told) @ member @ told).view(len(shares), *fixed.shape) + fixed
            return lambda x, t: linear(x, from_x, embedding(t.long(), steps)).add_(mixed)
        by_set = (member @ told).view(len(sets), *fixed.shape) + fixed
        body, last = self.later[:-1], self.later[-1]
        parts = [[(share, s) for s, share in enumerate(row) if share] for row in shares.tolist()]

        @torch.no_grad()
        def denoise(x: Tensor, t: Tensor) -> Tensor:
            made = torch.empty_like(x)
            for k, mine in enumerate(parts):
                first = linear(x[k], from_x, embedding(t.long(), steps))
                hidden = [body(first + by_set[s]).mul_(share) for share, s in mine]
                made[k] = last(hidden[0] if len(hidden) == 1 else torch.stack(hidden).sum(0))
            return made

        return denoise

    def _prepared(
        self, conditions: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Sequence[Tensor], Sequence[Tensor]]:
        """The first layer's weights for x, what steps add to it [T, H], what the conditions that are never missing do,
        the others, and the weights for those."""
        if len(conditions) != len(self.parts) - 2:
            raise BadOption(f"MLP: {len(conditions)} conditions were given and {len(self.parts) - 2} announced.")
        from_x, from_step, *weights = self.first.weight.split(self.parts, 1)
        fixed: Tensor = self.first.bias
        for condition, weight in zip(conditions[: self.always], weights, strict=False):
            fixed = fixed + linear(condition, weight)
        steps = linear(self.step_map(self.steps), from_step)
        return from_x, steps, fixed, conditions[self.always :], weights[self.always :]
