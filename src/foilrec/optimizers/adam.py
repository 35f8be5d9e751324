"""Adam, fused."""

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor

from foilrec.errors import above, at_least, below_one, must_hold
from foilrec.numerics.rows import adam_rows


class Adam(torch.optim.Adam):
    """Adam over whole tables, in one fused pass: about ten times less CPU than the unfused form on wide tables.

    Every row moves at every step, touched or not, since moments decay everywhere: the published codes' semantics.
    lazyadam moves only the touched rows. A row-sparse gradient makes the same step as a dense one, in its own pass.

    lr: learning rate, 1e-4 .. 1e-2. beta1, beta2, eps: Adam's constants. weight_decay: L2 on every parameter.
    """

    wants_rows = True

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        limits = above(0, lr=lr, eps=eps) | at_least(0, weight_decay=weight_decay)
        must_hold("adam", **limits, **below_one(beta1=beta1, beta2=beta2))
        super().__init__(
            params, lr=lr, betas=(float(beta1), float(beta2)), eps=eps, weight_decay=weight_decay, fused=True
        )

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step; the closure, when given, is called with gradients on."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        held = []
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None or not parameter.grad.is_sparse:
                    continue
                if group["weight_decay"]:
                    parameter.grad = parameter.grad.to_dense()
                else:
                    self._by_rows(parameter, parameter.grad, group)
                    held.append((parameter, parameter.grad))
                    parameter.grad = None
        super().step()
        for parameter, gradient in held:
            parameter.grad = gradient
        return loss

    def _by_rows(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            state.update(step=torch.zeros((), dtype=torch.float32, device=parameter.device), **moments)
        state["step"] += 1
        adam_rows(
            gradient._indices()[0],
            gradient._values(),
            parameter,
            state["exp_avg"],
            state["exp_avg_sq"],
            step=int(state["step"]),
            lr=group["lr"],
            betas=group["betas"],
            eps=group["eps"],
            others=True,
        )
