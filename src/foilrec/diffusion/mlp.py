"""A multi-layer perceptron as the network of a diffusion, with conditions that can be left out."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

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
    Salimans 2022).
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
        missing = conditions if droppable else ()
        self.nulls = nn.ParameterList([nn.init.normal_(torch.empty(width), std=0.1) for width in missing])

    def forward(self, x: Tensor, t: Tensor, conditions: Sequence[Tensor] = (), present: Tensor | None = None) -> Tensor:
        """x [N, D], t [N] or [], conditions [N, width] each -> [N, D], with gradient."""
        return self.prepare(conditions, present)(x, t)

    def prepare(self, conditions: Sequence[Tensor] = (), present: Tensor | None = None) -> Denoise:
        """f(x, t) for a chain, with gradient; what conditions and steps give the first layer is worked out once.

        BadOption where there are more or fewer conditions than were announced.
        """
        if len(conditions) != len(self.parts) - 2:
            raise BadOption(f"MLP: {len(conditions)} conditions were given and {len(self.parts) - 2} announced.")
        if present is not None and not self.nulls:
            raise BadOption("MLP: conditions may not be missing here: announce them as droppable.")
        from_x, from_step, *from_conditions = self.first.weight.split(self.parts, 1)
        fixed: Tensor = self.first.bias
        for place, (condition, weight) in enumerate(zip(conditions, from_conditions, strict=True)):
            if present is not None:
                condition = torch.where(present[:, place, None], condition, self.nulls[place])
            fixed = fixed + linear(condition, weight)
        steps = linear(self.step_map(self.steps), from_step)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            made: Tensor = self.later(linear(x, from_x) + fixed + steps[t.long()])
            return made

        return denoise
