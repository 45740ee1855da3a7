"""The teacher's targets: cluster posteriors, regularised so that no cluster takes everything."""

# n images on this rank, W ranks, N = W n, K clusters

import math

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from viewmill.methods.collectives import (
    all_gather_rows,
    all_sum,
    check_equal_shapes,
    world_size,
)

NORMALIZATIONS = ("prior", "center", "sinkhorn", "none")
SINKHORN_ITERATIONS = 3


@torch.no_grad()
def teacher_targets(
    logits: Tensor,
    *,
    temperature: float,
    normalization: str,
    log_prior: Tensor | None = None,
    center: Tensor | None = None,
    prior_iterations: int = 1,
    group: ProcessGroup | None = None,
) -> Tensor:
    """Target probabilities q of the images of this rank, from the teacher's logits; without gradient.

    With t = softmax(logits / temperature):
    prior     q_ik = (t_ik / P_k) / sum_j (t_ij / P_j), P_k = 1/N sum_i t_ik
    center    q = softmax((logits - center) / temperature)
    sinkhorn  rows of exp(logits / temperature) scaled until the clusters of the batch are equally large
    none      q = t
    Source: clustering distillation, equations 14 to 16 and 23; sinkhorn: Cuturi (2013), in logarithms.
    With `prior_iterations` above 1, P goes on towards the self-consistent Q = mean_i q_i of the regularised
    K-L divergence: P <- normalise(sqrt(P mean_i q_i)), damped because the plain step can oscillate.

    Args:
        logits: (n, K), before the temperature; n equal on all ranks. Half types go up to float32.
        temperature: > 0.
        normalization: one of the four. Where features are normalised by batch statistics before the clusters,
            it is "none".
        log_prior: (K,) log P, of the data set; None: P of the batch of all ranks. Only for "prior".
        center: (K,), before the temperature; None: the mean logits of the batch of all ranks. Only for
            "center".
        prior_iterations: >= 1; more than 1 take the batch of all ranks.
        group: ranks whose images are pooled; None is every rank.

    Returns:
        (n, K), rows that sum to 1.

    Raises:
        ValueError: on all ranks: shapes differ or do not fit, an option is unknown or out of range, or a
            prior or a centre is given to a normalization that has none.
    """
    check_equal_shapes(logits.shape, logits.device, group)
    _check(logits, temperature, normalization, log_prior, center, prior_iterations)
    scaled = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    if normalization == "none":
        return scaled.softmax(dim=1)
    if normalization == "center":
        center = batch_mean(logits, group) if center is None else center
        return (scaled - center.to(scaled.dtype) / temperature).softmax(dim=1)
    if normalization == "sinkhorn":
        return _sinkhorn(scaled, group)
    log_t = scaled.log_softmax(dim=1)
    if log_prior is None or prior_iterations > 1:
        log_prior = batch_log_prior(log_t, group) if log_prior is None else log_prior.to(log_t.dtype)
        for _ in range(prior_iterations - 1):
            log_mean = batch_log_prior((log_t - log_prior).log_softmax(dim=1), group)
            log_prior = ((log_prior + log_mean) / 2).log_softmax(dim=0)
    return (log_t - log_prior.to(log_t.dtype)).softmax(dim=1)


def batch_log_prior(log_t: Tensor, group: ProcessGroup | None = None) -> Tensor:
    """log P_k, P_k = 1/N sum_i t_ik over the rows of all ranks, at least 1/(N K): (n, K) -> (K,)."""
    log_sums = all_gather_rows(log_t.logsumexp(dim=0, keepdim=True), group).logsumexp(dim=0)
    count = len(log_t) * world_size(group)
    return (log_sums - math.log(count)).clamp_(min=-math.log(count * log_t.shape[1]))


def batch_mean(logits: Tensor, group: ProcessGroup | None = None) -> Tensor:
    """Mean logits over the rows of all ranks, at least in float32: (n, K) -> (K,)."""
    total = logits.to(torch.promote_types(logits.dtype, torch.float32)).sum(dim=0)
    return all_sum(total, group) / (len(logits) * world_size(group))


def _sinkhorn(scaled: Tensor, group: ProcessGroup | None) -> Tensor:
    """Alternates equal cluster sizes and rows that sum to 1; ends with the rows."""
    log_q = scaled
    for _ in range(SINKHORN_ITERATIONS):
        log_q = log_q - all_gather_rows(log_q.logsumexp(dim=0, keepdim=True), group).logsumexp(dim=0)
        log_q = log_q.log_softmax(dim=1)
    return log_q.exp()


def _check(
    logits: Tensor,
    temperature: float,
    normalization: str,
    log_prior: Tensor | None,
    center: Tensor | None,
    prior_iterations: int,
) -> None:
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization '{normalization}' is not one of {', '.join(NORMALIZATIONS)}")
    if logits.ndim != 2 or not logits.numel():
        raise ValueError(f"logits must be (n >= 1 images, K clusters), got {tuple(logits.shape)}")
    if not temperature > 0 or prior_iterations < 1:
        raise ValueError(
            f"need temperature > 0 and prior_iterations >= 1, got {temperature} and {prior_iterations}"
        )
    for name, given, owner in (("log_prior", log_prior, "prior"), ("center", center, "center")):
        if given is None:
            continue
        if normalization != owner:
            raise ValueError(f"{name} is for normalization '{owner}', not for '{normalization}'")
        if given.shape != logits.shape[1:]:
            raise ValueError(f"{name} must be ({logits.shape[1]},), got {tuple(given.shape)}")
