"""Means and log means over each row's negatives, with weights and masks: the arithmetic that losses share.

Weights multiply the terms and need not add up to 1: sums are divided by the number of columns that are not masked.
"""

import math

import torch
from torch import Tensor


def kept(terms: Tensor, mask: Tensor | None) -> Tensor:
    """How many columns of [B, K] are not masked: [B]."""
    return terms.new_full((len(terms),), terms.shape[1]) if mask is None else mask.sum(1).to(terms.dtype)


def left(terms: Tensor, mask: Tensor | None) -> Tensor:
    """The same, at least 1: what sums are divided by."""
    return kept(terms, mask).clamp(min=1)


def counting(weights: Tensor | None, mask: Tensor | None) -> Tensor | None:
    """The columns that count at all, [B, K]: neither masked nor of weight 0. None: all do."""
    if weights is None:
        return mask
    return weights > 0 if mask is None else mask & (weights > 0)


def mean(terms: Tensor, weights: Tensor | None, mask: Tensor | None) -> Tensor:
    """The mean of terms [B, K] over the columns that are left: [B]."""
    weighted = terms if weights is None else terms * weights
    if mask is not None:
        weighted = weighted.masked_fill(~mask, 0)
    return weighted.sum(1) / left(terms, mask)


def log_sum(logits: Tensor, weights: Tensor | None, mask: Tensor | None) -> Tensor:
    """log sum_k w_k e^logit_k: [B, K] -> [B]; a huge negative number, without gradient, where nothing counts."""
    keep = counting(weights, mask)
    if weights is not None:
        logits = logits + weights.clamp(min=torch.finfo(weights.dtype).tiny).log()
    if keep is not None:
        logits = logits.masked_fill(~keep, torch.finfo(logits.dtype).min / 4)  # -inf would make the gradient nan
    return logits.logsumexp(1)


def log_mean(logits: Tensor, weights: Tensor | None, mask: Tensor | None) -> Tensor:
    """log of the mean of w_k e^logit_k over the columns that are left: [B, K] -> [B]."""
    return log_sum(logits, weights, mask) - left(logits, mask).log()


def over_rows(losses: Tensor, weights: Tensor | None, mask: Tensor | None) -> Tensor:
    """The mean of losses [B]; a row in which no negative counts is 0, gradient too."""
    keep = counting(weights, mask)
    return (losses if keep is None else losses.where(keep.any(1), 0)).mean()


def evened(logits: Tensor, log_q: Tensor | None, mask: Tensor | None) -> Tensor:
    """logits + log of weights ~ 1 / q of mean 1 a row: a log mean over draws from q stands for one over all alike."""
    if log_q is None:
        return logits
    return logits - log_q - log_mean(-log_q, None, mask)[:, None]


def lowest(logits: Tensor, mask: Tensor | None) -> Tensor:
    """The least logit of each row that is not masked, without gradient: [B, K] -> [B]."""
    logits = logits.detach()
    return (logits if mask is None else logits.masked_fill(~mask, torch.inf)).amin(1).nan_to_num(posinf=0)


def debiased(mixed: Tensor, positive: Tensor, prior: float, least: Tensor) -> Tensor:
    """log max{(e^mixed - prior e^positive) / (1 - prior), e^least}, [B]: a log mean without its share of positives."""
    if prior == 0:
        return torch.maximum(mixed, least)
    gap = positive + math.log(prior) - mixed
    room = gap < 0
    rest = mixed + (-torch.expm1(gap.where(room, -1))).log() - math.log1p(-prior)
    return torch.maximum(rest.where(room, least), least)


def group_log_mean(logits: Tensor, groups: Tensor) -> Tensor:
    """Each row's log mean of e^logit over the rows of its group: logits [B], groups [B] -> [B]."""
    _, place, counts = groups.unique(return_inverse=True, return_counts=True)
    most = logits.new_full((len(counts),), torch.finfo(logits.dtype).min).scatter_reduce(
        0, place, logits.detach(), "amax"
    )
    sums = torch.zeros_like(most).index_add(0, place, (logits - most[place]).exp())
    means: Tensor = sums.log() + most - counts.to(logits.dtype).log()
    return means[place]
