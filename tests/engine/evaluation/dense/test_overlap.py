"""Intersection over union against torchmetrics, by hand, and its bootstrap error."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex
from viewmill.engine.evaluation.dense.overlap import (
    compare_overlaps,
    confusion,
    counts_of,
    frequent_class_floor,
    overlap_of,
    resampled_mean_iou,
)


def masks(seed: int, num_classes: int, pictures: int = 6) -> tuple[Tensor, Tensor]:
    """Predicted and true pixels; about a third agree, some are ignored (255)."""
    draws = np.random.default_rng(seed)
    truth = draws.integers(0, num_classes, (pictures, 30, 40))
    predicted = np.where(draws.random(truth.shape) < 0.3, truth, draws.integers(0, num_classes, truth.shape))
    truth[draws.random(truth.shape) < 0.1] = 255
    return torch.from_numpy(predicted), torch.from_numpy(truth)


def scored(predicted: Tensor, truth: Tensor, num_classes: int) -> Tensor:
    return counts_of(confusion(predicted, truth, num_classes, 255))


@pytest.mark.parametrize("num_classes", [2, 5, 21])
def test_figures_equal_those_of_torchmetrics_on_random_masks(num_classes: int) -> None:
    predicted, truth = masks(num_classes, num_classes)
    found = overlap_of(scored(predicted, truth, num_classes))
    settings = {"num_classes": num_classes, "ignore_index": 255}
    by_class = MulticlassJaccardIndex(average="none", **settings)(predicted, truth)
    assert found.iou == pytest.approx(by_class.tolist(), rel=1e-6)
    assert found.mean_iou == pytest.approx(
        MulticlassJaccardIndex(**settings)(predicted, truth).item(), rel=1e-6
    )
    micro, macro = (
        MulticlassAccuracy(average=kind, **settings)(predicted, truth) for kind in ("micro", "macro")
    )
    assert found.pixel_accuracy == pytest.approx(micro.item(), rel=1e-6)
    assert found.class_accuracy == pytest.approx(macro.item(), rel=1e-6)


def test_a_class_that_is_nowhere_is_left_out_of_the_mean_as_torchmetrics_does() -> None:
    truth = torch.tensor([0, 0, 1, 1, 255])
    predicted = torch.tensor([0, 1, 1, 1, 2])  # class 2 is predicted on an ignored pixel alone
    found = overlap_of(scored(predicted, truth, 4))
    assert found.iou == [1 / 2, 2 / 3, None, None]
    assert found.mean_iou == pytest.approx((1 / 2 + 2 / 3) / 2)
    theirs = MulticlassJaccardIndex(num_classes=4, ignore_index=255)(predicted, truth)
    assert found.mean_iou == pytest.approx(theirs.item())


def test_a_class_that_is_predicted_but_never_true_counts_as_0() -> None:
    found = overlap_of(scored(torch.tensor([0, 2]), torch.tensor([0, 0]), 3))
    assert found.iou == [1 / 2, None, 0.0]
    assert (found.mean_iou, found.class_accuracy) == (0.25, 0.5)


def test_counts_of_pictures_add_up_to_those_of_all_exactly() -> None:
    predicted, truth = masks(0, 7)
    whole = scored(predicted, truth, 7)
    parts = [scored(one, other, 7) for one, other in zip(predicted, truth, strict=True)]
    assert whole.dtype == torch.int64
    assert torch.equal(torch.stack(parts).sum(dim=0), whole)


def test_counts_stay_exact_beyond_what_float32_can_count() -> None:
    many = torch.tensor([[2**53, 1], [0, 2**53]])
    assert counts_of(many).tolist() == [[2**53, 2**53], [2**53, 2**53 + 1], [2**53 + 1, 2**53]]


def test_values_that_are_no_classes_and_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"predicted pixels lie in \[0, 3\], and the classes are 0 to 2"):
        confusion(torch.tensor([0, 3]), torch.tensor([0, 1]), 3, 255)
    with pytest.raises(ValueError, match=r"true pixels lie in \[-1, 1\]"):
        confusion(torch.tensor([0, 1]), torch.tensor([-1, 1]), 3, 255)
    with pytest.raises(ValueError, match="differ"):
        confusion(torch.zeros(2, 3), torch.zeros(3, 2), 3, 255)
    with pytest.raises(ValueError, match="no pixel has a class"):
        overlap_of(scored(torch.tensor([0]), torch.tensor([255]), 3))


def test_the_floor_is_the_most_frequent_training_class_everywhere() -> None:
    truth = torch.tensor([0, 1, 1, 2, 2, 2])
    expected = overlap_of(scored(torch.ones(6, dtype=torch.int64), truth, 4)).mean_iou
    assert frequent_class_floor([5, 90, 80, 0], [1, 2, 3, 0]) == pytest.approx(expected)


def test_the_bootstrap_error_is_that_of_a_plain_resampling() -> None:
    predicted, truth = masks(3, 4, pictures=12)
    counts = torch.stack([scored(one, other, 4) for one, other in zip(predicted, truth, strict=True)])
    draws = np.random.default_rng(1).integers(0, 12, (2000, 12))
    plain = [overlap_of(counts[torch.from_numpy(rows)].sum(dim=0)).mean_iou for rows in draws]
    found = resampled_mean_iou(counts)
    # Two bootstraps of 1,000 and 2,000 draws: a spread is known to 1 / sqrt(2 draws), so to 3 %.
    assert found.std() == pytest.approx(np.std(plain), rel=0.12)
    assert found.mean() == pytest.approx(np.mean(plain), abs=3 * np.std(plain) / 20)


def test_a_difference_is_paired_over_the_pictures() -> None:
    predicted, truth = masks(4, 3, pictures=8)
    counts = torch.stack([scored(one, other, 3) for one, other in zip(predicted, truth, strict=True)])
    same = compare_overlaps(counts, counts)
    assert same == {"difference": 0.0, "standard_error": 0.0, "z_score": None}
    perfect = torch.stack([scored(other.clamp(max=2), other, 3) for other in truth])
    better = compare_overlaps(perfect, counts)
    assert better["z_score"] is not None
    assert better["difference"] == pytest.approx(1 - overlap_of(counts.sum(dim=0)).mean_iou)
    assert better["z_score"] > 10
