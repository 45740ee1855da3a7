"""Prototypes made anew: which responsibilities count, when, and what the prior of the pass becomes."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from viewmill.methods.accumulator import Accumulator
from viewmill.methods.cluster_head import ClusterHead
from viewmill.methods.families.distillation import Distillation
from viewmill.methods.heads import Projector
from viewmill.methods.method import PassOutcome
from viewmill.methods.priors import PriorAccumulator
from viewmill.methods.prototypes import PrototypeAccumulator
from viewmill.methods.refresh import Refresh, shares_after

WIDTH, CLUSTERS, IMAGES, TEMPERATURE = 6, 5, 40, 0.3
VALUES = {"teacher_temperature": TEMPERATURE}


def head_of(**options: object) -> ClusterHead:
    torch.manual_seed(0)
    return ClusterHead(Projector(8, 8, WIDTH, layers=1), CLUSTERS, **options).eval()  # type: ignore[arg-type]


def images() -> Tensor:
    return torch.randn(IMAGES, 8, generator=torch.Generator().manual_seed(1))


def after_a_pass(
    method: Distillation, head: ClusterHead, said: Tensor | None = None
) -> tuple[PassOutcome, dict[str, Accumulator]]:
    """One pass over `images`, or what else is said, in two batches."""
    sums = method.pass_sums(head, 1, VALUES)
    with torch.no_grad():
        for part in (images() if said is None else said).split(23):
            rows = method.pass_rows(head, part)
            for name, accumulator in sums.items():
                accumulator.update(rows[name])
    return method.take_pass(head, sums), sums


def new_in_float64(head: ClusterHead, kind: str) -> np.ndarray:
    """Image by image, from the head's own logits."""
    with torch.no_grad():
        features = head.features(images())
        logits = (head.logits(features).double() / TEMPERATURE).tolist()
        rows = features.double().numpy()
    if head.feature_norm == "std":
        rows = rows - rows.mean(axis=1, keepdims=True)
    sums = np.zeros((CLUSTERS, WIDTH))
    for row, image in zip(rows, logits, strict=True):
        shares = [math.exp(logit) for logit in image]
        if kind == "kmeans":
            shares = [float(logit == max(image)) for logit in image]
        for cluster in range(CLUSTERS):
            sums[cluster] += shares[cluster] / sum(shares) * row / math.sqrt(float(row @ row))
    return sums / np.sqrt((sums**2).sum(axis=1, keepdims=True))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("em", {}),
        ("em", {"feature_norm": "std"}),
        ("em", {"centered": True, "learned": False}),
        ("kmeans", {}),
        ("kmeans", {"feature_norm": "none"}),
    ],
)
def test_new_directions_are_means_by_the_teachers_own_posteriors(kind: str, options: dict[str, bool]) -> None:
    head = head_of(**options)
    outcome, _ = after_a_pass(Distillation(head, refresh=Refresh(kind)), head)
    found = outcome.head["directions"]
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), new_in_float64(head, kind), atol=2e-5)


def test_no_prototypes_are_made_before_the_first_epoch_nor_between_periods() -> None:
    head = head_of()
    method = Distillation(head, refresh=Refresh("em", every_epochs=3))
    assert [epoch for epoch in range(8) if method.pass_sums(head, epoch, VALUES)] == [3, 6]


@pytest.mark.parametrize("scope", ["ema", "streaming", "dataset"])
def test_a_kept_prior_is_that_of_the_pass_which_made_the_prototypes(scope: str) -> None:
    head = head_of()
    method = Distillation(head, scope=scope, refresh=Refresh("em"))
    _, sums = after_a_pass(method, head)
    assert method.statistic is not None
    assert method.statistic.rows == IMAGES
    with torch.no_grad():
        expected = (head(images()).double() / TEMPERATURE).softmax(dim=1).mean(dim=0)
    torch.testing.assert_close(method.statistic.mean, expected)
    if scope == "streaming":
        assert method.statistic.summed == 0
    # In EM these are the mixture's own shares.
    prototypes = sums["prototypes"]
    assert isinstance(prototypes, PrototypeAccumulator)
    torch.testing.assert_close(prototypes.weights() / IMAGES, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("centered", [True, False])
def test_a_kept_centre_is_the_mean_logit_of_the_new_prototypes(centered: bool) -> None:
    head = head_of(centered=centered)
    method = Distillation(head, normalization="center", scope="dataset", refresh=Refresh("kmeans"))
    outcome, _ = after_a_pass(method, head)
    with torch.no_grad():
        head.directions.copy_(outcome.head["directions"])
        expected = head(images()).double().mean(dim=0)
    assert method.statistic is not None
    torch.testing.assert_close(method.statistic.mean, expected, atol=1e-6, rtol=1e-5)


def test_an_empty_cluster_gets_half_of_what_the_largest_had() -> None:
    head = head_of(learned=False)
    alike = images() + 9  # representations on one side: one cluster has them all
    method = Distillation(head, scope="dataset", refresh=Refresh("kmeans"))
    outcome, sums = after_a_pass(method, head, alike)
    prototypes, prior = sums["prototypes"], sums["statistic"]
    assert isinstance(prototypes, PrototypeAccumulator)
    assert isinstance(prior, PriorAccumulator)
    full = int(prototypes.weights().argmax())
    assert outcome.figures["empty_prototypes"] == CLUSTERS - 1
    # One has something to share, and shares with the first; the others stay where they were.
    ((free, other),) = prototypes.splits()
    assert other == full
    new, old = outcome.head["directions"], torch.nn.functional.normalize(head.directions, dim=1)
    assert torch.dot(new[free], new[full]) > 0.999
    stayed = [cluster for cluster in range(CLUSTERS) if cluster not in (free, full)]
    torch.testing.assert_close(new[stayed], old[stayed])
    before = prior.log_prior().exp()
    assert method.statistic is not None
    after = method.statistic.mean
    assert after[free] == after[full] == pytest.approx(float(before[free] + before[full]) / 2)
    assert torch.equal(after[stayed], before[stayed])


def test_shares_stay_where_no_cluster_is_empty() -> None:
    sums = PrototypeAccumulator(torch.eye(3))
    sums.update(torch.eye(3))
    shares = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    assert torch.equal(shares_after(sums, shares), shares)


def test_what_cannot_be_refreshed_is_refused() -> None:
    with pytest.raises(ValueError, match="em needs features of one length"):
        Refresh("em").sums(head_of(feature_norm="none"), TEMPERATURE)
    with pytest.raises(ValueError, match="a kind of kmeans, em and every_epochs >= 1, got kmean and 1"):
        Refresh("kmean")
