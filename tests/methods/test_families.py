"""The methods as the engine sees them: heads, targets by scope, and how a collapse shows."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from viewmill.methods.cluster_head import ClusterHead
from viewmill.methods.collapse import effective_rank, mean_cosine
from viewmill.methods.families.distillation import Distillation
from viewmill.methods.families.hydes import HyDeS
from viewmill.methods.families.imsvd import IMSVD
from viewmill.methods.families.registry import METHODS
from viewmill.methods.heads import Projector
from viewmill.methods.imsvd import imsvd_loss
from viewmill.methods.targets import teacher_targets

VALUES = {"student_temperature": 0.1, "teacher_temperature": 0.05}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def head(**options: Any) -> ClusterHead:
    torch.manual_seed(0)
    return ClusterHead(Projector(6, 8, 4, 2, norm="layer"), 10, **options)


def distillation(**options: Any) -> Distillation:
    return Distillation(head(), **options)


def figures(
    method: Any, z: Tensor, values: dict[str, float], targets: Tensor | None = None
) -> dict[str, float]:
    return {name: value.item() for name, value in method.diagnostics(z, values, targets).items()}


def test_imsvd_of_three_views_is_the_mean_over_their_pairs() -> None:
    method, z = IMSVD(Projector(6, 8, 12, 2), units=4), draw(3, 7, 12)
    values = {"weight": 0.7, "temperature": 1.3}
    found = method.loss(z, values)
    pairs = [imsvd_loss(z[a], z[b], units=4, **values) for a, b in ((0, 1), (0, 2), (1, 2))]
    torch.testing.assert_close(found.loss, sum(pair.loss for pair in pairs) / 3)
    torch.testing.assert_close(found.metrics["invariance"], sum(pair.invariance for pair in pairs) / 3)


def test_the_options_of_imsvd_reach_its_loss() -> None:
    options: dict[str, Any] = {
        "similarity": "cross_entropy",
        "entropy_weights": "equation",
        "joint": "self",
        "terms": ("invariance", "diagonal"),
    }
    z, values = draw(2, 7, 12), {"weight": 2.0, "temperature": 0.5}
    found = IMSVD(Projector(6, 8, 12, 2), units=4, **options).loss(z, values).loss
    assert found == imsvd_loss(z[0], z[1], units=4, **options, **values).loss
    assert found != imsvd_loss(z[0], z[1], units=4, **values).loss


def test_the_directions_of_clusters_are_unit_vectors() -> None:
    learned = head()
    with torch.no_grad():
        learned.directions.mul_(3)
    torch.testing.assert_close(learned.prototypes().norm(dim=1), torch.ones(10))
    assert learned.logits(100 * draw(5, 4)).abs().max() <= 1 + 1e-6


def test_centred_directions_sum_to_zero() -> None:
    torch.testing.assert_close(head(centered=True).prototypes().sum(dim=0), torch.zeros(4), atol=1e-6, rtol=0)


def test_fixed_directions_are_saved_and_never_trained() -> None:
    fixed = head(learned=False)
    assert "directions" in fixed.state_dict()
    assert "directions" not in dict(fixed.named_parameters())


@pytest.mark.parametrize(("norm", "length"), [("l2", 1.0), ("std", 2.0)])
def test_the_norm_of_features_sets_their_length(norm: str, length: float) -> None:
    chosen = head(feature_norm=norm)
    with torch.no_grad():
        chosen.directions.copy_(torch.eye(4).repeat(3, 1)[:10])
    torch.testing.assert_close(
        chosen.logits(draw(5, 4))[:, :4].norm(dim=1), torch.full((5,), length), rtol=1e-3, atol=0
    )


def test_logits_are_float32_whatever_the_weights() -> None:
    half = head().bfloat16()
    assert half(draw(5, 6).bfloat16()).dtype == torch.float32
    assert head().double()(draw(5, 6).double()).dtype == torch.float64


@pytest.mark.parametrize("normalization", ["prior", "center"])
@pytest.mark.parametrize("scope", [{"scope": "ema"}, {"scope": "streaming"}])
def test_every_scope_begins_with_the_statistics_of_the_batch(
    normalization: str, scope: dict[str, Any]
) -> None:
    said = draw(2, 7, 6)
    of_batch = distillation(normalization=normalization)
    other = distillation(normalization=normalization, **scope)
    expected = of_batch.targets(of_batch.head, said, VALUES)
    torch.testing.assert_close(other.targets(other.head, said, VALUES), expected, rtol=1e-4, atol=1e-6)


def test_the_targets_of_all_teacher_views_share_one_prior() -> None:
    method, said = distillation(), draw(2, 7, 6)
    logits = method.head(said.flatten(0, 1))
    expected = teacher_targets(logits, temperature=0.05, normalization="prior").view(2, 7, 10)
    assert torch.equal(method.targets(method.head, said, VALUES), expected)


def test_a_later_window_uses_the_prior_of_the_one_before() -> None:
    method = distillation(scope="streaming")
    said, later = draw(2, 7, 6), draw(2, 7, 6, seed=1)
    posteriors = (method.head(said.flatten(0, 1)) / 0.05).softmax(dim=1)
    method.targets(method.head, said, VALUES)
    method.before_epoch(1)
    found = method.targets(method.head, later, VALUES)
    logits = method.head(later.flatten(0, 1))
    log_prior = posteriors.double().mean(dim=0).clamp(min=1 / (14 * 10)).log()  # of 14 rows
    expected = teacher_targets(logits, temperature=0.05, normalization="prior", log_prior=log_prior)
    torch.testing.assert_close(found.flatten(0, 1), expected, rtol=1e-4, atol=1e-6)


def test_batchnorm_takes_mean_and_variance_out_of_the_teachers_features_alone() -> None:
    method, said = distillation(normalization="batchnorm"), 5 + 3 * draw(2, 40, 6)
    features = method.head.features(said.flatten(0, 1))
    unit = (features - features.mean(dim=0)) / (features.var(dim=0, unbiased=False) + 1e-5).sqrt()
    expected = (method.head.logits(unit) / 0.05).softmax(dim=1)
    found = method.targets(method.head, said, VALUES).flatten(0, 1)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(method.embed(said[0]), method.head(said[0]))


def test_targets_carry_no_gradient() -> None:
    assert not distillation().targets(head(), draw(2, 7, 6).requires_grad_(), VALUES).requires_grad


HYDES = HyDeS(Projector(6, 8, 16, 2))
HYDES_VALUES = {"kappa": 1.0, "alpha": 1.0, "beta": 1.0}
SOFT = IMSVD(Projector(6, 8, 64, 2), units=8)
SOFT_VALUES = {"weight": 1.0, "temperature": 1.0}


@pytest.mark.parametrize(
    ("z", "expected"),
    [
        (draw(2, 64, 16), set()),
        (draw(2, 64, 16) * 0.01 + 1, {"collapse"}),
        (draw(2, 64, 1) * draw(1, 1, 16, seed=1), {"dimensional_collapse"}),
    ],
)
def test_hydes_complains_of_embeddings_that_fall_together(z: Tensor, expected: set[str]) -> None:
    assert set(HYDES.alarms(figures(HYDES, z, HYDES_VALUES), HYDES_VALUES)) == expected


@pytest.mark.parametrize(
    ("z", "expected"),
    [
        (10 * draw(2, 64, 64), set()),
        (100 * draw(1, 1, 64).expand(2, 64, 64), {"collapse"}),
        (0.001 * draw(2, 64, 64), {"uniform"}),
    ],
)
def test_imsvd_complains_of_variables_that_are_all_the_same_or_tell_nothing(
    z: Tensor, expected: set[str]
) -> None:
    assert set(SOFT.alarms(figures(SOFT, z, SOFT_VALUES), SOFT_VALUES)) == expected


def test_the_figures_of_imsvd_are_those_of_one_hot_variables() -> None:
    z = 100 * torch.nn.functional.one_hot(
        torch.arange(64)[:, None] % 8 + torch.zeros(8).long(), 8
    ).float().flatten(1)
    found = figures(SOFT, z.expand(2, -1, -1), SOFT_VALUES)
    assert found["one_hot_90"] == found["one_hot_99"] == 1
    assert found["unit_usage"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("z", "expected"),
    [
        (draw(4, 64, 10), set()),
        (0.0001 * draw(4, 64, 10), {"uniform"}),
        (draw(4, 64, 10) + 5 * torch.eye(10)[0], {"collapse"}),
    ],
)
def test_distillation_complains_of_clusters_that_are_all_alike_or_one(z: Tensor, expected: set[str]) -> None:
    method = distillation()
    found = figures(method, z, VALUES, z[:2].softmax(dim=2))
    assert set(method.alarms(found, VALUES)) == expected
    assert found["prior_entropy"] <= math.log(10) + 1e-6


def test_most_clusters_without_images_are_complained_of() -> None:
    torch.manual_seed(0)
    method = Distillation(ClusterHead(Projector(6, 8, 4, 1), 100))
    z = torch.full((4, 64, 100), -1.0)
    z[..., :4] = draw(4, 64, 4)
    found = figures(method, z, VALUES, z[:2].softmax(dim=2))
    assert set(method.alarms(found, VALUES)) == {"empty_clusters"}


def test_effective_rank_and_mean_cosine_are_their_definitions() -> None:
    z = draw(20, 6).double()
    unit = z / z.norm(dim=1, keepdim=True)
    cosines = unit @ unit.T
    assert mean_cosine(z).item() == pytest.approx(((cosines.sum() - 20) / 380).item(), rel=1e-5)
    values = torch.linalg.svdvals(z - z.mean(dim=0)).square()
    shares = values / values.sum()
    assert effective_rank(z).item() == pytest.approx(
        float(torch.exp(-(shares * shares.log()).sum())), rel=1e-5
    )
    assert effective_rank(torch.ones(5, 3)).item() == pytest.approx(1)
    assert math.isnan(effective_rank(torch.full((5, 3), torch.nan)).item())


def test_no_method_but_the_yardstick_sees_labels() -> None:
    assert [name for name, method in METHODS.items() if method.needs_labels] == ["supervised"]
