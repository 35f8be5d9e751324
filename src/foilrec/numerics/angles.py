"""Directions of vectors: unit length and cosines, with finite gradients at length 0."""

import torch
from torch import Tensor

SHORT = 1e-6  # a shorter vector counts as this long


def unit(vectors: Tensor) -> Tensor:
    """vectors [..., D] at length 1."""
    return vectors / length(vectors)[..., None]


def cosine(query: Tensor, vectors: Tensor) -> Tensor:
    """query [B, D], vectors [B, K, D] or [B, D] -> [B, K] or [B]; no copy of vectors is made."""
    if vectors.dim() == 2:
        return (query * vectors).sum(-1) / (length(query) * length(vectors))
    return torch.bmm(vectors, query.unsqueeze(2)).squeeze(2) / (length(query)[:, None] * length(vectors))


def length(vectors: Tensor) -> Tensor:
    """The length of vectors [..., D], at least SHORT: [...]."""
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=-1)
    return lengths.clamp(min=SHORT)
