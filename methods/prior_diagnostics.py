"""What a prior says of the clusters, whether two agree, and how far centring is from dividing by one."""

# n images of this rank, K clusters

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from viewmill.methods.collectives import all_gather_rows, mean_over_ranks
from viewmill.methods.targets import batch_mean, teacher_targets


def prior_entropy(log_prior: Tensor) -> float:
    """- sum_k P_k log P_k, nats: log K where clusters are equally large, 0 where one has all; (K,)."""
    log_p = _normalised(log_prior)
    return float(-torch.xlogy(log_p.exp(), log_p.exp()).sum())


def empty_clusters(log_prior: Tensor, count: int) -> Tensor:
    """Which clusters have less than one of `count` samples, N P_k < 1: (K,) bool."""
    return log_prior + math.log(count) < 0


def floored_clusters(log_prior: Tensor, count: int) -> Tensor:
    """Which clusters stand at the floor 1/(N K) of an accumulator: less than that was found. (K,) bool."""
    return log_prior.double() + math.log(count * len(log_prior)) < 1e-9


def subsample_error(standard_error: Tensor, drawn: int, total: int) -> Tensor:
    """The standard error of a prior of `drawn` of `total` samples, as an estimate of the prior of all: (K,).

    Drawn without replacement, so it is 0 where all were drawn.

    Raises:
        ValueError: more were drawn than there are.
    """
    if not 0 < drawn <= total:
        raise ValueError(f"need 1 to {total} samples, got {drawn}")
    return standard_error * math.sqrt((total - drawn) / max(total - 1, 1))


class PriorAgreement(NamedTuple):
    """How far two priors lie apart."""

    total_variation: float  # half of sum_k |P_k - Q_k|: the share of samples that would have to move
    largest_log_ratio: float  # max_k |log P_k - log Q_k|: by how much a target's logit may differ
    mean_square_z: float | None  # of (P_k - Q_k) / standard error, over k; about 1 where chance alone differs


def agreement(log_p: Tensor, log_q: Tensor, standard_error: Tensor | None = None) -> PriorAgreement:
    """Compares two priors (K,), given as logarithms, such as a streaming one with that of a full pass.

    Args:
        standard_error: (K,), of the difference P_k - Q_k; of two independent estimates the root of the sum of
            their squares. Clusters where it is 0 are left out of z, as those at the floor
            should be: their P_k is no estimate. None: no z.

    Raises:
        ValueError: priors of different numbers of clusters.
    """
    if log_p.shape != log_q.shape or log_p.ndim != 1:
        raise ValueError(f"need two priors (K,), got {tuple(log_p.shape)} and {tuple(log_q.shape)}")
    log_p, log_q = _normalised(log_p), _normalised(log_q)
    difference = log_p.exp() - log_q.exp()
    mean_square = None
    if standard_error is not None and (known := standard_error > 0).any():
        mean_square = float((difference[known] / standard_error.double()[known]).square().mean())
    return PriorAgreement(float(difference.abs().sum() / 2), float((log_p - log_q).abs().max()), mean_square)


class JensenGap(NamedTuple):
    """Targets divided by the prior beside centred ones, over the images of all ranks; equal on all ranks."""

    temperature: float
    largest_difference: float  # max |q_prior - q_center|; as tau grows it falls as 1/tau^2
    total_variation: float  # half of sum_k |q_prior - q_center|, mean over images
    divergence: float  # KL(q_prior || q_center), nats, mean over images
    log_prior_gap: float  # max - min over k of log P_k - <w_k, mean f>/tau: what centring leaves out
    distance_to_uniform: float  # max |q_prior - 1/K|; falls as 1/tau only


def jensen_gap(
    logits: Tensor,
    temperature: float,
    group: ProcessGroup | None = None,
    *,
    log_prior: Tensor | None = None,
    center: Tensor | None = None,
) -> JensenGap:
    """How far centring is from what it approximates, at one temperature.

    q_prior and q_center are those of `teacher_targets`. Centring replaces log P_k, the logarithm of a mean of
    posteriors, by the mean logit over tau: Jensen's inequality, which is tight where logits hardly vary.
    Source: clustering distillation, equations 16 to 23.

    Args:
        logits: (n, K), before the temperature; n equal on all ranks.
        log_prior, center: (K,), the prior at this temperature and the mean logit, of a data set that the
            images are part of; None: those of the batch of all ranks.

    Raises:
        ValueError: see `teacher_targets`.
    """
    logits = logits.detach().double()
    log_prior = _log_prior(logits, temperature, group) if log_prior is None else log_prior.to(logits)
    center = batch_mean(logits, group) if center is None else center.to(logits)
    options: dict[str, Any] = {"temperature": temperature, "group": group}
    by_prior = teacher_targets(logits, normalization="prior", log_prior=log_prior, **options)
    by_center = teacher_targets(logits, normalization="center", center=center, **options)
    differences = (by_prior - by_center).abs()
    # 0 log 0 = 0; where the centred target underflows, its smallest number stands in.
    log_ratio = by_prior.clamp(min=1e-300).log() - by_center.clamp(min=1e-300).log()
    means = torch.stack([differences.sum(dim=1).mean() / 2, (by_prior * log_ratio).sum(dim=1).mean()])
    uniform = (by_prior - 1 / logits.shape[1]).abs().max()
    most = all_gather_rows(torch.stack([differences.max(), uniform])[None], group).amax(dim=0)
    total_variation, divergence = mean_over_ranks(means, group).tolist()
    left_out = log_prior - center / temperature
    return JensenGap(
        temperature,
        float(most[0]),
        total_variation,
        max(divergence, 0.0),  # rounding may leave -1e-17
        float(left_out.max() - left_out.min()),
        float(most[1]),
    )


def _log_prior(logits: Tensor, temperature: float, group: ProcessGroup | None) -> Tensor:
    return mean_over_ranks((logits / temperature).softmax(dim=1).mean(dim=0), group).clamp(min=1e-300).log()


def _normalised(log_prior: Tensor) -> Tensor:
    """Float64, and sums to 1: the floor of empty clusters adds up to a little more."""
    return log_prior.double().log_softmax(dim=0)
