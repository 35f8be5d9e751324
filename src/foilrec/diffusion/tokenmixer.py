"""CCDRec's estimator: one attention over a noisy vector, its conditions and its step."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, layer_norm, pad

from foilrec.diffusion.attention import AttendedMean, logits_of, mix, shares
from foilrec.diffusion.chains import Denoise
from foilrec.diffusion.steps import step_embedding


class TokenMixer(nn.Module):
    """CCDRec's estimator of x_0 (AAAI 2025): attention over the tokens x_t, conditions and step, then their mean.

    Tokens [N, D] go through a LayerNorm without affine and one head with three maps D x D without bias (Xavier normal),
    logits over sqrt(D). There is no feed-forward layer, residual, output map or token type, so the order of conditions
    does not matter. `attention` says how it is worked out.

    dim: D. steps: T. present [N, M], bool: False where a row lacks a condition; it is then no key, has no part in the
    mean, and gets no gradient, whatever it holds.
    """

    def __init__(self, dim: int, steps: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Parameter(nn.init.xavier_normal_(torch.empty(dim, dim))) for _ in "qkv")
        normed = layer_norm(step_embedding(torch.arange(steps), dim), (dim,))
        self.register_buffer("steps", normed, persistent=False)
        self.steps: Tensor

    def forward(self, x: Tensor, t: Tensor, conditions: Sequence[Tensor], present: Tensor | None = None) -> Tensor:
        """x [N, D], t [N] or [], conditions M times [N, D] -> [N, D], with gradient."""
        present = _with_own(present)
        tokens = [*self._normed(conditions, present), *self._normed([x]), embedding(t.long(), self.steps)]
        mixed: Tensor = AttendedMean.apply(self._product(), present, *tokens)  # type: ignore[no-untyped-call]
        return mixed @ self.value

    @torch.no_grad()
    def prepare(self, conditions: Sequence[Tensor], present: Tensor | None = None) -> Denoise:
        """forward for a chain, without gradient: f(x, t) with all that conditions settle worked out beforehand."""
        present, product = _with_own(present), self._product()
        known = self._normed(conditions, present)
        maps = [token @ product for token in known]
        block = logits_of(maps, known, None) if known else None

        @torch.no_grad()
        def denoise(x: Tensor, t: Tensor) -> Tensor:
            new = [*self._normed([x]), embedding(t.long(), self.steps)]
            tokens = [*known, *new]
            logits = logits_of([*maps, *(token @ product for token in new)], tokens, present, block)
            attention, rows = shares(logits, present)
            return mix((rows[:, None] * attention).sum(0), tokens) @ self.value

        return denoise

    def _product(self) -> Tensor:
        """W_q W_k^T / sqrt(D)."""
        return self.query @ self.key.T / math.sqrt(len(self.query))

    def _normed(self, tokens: Sequence[Tensor], present: Tensor | None = None) -> list[Tensor]:
        if present is not None:
            tokens = [torch.where(here[:, None], token, 0) for here, token in zip(present, tokens, strict=False)]
        return [layer_norm(token, token.shape[1:]) for token in tokens]


def _with_own(present: Tensor | None) -> Tensor | None:
    """[N, M] -> [M + 2, N]: the noisy vector and the step are never missing."""
    return None if present is None else pad(present, (0, 2), value=True).T
