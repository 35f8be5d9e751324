"""Adam on the touched rows only."""

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor

from foilrec.errors import above, below_one, must_hold
from foilrec.numerics.rows import adam_rows


class LazyAdam(torch.optim.Optimizer):
    """Adam that updates only the rows that the batch touched; the others, moments included, stay as they are.

    Not the same numbers as adam, whose moments decay in every row at every step; a step costs the same however large
    the tables are. Works on backbones that offer row gradients (bprmf); parameters with dense gradients get plain
    Adam steps. The bias correction counts steps, not touches, as torch's SparseAdam does.

    lr: learning rate, 1e-4 .. 1e-2. beta1, beta2, eps: Adam's constants.
    """

    wants_rows = True

    def __init__(
        self, params: Iterable[Any], *, lr: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8
    ) -> None:
        must_hold("lazyadam", **above(0, lr=lr, eps=eps), **below_one(beta1=beta1, beta2=beta2))
        super().__init__(params, {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps})

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
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state.update(step=0, exp_avg=torch.zeros_like(parameter), exp_avg_sq=torch.zeros_like(parameter))
        state["step"] += 1
        rows, values = None, gradient
        if gradient.is_sparse:
            rows, values = gradient._indices()[0], gradient._values()
        adam_rows(
            rows,
            values,
            parameter,
            state["exp_avg"],
            state["exp_avg_sq"],
            step=state["step"],
            lr=group["lr"],
            betas=(group["beta1"], group["beta2"]),
            eps=group["eps"],
        )
