"""The linear probe against scikit-learn's optimum, and how it chooses its strength."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from viewmill.engine.evaluation import linear_probe
from viewmill.engine.evaluation.linear_probe import STRENGTHS, fit_linear_probe, fit_path, hold_out

CLASSES = 4


def blobs(count: int, noise: float, width: int = 10, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features of very different scales around a centre for each class, and the classes."""
    centres = torch.randn(CLASSES, width, generator=torch.Generator().manual_seed(7))
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    features = centres[labels] + noise * torch.randn(count, width, generator=draw)
    return 3 + features * torch.logspace(-2, 2, width), labels


def objective(logits: np.ndarray, labels: np.ndarray, weight: np.ndarray, strength: float) -> float:
    """Mean cross-entropy + strength / 2 |weight|^2, in float64."""
    largest = logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(logits - largest).sum(axis=1)) + largest[:, 0]
    cross_entropy = (log_sum - logits[np.arange(len(labels)), labels]).mean()
    return float(cross_entropy + strength / 2 * (weight**2).sum())


@pytest.mark.parametrize("strength", [1.0, 0.01, 1e-4])
def test_the_optimum_is_scikit_learns(strength: float) -> None:
    features, labels = blobs(200, noise=1.5)
    probe = fit_path(features, labels, CLASSES, (1.0, 0.03, strength))[strength]
    scaler = StandardScaler().fit(features.double().numpy())
    theirs = LogisticRegression(C=1 / (strength * len(labels)), tol=1e-10, max_iter=5000)
    standardised = scaler.transform(features.double().numpy())
    theirs.fit(standardised, labels.numpy())
    np.testing.assert_allclose(
        probe.logits(features).softmax(dim=1).numpy(), theirs.predict_proba(standardised), atol=2e-3
    )
    ours = objective(
        probe.logits(features).double().numpy(), labels.numpy(), probe.weight.double().numpy(), strength
    )
    best = objective(theirs.decision_function(standardised), labels.numpy(), theirs.coef_, strength)
    assert ours == pytest.approx(best, rel=1e-5)  # float32 sums


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = blobs(200, noise=1.5)
    whole = fit_path(features, labels, CLASSES, (0.01,))[0.01]
    monkeypatch.setattr(linear_probe, "ROW_BLOCK", 33)
    blocks = fit_path(features, labels, CLASSES, (0.01,))[0.01]
    # Both stop near the same optimum.
    torch.testing.assert_close(blocks.logits(features), whole.logits(features), atol=2e-3, rtol=1e-3)


def test_the_scale_and_offset_of_features_do_not_matter() -> None:
    features, labels = blobs(100, noise=1.0)
    plain = fit_path(features, labels, CLASSES, (0.01,))[0.01]
    moved = fit_path(50 * features - 7, labels, CLASSES, (0.01,))[0.01]
    torch.testing.assert_close(moved.logits(50 * features - 7), plain.logits(features), atol=2e-3, rtol=1e-3)


def test_a_feature_that_never_changes_in_train_has_no_say() -> None:
    features, labels = blobs(100, noise=1.0)
    dead = torch.cat([features, torch.full((100, 1), 0.3)], dim=1)
    probe = fit_path(dead, labels, CLASSES, (0.01,))[0.01]
    alive = dead.clone()
    alive[:, -1] = 1000.0
    assert probe.logits(dead).isfinite().all()
    torch.testing.assert_close(probe.logits(alive), probe.logits(dead))


def test_every_fifth_image_of_each_class_is_held_out() -> None:
    labels = torch.tensor([0] * 10 + [1, 2] * 5 + [3] * 4)
    held_out = hold_out(labels)
    assert held_out.nonzero().flatten().tolist() == [4, 9, 18, 19]


def test_the_strength_is_the_best_on_the_held_out_images() -> None:
    # More features than images and much noise: weak regularisation fits the noise.
    features, labels = blobs(120, noise=4.0, width=200)
    probe, selection = fit_linear_probe(features, labels, CLASSES)
    assert selection.held_out == 24
    assert tuple(selection.accuracy) == tuple(sorted(STRENGTHS, reverse=True))
    held_out = hold_out(labels)
    path = fit_path(features[~held_out], labels[~held_out], CLASSES, STRENGTHS)
    for strength, fitted in path.items():
        hits = fitted.logits(features[held_out]).argmax(dim=1) == labels[held_out]
        assert selection.accuracy[strength] == pytest.approx(hits.double().mean().item())
    assert selection.accuracy[selection.strength] == max(selection.accuracy.values())
    whole = fit_path(features, labels, CLASSES, (selection.strength,))[selection.strength]
    torch.testing.assert_close(probe.logits(features), whole.logits(features), atol=5e-3, rtol=1e-2)


def test_of_equally_good_strengths_the_strongest_is_taken() -> None:
    features, labels = blobs(80, noise=0.01)
    _, selection = fit_linear_probe(features, labels, CLASSES)
    assert set(selection.accuracy.values()) == {1.0}
    assert selection.strength == 1.0


def test_unseen_images_are_told_apart() -> None:
    probe, _ = fit_linear_probe(*blobs(200, noise=0.5), CLASSES)
    features, labels = blobs(100, noise=0.5, seed=1)
    assert (probe.logits(features).argmax(dim=1) == labels).double().mean() > 0.95


def test_too_few_images_to_hold_any_out_are_refused() -> None:
    features, labels = blobs(4 * CLASSES, noise=0.5)
    with pytest.raises(ValueError, match=r"every 5th training image.*no class has 5 of the 16"):
        fit_linear_probe(features, labels, CLASSES)
