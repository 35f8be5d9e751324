"""Mirror Gradient: Adam that every so often takes a step back on the same batch."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from foilrec.errors import BadOption, above, at_least, below_one, must_hold


class Mirror(torch.optim.Adam):
    """Mirror Gradient (Zhong et al., WWW 2024): towards flat minima, by two steps on one batch, down and up again.

    At every beta-th batch, the first included, an Adam step on alpha1 * L is followed by one on -alpha2 * L, where L
    is computed anew at the new weights; the batches between get plain Adam steps on L. A pass more for every beta
    batches: a third more time at beta = 3. Both steps go through the same moments, so that the second is no ascent of
    size alpha2 * lr: it turns the running mean of gradients a little back and enlarges the running mean of squares.

    The published loop counts from each epoch's first batch, and an optimizer is told of no epoch: `restart` says after
    how many batches the count begins anew. Give it the batches of an epoch, training rows / train.batch rounded up, to
    count as published; 0, the default, counts on. The count is part of the saved state.

    The second pass sees the same draws, since draws follow from seed, epoch and training row; the published harness
    draws anew. A sampler hears of a mirrored batch twice (Sampler.feedback). The loss told is the first pass's.

    lr: learning rate, 1e-4 .. 1e-2. alpha1, alpha2: weights of the loss on the way down and up, 1 and .1 .. .3 in the
    paper; at alpha2 = 0 a second step without gradient remains, which moves on by the moments alone. beta: batches from
    one mirrored batch to the next. restart: as above. beta1, beta2, eps: Adam's constants. weight_decay: L2 on every
    parameter, which is not mirrored.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1e-3,
        alpha1: float = 1.0,
        alpha2: float = 0.1,
        beta: int = 3,
        restart: int = 0,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        must_hold(
            "mirror",
            **at_least(0, alpha1=alpha1, alpha2=alpha2, restart=restart, weight_decay=weight_decay),
            **at_least(1, beta=beta),
            **above(0, lr=lr, eps=eps),
            **below_one(beta1=beta1, beta2=beta2),
        )
        super().__init__(
            params, lr=lr, betas=(float(beta1), float(beta2)), eps=eps, weight_decay=weight_decay, fused=True
        )
        self.alpha1, self.alpha2, self.beta, self.restart = alpha1, alpha2, beta, restart
        self.param_groups[0]["batches"] = 0  # among the groups' values, which a state keeps

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One batch: a step, and at a mirrored batch the step back; gives the closure's first loss."""
        if closure is None:
            raise BadOption(
                "optimizer 'mirror' looks at a batch twice: call step(closure), with a closure that zeroes the "
                "gradients, computes the loss and calls backward()."
            )
        count = self.param_groups[0]["batches"]
        mirrored = count % self.beta == 0
        loss = self._step_on(self.alpha1 if mirrored else 1.0, closure)
        if mirrored:
            self._step_on(-self.alpha2, closure)
        self.param_groups[0]["batches"] = (count + 1) % (self.restart or self.beta)
        return loss

    def _step_on(self, weight: float, closure: Callable[[], Any]) -> Any:
        """An Adam step on `weight` times the closure's loss."""
        with torch.enable_grad():
            loss = closure()
        if weight != 1.0:
            gradients: list[Tensor] = [
                p.grad for group in self.param_groups for p in group["params"] if p.grad is not None
            ]
            for gradient in gradients:
                gradient.mul_(weight)
        super().step()
        return loss
