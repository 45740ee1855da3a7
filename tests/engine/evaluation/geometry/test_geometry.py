"""Geometry on features whose figures are known, against loops in float64, and what must not change it."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor
from viewmill.engine.evaluation.geometry.geometry import Measures, geometry_of
from viewmill.engine.evaluation.geometry.pair_sums import PairSums, add_own_blocks, own_blocks
from viewmill.engine.evaluation.geometry.row_sums import RowSums, directions
from viewmill.engine.world import World

from tests.engine.evaluation.test_knn import LargestTensor

ALONE = World(0, 1, 0, torch.device("cpu"))
CPU = torch.device("cpu")
# They look at single features, so a rotation changes them.
OF_AXES = {"feature_correlation", "hoyer_sparsity", "zero_fraction"}
OF_ALL_PAIRS = {"anisotropy", "uniformity", "angle_mean_deg", "angle_std_deg"}
OF_POSITIVES = {"alignment", "positive_angle_mean_deg", "positive_angle_std_deg", "sensitivity"}


def cloud(count: int = 61, dim: int = 7, classes: int = 5) -> tuple[Tensor, Tensor]:
    """Features around class centres, some of them zero, with one image of class 3 and none of class 4."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(classes - 2, (count,), generator=draw)
    labels[11] = classes - 2
    centres = torch.randn(classes, dim, generator=draw, dtype=torch.float64)
    features = centres[labels] + torch.randn(count, dim, generator=draw, dtype=torch.float64) + 0.5
    return features * (torch.rand(count, dim, generator=draw) > 0.1), labels


def figures(features: Tensor, labels: Tensor, classes: int = 5) -> Measures:
    return geometry_of(features, labels, classes, ALONE)


def rank_of(values: np.ndarray, epsilon: float = 0.0) -> float:
    shares = [value / sum(values) + epsilon for value in values]
    return math.exp(-sum(share * math.log(share) for share in shares if share > 0))


def by_loops(features: Tensor, labels: Tensor) -> dict[str, float]:
    """Every figure pair by pair, with numpy's singular values; shares no line with what is tested."""
    rows, classes = features.double().numpy(), labels.tolist()
    unit = np.array([row / math.sqrt(float(row @ row)) for row in rows])
    count, dim = unit.shape
    angles: dict[str, list[float]] = {"angle": [], "positive_angle": [], "negative_angle": []}
    cosines, squared, kernel = [], [], []
    for i, j in combinations(range(count), 2):
        cosine = float(unit[i] @ unit[j])
        distance = float(((unit[i] - unit[j]) ** 2).sum())
        cosines.append(cosine)
        kernel.append(math.exp(-2 * distance))
        same = classes[i] == classes[j]
        squared += [distance] if same else []
        for name in ("angle", "positive_angle" if same else "negative_angle"):
            angles[name].append(math.degrees(math.acos(max(-1.0, min(1.0, cosine)))))
    correlation = np.corrcoef(unit.T)
    centroids = np.array([unit[[c == one for c in classes]].mean(axis=0) for one in sorted(set(classes))])
    within, between = np.array(angles["positive_angle"]), np.array(angles["negative_angle"])
    hoyer = [
        (math.sqrt(dim) - abs(row).sum() / math.sqrt(float(row @ row))) / (math.sqrt(dim) - 1) for row in rows
    ]
    return {
        "anisotropy": float(np.mean(cosines)),
        "feature_correlation": float(
            np.mean([abs(correlation[i, j]) for i, j in combinations(range(dim), 2)])
        ),
        "center_norm": float(np.linalg.norm(unit.mean(axis=0))),
        "centroid_rank": rank_of(np.linalg.svd(centroids - centroids.mean(axis=0), compute_uv=False)),
        "embedding_rank": rank_of(np.linalg.svd(unit - unit.mean(axis=0), compute_uv=False)),
        "rankme": rank_of(np.linalg.svd(rows, compute_uv=False), 1e-7),
        "sensitivity": float((between.mean() - within.mean()) / np.sqrt((between.var() + within.var()) / 2)),
        **{f"{name}_mean_deg": float(np.mean(some)) for name, some in angles.items()},
        **{f"{name}_std_deg": float(np.std(some)) for name, some in angles.items()},
        "hoyer_sparsity": float(np.mean(hoyer)),
        "zero_fraction": float((rows == 0).mean()),
        "alignment": float(np.mean(squared)),
        "uniformity": math.log(np.mean(kernel)),
    }


@pytest.mark.parametrize(("count", "dim"), [(61, 7), (9, 30)])
def test_every_figure_is_that_of_the_loops(count: int, dim: int) -> None:
    features, labels = (
        cloud(count, dim) if count > 11 else (cloud(61, dim)[0][:count], cloud(61, dim)[1][:count])
    )
    expected = by_loops(features, labels)
    found = figures(features, labels)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-9), name


def test_the_corners_of_a_cross_polytope_have_figures_in_closed_form() -> None:
    # +e_k and -e_k are of class k: D opposite pairs, all others at right angles.
    dim = 6
    features = torch.cat([torch.eye(dim), -3 * torch.eye(dim)])
    found = figures(features, torch.arange(dim).repeat(2), dim)
    count, pairs = 2 * dim, dim * (2 * dim - 1)
    share = 1 / dim + 1e-7
    expected = {
        "anisotropy": -1 / (count - 1),
        "feature_correlation": 0.0,
        "center_norm": 0.0,
        "centroid_rank": 1.0,  # every centroid is the origin
        "embedding_rank": dim,
        "rankme": math.exp(-dim * share * math.log(share)),
        "sensitivity": None,  # neither angle varies
        "angle_mean_deg": 90 + 90 * dim / pairs,
        "angle_std_deg": 90 * math.sqrt(dim / pairs * (1 - dim / pairs)),
        "positive_angle_mean_deg": 180.0,
        "positive_angle_std_deg": 0.0,
        "negative_angle_mean_deg": 90.0,
        "negative_angle_std_deg": 0.0,
        "hoyer_sparsity": 1.0,
        "zero_fraction": 1 - 1 / dim,
        "alignment": 4.0,
        "uniformity": math.log((dim * math.exp(-8) + (pairs - dim) * math.exp(-4)) / pairs),
    }
    assert found == {
        name: value if value is None else pytest.approx(value, abs=1e-6) for name, value in expected.items()
    }


def test_two_pairs_on_a_circle_have_figures_in_closed_form() -> None:
    # Class 0 at -10 and 10 degrees, class 1 at 80 and 100: 20 within; 70, 90, 90 and 110 between.
    at = torch.tensor([-10.0, 10.0, 80.0, 100.0], dtype=torch.float64).deg2rad()
    found = figures(torch.stack([at.cos(), at.sin()], dim=1), torch.tensor([0, 0, 1, 1]), 2)
    cosines = [math.cos(math.radians(angle)) for angle in (20, 20, 70, 90, 90, 110)]
    expected = {
        "anisotropy": sum(cosines) / 6,
        "center_norm": math.cos(math.radians(10)) / math.sqrt(2),
        "centroid_rank": 1.0,  # two centroids lie on a line
        "positive_angle_mean_deg": 20.0,
        "positive_angle_std_deg": 0.0,
        "negative_angle_mean_deg": 90.0,
        "negative_angle_std_deg": math.sqrt(200),
        "sensitivity": 70 / math.sqrt(200 / 2),
        "angle_mean_deg": 400 / 6,
        "alignment": 2 - 2 * cosines[0],
        "uniformity": math.log(sum(math.exp(4 * cosine - 4) for cosine in cosines) / 6),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_a_point_has_neither_spread_nor_rank() -> None:
    found = figures(torch.full((8, 4), 0.3), torch.arange(8) % 2, 2)
    expected = {
        "anisotropy": 1,
        "center_norm": 1,
        "embedding_rank": 1,
        "centroid_rank": 1,
        "uniformity": 0,
        "alignment": 0,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert found["feature_correlation"] is None  # nothing varies
    assert found["sensitivity"] is None
    # The cosine of equal vectors is 1 up to its last bit, whose angle is 1e-8.
    assert found["angle_mean_deg"] == pytest.approx(0, abs=1e-5)


def test_equal_singular_values_give_the_whole_rank_and_a_repeated_feature_gives_none() -> None:
    basis = torch.linalg.qr(
        torch.randn(40, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    )[0]
    rows = RowSums(12, 1)
    rows.update(torch.cat([basis, basis], dim=1), torch.zeros(40, dtype=torch.int64))
    # The doubled features add no singular value: RankMe is 6, and its 1e-7 for each of the other six.
    share, rest = 1 / 6 + 1e-7, 1e-7
    expected = math.exp(-6 * share * math.log(share) - 6 * rest * math.log(rest))
    assert rows.rankme() == pytest.approx(expected, rel=1e-9)


def test_a_rotation_changes_only_what_looks_at_single_features() -> None:
    features, labels = cloud()
    turn = torch.linalg.qr(
        torch.randn(7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    )[0]
    before, after = figures(features, labels), figures(features @ turn, labels)
    for name, value in before.items():
        if name in OF_AXES:
            assert after[name] != pytest.approx(value, rel=1e-3), name
        else:
            assert after[name] == pytest.approx(value, rel=1e-9), name


def test_lengths_change_only_rankme_and_a_common_factor_nothing() -> None:
    features, labels = cloud()
    before = figures(features, labels)
    assert figures(features * 3.7, labels) == pytest.approx(before, rel=1e-9)
    lengths = torch.linspace(0.1, 9, len(features), dtype=torch.float64)[:, None]
    after = figures(features * lengths, labels)
    assert after.pop("rankme") != pytest.approx(before.pop("rankme"), rel=1e-3)
    assert after == pytest.approx(before, rel=1e-9)


def test_the_order_of_images_and_the_names_of_classes_change_nothing() -> None:
    features, labels = cloud()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(3))
    assert figures(features[order], 4 - labels[order]) == pytest.approx(figures(features, labels), rel=1e-9)


def test_every_image_twice_adds_pairs_of_itself_and_changes_nothing_else() -> None:
    features, labels = cloud()
    count = len(labels)
    once, twice = figures(features, labels), figures(features.repeat(2, 1), labels.repeat(2))
    for name, value in once.items():
        if name not in OF_ALL_PAIRS | OF_POSITIVES and not name.startswith("negative"):
            assert twice[name] == pytest.approx(value, rel=1e-7), name
    # Of the 2N (2N - 1) / 2 pairs N are an image and itself, each other one is there four times.
    pairs, itself = count * (2 * count - 1), count
    for name, own, back in (
        ("anisotropy", 1.0, float),
        ("angle_mean_deg", 0.0, float),
        ("uniformity", 1.0, math.exp),
    ):
        then = back(once[name] or 0)
        expected = (4 * then * count * (count - 1) / 2 + own * itself) / pairs
        assert back(twice[name] or 0) == pytest.approx(expected, rel=1e-7), name


@pytest.mark.parametrize("block", [1, 7, 20, 100])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_any_blocks_and_ranks_add_up_to_the_same(block: int, world_size: int) -> None:
    features, labels = cloud()
    expected = by_loops(features, labels)
    merged = PairSums()
    for rank in range(world_size):
        own = PairSums()
        add_own_blocks(own, directions(features), labels, rank, world_size, CPU, block)
        merged.add_state(own.state_dict())
    assert merged.sensitivity() == pytest.approx(expected["sensitivity"], rel=1e-9)
    assert merged.uniformity() == pytest.approx(expected["uniformity"], rel=1e-9)
    assert math.degrees(merged.all_angles().std) == pytest.approx(expected["angle_std_deg"], rel=1e-9)


def test_parts_of_the_images_add_up_to_the_same() -> None:
    features, labels = cloud()
    merged = RowSums(7, 5)
    for some in (slice(0, 40), slice(40, 40), slice(40, 61)):
        part = RowSums(7, 5)
        part.update(features[some], labels[some])
        merged.add_state(part.state_dict())
    expected = by_loops(features, labels)
    assert merged.count == 61
    assert merged.embedding_rank() == pytest.approx(expected["embedding_rank"], rel=1e-9)
    assert merged.centroid_rank() == pytest.approx(expected["centroid_rank"], rel=1e-9)


def test_every_block_of_pairs_belongs_to_one_rank() -> None:
    for count, world_size in ((1, 1), (10, 4), (35, 2)):
        dealt = [pair for rank in range(world_size) for pair in own_blocks(count, 7, rank, world_size)]
        starts = range(0, count, 7)
        assert sorted(dealt) == [(a, b) for a in starts for b in starts if a <= b]


def test_memory_is_that_of_a_block() -> None:
    unit = directions(torch.randn(900, 4, generator=torch.Generator().manual_seed(4)))
    with LargestTensor() as largest:
        add_own_blocks(PairSums(), unit, torch.zeros(900, dtype=torch.int64), 0, 1, CPU, block=64)
    # All the cosines would be 810,000.
    assert largest.numel <= 64 * 64


def test_without_two_images_of_a_class_there_are_no_positives() -> None:
    found = figures(torch.randn(5, 3, generator=torch.Generator().manual_seed(5)), torch.arange(5))
    assert [found[name] for name in sorted(OF_POSITIVES)] == [None] * 4
    assert found["negative_angle_mean_deg"] == pytest.approx(found["angle_mean_deg"])
    alike = figures(
        torch.randn(5, 3, generator=torch.Generator().manual_seed(5)), torch.zeros(5, dtype=torch.int64)
    )
    assert (alike["negative_angle_mean_deg"], alike["sensitivity"]) == (None, None)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda features, labels: (features, labels - 1),
            r"outside 0 \.\. 4; every image needs one of the 5",
        ),
        (lambda features, labels: (features, labels + 4), r"outside 0 \.\. 4"),
        (lambda features, labels: (features, labels[:-1]), "61 representations with labels"),
        (lambda features, labels: (features * torch.nan, labels), "61 of 61 representations are not finite"),
        (lambda features, labels: (features * (labels != 0)[:, None], labels), "zero in every feature"),
        (lambda features, labels: (features[:1], labels[:1]), "two images at least"),
        (lambda features, labels: (features[:, :1] ** 2 + 1, labels), "two features"),
    ],
)
def test_what_has_no_geometry_is_refused(spoil, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        figures(*spoil(*cloud()))
