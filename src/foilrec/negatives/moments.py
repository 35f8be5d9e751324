"""Where a catalogue's vectors lie: their mean and covariance, and how a user's scores spread over them."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Mean [D] and covariance [D, D] of a cloud of vectors, with a root [D, D] of the latter: root root' = covariance.

    Scores of a query u over the cloud have mean u . mean and variance u' covariance u: what a score counts for that
    user is told by its distance from that mean in those units (`heights`).
    """

    mean: Tensor
    covariance: Tensor
    root: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, vectors: Tensor) -> "Moments":
        """The moments of vectors [I, D], without gradient; all are weighed alike."""
        vectors = vectors.detach()
        mean = vectors.mean(0)
        off = vectors - mean
        covariance = off.T @ off / len(vectors)
        values, axes = torch.linalg.eigh(covariance.double())
        return cls(mean, covariance, (axes * values.clamp(min=0).sqrt()).to(vectors.dtype))

    @classmethod
    def standard(cls, like: Tensor) -> "Moments":
        """Mean 0 and covariance 1, the cloud of plain noise, in the width and type of `like` [..., D]."""
        one = torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
        return cls(like.new_zeros(like.shape[-1]), one, one)

    @property
    def scale(self) -> Tensor:
        """The standard deviation of a coordinate on average, []: sqrt(trace covariance / D)."""
        return self.covariance.diagonal().mean().sqrt()

    def inside(self, x: Tensor) -> Tensor:
        """Vectors [..., D] as a diffusion wants them, off the mean and in the size of its noise: (x - mean) / scale."""
        return (x - self.mean) / self.scale

    def outside(self, x: Tensor) -> Tensor:
        """The vectors that `inside` was given."""
        return x * self.scale + self.mean

    def shape(self, noise: Tensor) -> Tensor:
        """Plain noise [..., D] given the cloud's covariance, around 0."""
        return noise @ self.root.T

    def spread(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each query's scores over the cloud: query [B, D] -> [B], [B]."""
        return query @ self.mean, torch.linalg.vector_norm(query @ self.root, dim=1)

    def heights(self, query: Tensor, vectors: Tensor) -> Tensor:
        """How far vectors [B, D] or [B, K, D] score above the cloud's mean for query [B, D], in standard deviations."""
        centre, width = self.spread(query)
        width = width.clamp(min=torch.finfo(query.dtype).tiny)
        if vectors.dim() == 2:
            return ((query * vectors).sum(1) - centre) / width
        return (torch.bmm(vectors, query[:, :, None])[:, :, 0] - centre[:, None]) / width[:, None]
