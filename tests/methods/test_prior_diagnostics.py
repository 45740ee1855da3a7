"""Diagnostics of priors: entropies and empty clusters, two priors beside each other, and Jensen's gap."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from viewmill.methods.prior_diagnostics import (
    agreement,
    empty_clusters,
    floored_clusters,
    jensen_gap,
    prior_entropy,
    subsample_error,
)
from viewmill.methods.priors import PriorAccumulator

from tests.methods.formulas import targets_in_float64


def logits(n: int = 200, clusters: int = 8, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    spread = torch.linspace(-1, 1, clusters, dtype=torch.float64)
    return torch.randn(n, clusters, generator=generator, dtype=torch.float64) + spread


def prior_of(rows: Tensor) -> PriorAccumulator:
    accumulator = PriorAccumulator(rows.shape[1], temperature=0.5)
    accumulator.update(rows)
    return accumulator


def test_the_entropy_is_that_of_as_many_clusters_as_share_the_samples_equally() -> None:
    for used in (1, 3, 8):
        prior = torch.zeros(8)
        prior[:used] = 1 / used
        assert prior_entropy(prior.log()) == pytest.approx(math.log(used), abs=1e-12)


def test_a_cluster_with_less_than_a_sample_is_empty() -> None:
    prior = torch.tensor([0.5, 0.4, 0.09, 0.0099, 0.0001])
    assert empty_clusters(prior.log(), count=100).tolist() == [False, False, False, True, True]
    # Also the one that the accumulator keeps at its floor.
    rows = 0.1 * logits(n=10)
    rows[:, 3] = -1e6
    log_prior = prior_of(rows).log_prior()
    assert empty_clusters(log_prior, count=10).tolist()[3]
    assert floored_clusters(log_prior, count=10).nonzero().flatten().tolist() == [3]


def test_a_prior_agrees_with_itself_and_differs_from_another_by_the_samples_that_must_move() -> None:
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.3, 0.3, 0.4])
    assert agreement(p.log(), p.log(), torch.ones(3)) == (0, 0, 0)
    found = agreement(p.log(), q.log())
    assert found.total_variation == pytest.approx(0.2)
    assert found.largest_log_ratio == pytest.approx(math.log(2))
    assert found.mean_square_z is None


def test_priors_of_subsamples_differ_from_that_of_all_by_their_standard_errors() -> None:
    rows = logits(n=2000, clusters=4)
    whole = prior_of(rows).log_prior()
    for drawn in (100, 1000):
        found = []
        for seed in range(60):
            chosen = torch.randperm(2000, generator=torch.Generator().manual_seed(seed))[:drawn]
            part = prior_of(rows[chosen])
            log_prior = part.log_prior()
            error = subsample_error(part.standard_error(), drawn, 2000)
            found.append(agreement(log_prior, whole, error).mean_square_z)
        # 60 x 3 free numbers with variance 1: their mean square has a standard error of about 0.1.
        assert np.mean(found) == pytest.approx(1, abs=0.35)
    assert subsample_error(torch.ones(2), 2000, 2000).tolist() == [0, 0]


def test_streaming_over_views_agrees_with_a_pass_over_the_same_images() -> None:
    # The same sums in another order, as batches of a training epoch give them.
    rows = logits(n=2000)
    streaming = PriorAccumulator(8, 0.5)
    for batch in rows[torch.randperm(2000, generator=torch.Generator().manual_seed(1))].split(64):
        streaming.update(batch)
    found = agreement(streaming.log_prior(), prior_of(rows).log_prior(), streaming.standard_error())
    assert found.total_variation < 1e-14
    # Logits that drift on the way, as those of a moving teacher do, are found out.
    drifting = PriorAccumulator(8, 0.5)
    for number, batch in enumerate(rows.split(64)):
        drifting.update(batch + 0.05 * number * torch.eye(8)[0])
    moved = agreement(drifting.log_prior(), prior_of(rows).log_prior(), drifting.standard_error())
    assert moved.mean_square_z is not None
    assert moved.mean_square_z > 10


def test_jensens_gap_is_the_distance_of_the_two_targets() -> None:
    rows = logits().numpy()
    by_prior, by_center = (targets_in_float64(rows, 0.4, name) for name in ("prior", "center"))
    found = jensen_gap(logits(), 0.4)
    assert found.largest_difference == pytest.approx(np.abs(by_prior - by_center).max(), rel=1e-9)
    assert found.total_variation == pytest.approx(np.abs(by_prior - by_center).sum(axis=1).mean() / 2)
    assert found.divergence == pytest.approx((by_prior * np.log(by_prior / by_center)).sum(axis=1).mean())
    assert found.distance_to_uniform == pytest.approx(np.abs(by_prior - 1 / 8).max(), rel=1e-9)


def test_jensens_gap_of_a_data_set_is_told_by_some_of_its_images() -> None:
    rows = logits().numpy()
    t = np.exp(rows / 0.4)
    prior = (t / t.sum(axis=1, keepdims=True)).mean(axis=0)
    center, few = rows.mean(axis=0), rows[:5]
    by_prior, by_center = np.exp(few / 0.4) / prior, np.exp((few - center) / 0.4)
    by_prior, by_center = (q / q.sum(axis=1, keepdims=True) for q in (by_prior, by_center))
    told = {"log_prior": torch.from_numpy(prior).log(), "center": torch.from_numpy(center)}
    found = jensen_gap(logits()[:5], 0.4, **told)
    assert found.largest_difference == pytest.approx(np.abs(by_prior - by_center).max(), rel=1e-9)
    left_out = np.log(prior) - center / 0.4
    assert found.log_prior_gap == pytest.approx(left_out.max() - left_out.min(), rel=1e-9)
    whole = jensen_gap(logits(), 0.4, **told)
    assert list(whole) == pytest.approx(list(jensen_gap(logits(), 0.4)), rel=1e-9)


def test_jensens_gap_falls_with_the_square_of_the_temperature_and_the_targets_only_with_it() -> None:
    found = [jensen_gap(logits(), temperature) for temperature in (10.0, 100.0, 1000.0)]
    scaled = [gap.largest_difference * gap.temperature**2 for gap in found]
    assert max(scaled) < 1.3 * min(scaled)
    assert min(gap.distance_to_uniform * gap.temperature for gap in found) > 0.2
    # What centring leaves out of log P_k is about half the variance of the logits over tau^2.
    variance = logits().var(dim=0, unbiased=False) / 2
    assert found[-1].log_prior_gap * 1000**2 == pytest.approx(float(variance.max() - variance.min()), rel=0.5)


def test_there_is_no_gap_where_all_logits_vary_alike() -> None:
    # One cluster's logit against another's, by the same amounts up and down: log P_k and the mean agree.
    rows = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    found = jensen_gap(rows, 0.3)
    assert found.largest_difference == pytest.approx(0, abs=1e-12)
    assert found.log_prior_gap == pytest.approx(0, abs=1e-12)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match=r"two priors \(K,\), got \(3,\) and \(4,\)"):
        agreement(torch.zeros(3), torch.zeros(4))
    with pytest.raises(ValueError, match="need 1 to 10 samples, got 11"):
        subsample_error(torch.ones(2), 11, 10)
