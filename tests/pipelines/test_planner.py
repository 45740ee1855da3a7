"""The view plan: keyed draws, the same for any batch and machine, distributed as torchvision's parameters."""

import hashlib
import math
import time
from dataclasses import fields

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import v2
from viewmill.pipelines.plans.planner import exp
from viewmill.pipelines.views import (
    PLAN_VERSION,
    PRESETS,
    ViewDistribution,
    ViewPlan,
    ViewPlanner,
    ViewSpec,
    preset,
)

# Every draw here is keyed by a fixed seed: a p-value is a fact of this planner, the same in every run.
LEAST_P_VALUE = 1e-3
DRAWS = 3000
PARAMETERS = [field.name for field in fields(ViewPlan)]


def draw(name: str, num_images: int = DRAWS, *, width: int = 500, height: int = 375) -> ViewPlan:
    ids, sizes = np.arange(num_images), np.tile([width, height], (num_images, 1))
    return ViewPlanner(preset(name), 0).draw(0, ids, sizes)


def boxes(plan: ViewPlan) -> np.ndarray:
    """Top, left, height, width: (n, V, 4)."""
    return np.stack([plan.top, plan.left, plan.height, plan.width], axis=-1)


def assert_equal_plans(found: ViewPlan, expected: ViewPlan) -> None:
    for name in PARAMETERS:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


def mixed_sizes(num_images: int) -> np.ndarray:
    return np.random.default_rng(1).integers(1, 900, (num_images, 2))


@pytest.mark.parametrize("name", PRESETS)
def test_a_permutation_of_the_ids_permutes_the_rows(name: str) -> None:
    ids, sizes = np.arange(50) * 7, mixed_sizes(50)
    shuffled = np.random.default_rng(0).permutation(50)
    planner = ViewPlanner(preset(name), 3)
    assert_equal_plans(
        planner.draw(2, ids[shuffled], sizes[shuffled]), planner.draw(2, ids, sizes).select(shuffled)
    )


def test_a_batch_draws_what_each_image_draws_alone() -> None:
    ids, sizes = np.array([4, 2**40, 4, 0]), mixed_sizes(4)
    planner = ViewPlanner(preset("hydes"), 3)
    whole = planner.draw(1, ids, sizes)
    for row in range(4):
        assert_equal_plans(planner.draw(1, ids[[row]], sizes[[row]]), whole.select([row]))


def test_an_empty_batch_has_an_empty_plan() -> None:
    plan = ViewPlanner(preset("hydes"), 0).draw(0, [], np.empty((0, 2)))
    assert len(plan) == 0
    assert plan.num_views == 8


def test_fewer_views_of_the_same_kind_do_not_change_the_first_ones() -> None:
    ids, sizes = np.arange(20), mixed_sizes(20)
    dino, hydes = (ViewPlanner(preset(name), 0).draw(0, ids, sizes) for name in ("dino", "hydes"))
    for name in PARAMETERS:
        np.testing.assert_array_equal(getattr(dino, name)[:, :8], getattr(hydes, name))


@pytest.mark.parametrize("other", [(0, 0), (1, 0), (0, 2), (2**32, 1)])
def test_other_seeds_and_epochs_draw_other_views(other: tuple[int, int]) -> None:
    ids, sizes = np.arange(200), np.tile([500, 375], (200, 1))
    first = ViewPlanner(preset("hydes"), 0).draw(1, ids, sizes)
    second = ViewPlanner(preset("hydes"), other[0]).draw(other[1], ids, sizes)
    same = (first.left == second.left) & (first.width == second.width) & (first.top == second.top)
    assert same.mean() < 0.01


def test_views_of_one_image_are_drawn_apart() -> None:
    plan = draw("hydes")
    correlations = np.corrcoef(
        np.concatenate([plan.width[:, 2:], plan.sigma[:, 2:], plan.flip[:, 2:]], axis=1).T
    )
    np.fill_diagonal(correlations, 0)
    assert np.abs(correlations).max() < 0.08  # 1 / sqrt(3000) is 0.018


@pytest.mark.parametrize("name", PRESETS)
def test_every_box_lies_inside_its_image(name: str) -> None:
    sizes = np.concatenate([mixed_sizes(500), [[1, 1], [1, 900], [900, 1], [2, 3], [7000, 9000]]])
    plan = ViewPlanner(preset(name), 0).draw(0, np.arange(len(sizes)), sizes)
    assert min(plan.top.min(), plan.left.min()) >= 0
    assert min(plan.height.min(), plan.width.min()) >= 1
    assert (plan.left + plan.width <= sizes[:, :1]).all()
    assert (plan.top + plan.height <= sizes[:, 1:]).all()


def torchvision_boxes(spec: ViewSpec, width: int, height: int) -> np.ndarray:
    """Top, left, height, width of torchvision's random resized crop, (DRAWS, 4)."""
    torch.manual_seed(0)
    view = spec.views[0]
    crop = v2.RandomResizedCrop(view.size, scale=view.scale, ratio=view.ratio)
    image = torch.empty(3, height, width, dtype=torch.uint8)
    boxes = [crop.make_params([image]) for _ in range(DRAWS)]
    return np.array([[box[side] for side in ("top", "left", "height", "width")] for box in boxes])


@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 500), (640, 64), (224, 224)])
def test_crops_are_distributed_as_torchvision_draws_them(width: int, height: int) -> None:
    expected_top, expected_left, expected_height, expected_width = torchvision_boxes(
        preset("simclr"), width, height
    ).T
    plan = draw("simclr", width=width, height=height)
    pairs = {
        "area": (plan.height * plan.width, expected_height * expected_width),
        "aspect": (plan.width / plan.height, expected_width / expected_height),
        "top": (plan.top, expected_top),
        "left": (plan.left, expected_left),
        "bottom": (plan.top + plan.height, expected_top + expected_height),
        "right": (plan.left + plan.width, expected_left + expected_width),
    }
    for name, (found, expected) in pairs.items():
        assert stats.ks_2samp(found[:, 0], expected).pvalue > LEAST_P_VALUE, name


@pytest.mark.parametrize(
    ("width", "height", "box"), [(1000, 10, (0, 493, 10, 13)), (10, 1000, (493, 0, 13, 10))]
)
def test_where_no_try_fits_the_crop_is_the_centre(width: int, height: int, box: tuple[int, ...]) -> None:
    # The whole area of a strip, in an aspect of at most 4/3, is never inside it.
    spec = ViewSpec("whole", (ViewDistribution(size=32, scale=(1.0, 1.0)),))
    plan = ViewPlanner(spec, 0).draw(0, np.arange(50), np.tile([width, height], (50, 1)))
    assert (boxes(plan) == box).all()


def test_colours_are_distributed_as_torchvision_draws_them() -> None:
    torch.manual_seed(0)
    jitter = v2.ColorJitter(0.4, 0.4, 0.2, 0.1)
    drawn = [jitter.make_params([]) for _ in range(DRAWS)]
    plan = draw("hydes")
    moved = plan.brightness[:, 0] != 1
    for name, scale in (("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue", 360)):
        expected = np.array([params[f"{name}_factor"] for params in drawn]) * scale
        found = getattr(plan, name)[:, 0]
        coloured = moved & (plan.saturation[:, 0] > 0)
        assert stats.ks_2samp(found[coloured], expected).pvalue > LEAST_P_VALUE, name


def test_blur_is_distributed_as_torchvision_draws_it() -> None:
    torch.manual_seed(0)
    blur = v2.GaussianBlur(23, sigma=(0.1, 2.0))
    expected = [blur.make_params([])["sigma"][0] for _ in range(DRAWS)]
    sigma = draw("hydes").sigma
    assert stats.ks_2samp(sigma[:, 0], expected).pvalue > LEAST_P_VALUE
    local = sigma[:, 2:]
    assert stats.ks_2samp(local[local > 0], expected).pvalue > LEAST_P_VALUE


def assert_probability(drawn: np.ndarray, probability: float) -> None:
    assert stats.binomtest(int(drawn.sum()), drawn.size, probability).pvalue > LEAST_P_VALUE


@pytest.mark.parametrize("name", ["hydes", "imsvd", "dino", "simclr"])
def test_choices_fall_as_often_as_the_spec_says(name: str) -> None:
    plan = draw(name)
    for column, view in enumerate(preset(name).views):
        assert_probability(plan.flip[:, column], view.flip)
        assert_probability(plan.hue[:, column] != 0, view.jitter)
        assert_probability(plan.saturation[:, column] == 0, view.grayscale)
        assert_probability(plan.sigma[:, column] > 0, view.blur)
        assert_probability(plan.solarize[:, column], view.solarize)


def test_choices_are_independent_of_each_other() -> None:
    plan = draw("hydes")
    choices = [plan.flip, plan.hue != 0, plan.saturation == 0, plan.sigma > 0, plan.solarize]
    second_view = np.stack([choice[:, 1] for choice in choices])
    correlations = np.corrcoef(second_view)
    np.fill_diagonal(correlations, 0)
    assert np.abs(correlations).max() < 0.07  # 1 / sqrt(3000) is 0.018


def test_a_view_without_jitter_keeps_its_colours() -> None:
    plan = draw("hydes")
    still = plan.hue == 0
    assert (plan.brightness[still] == 1).all()
    assert (plan.contrast[still] == 1).all()
    assert set(np.unique(plan.saturation[still])) == {0.0, 1.0}  # 0: grey


@pytest.mark.parametrize(
    ("width", "height", "box"),
    [
        (500, 375, (23, 86, 328, 328)),
        (375, 500, (86, 23, 328, 328)),
        (256, 256, (16, 16, 224, 224)),
        (1, 9, (4, 0, 1, 1)),
    ],
)
def test_evaluation_takes_the_centre(width: int, height: int, box: tuple[int, ...]) -> None:
    plan = draw("eval", 3, width=width, height=height)
    assert (boxes(plan) == box).all()


def test_evaluation_leaves_the_picture_alone() -> None:
    plan = draw("eval", 3)
    assert not (plan.flip | plan.solarize).any()
    assert (plan.brightness == 1).all() & (plan.contrast == 1).all() & (plan.saturation == 1).all()
    assert not (plan.hue != 0).any() | (plan.sigma != 0).any()


def test_parameters_have_the_documented_types() -> None:
    plan = draw("hydes", 2)
    assert {getattr(plan, name).dtype.name for name in ("top", "left", "height", "width")} == {"int32"}
    assert {getattr(plan, name).dtype.name for name in ("flip", "solarize")} == {"bool"}
    floats = ("brightness", "contrast", "saturation", "hue", "sigma")
    assert {getattr(plan, name).dtype.name for name in floats} == {"float32"}
    assert {getattr(plan, name).shape for name in PARAMETERS} == {(2, 8)}


def test_the_draws_of_this_version_never_change() -> None:
    # A change here breaks resume: raise PLAN_VERSION with it. Equal on every machine, so a failure on one
    # alone is a machine whose arithmetic is not IEEE 754.
    plan = ViewPlanner(preset("hydes"), 12345).draw(6, np.arange(300), mixed_sizes(300))
    digest = hashlib.sha256(b"".join(getattr(plan, name).tobytes() for name in PARAMETERS)).hexdigest()
    assert (PLAN_VERSION, digest[:16]) == (1, "f5a46f01a660d311")


def test_our_exponential_is_exact_to_the_last_bits() -> None:
    exponents = np.concatenate([np.linspace(-0.3, 0.3, 1001), np.linspace(-20, 20, 1001)])
    expected = [math.exp(exponent) for exponent in exponents]
    np.testing.assert_allclose(exp(exponents), expected, rtol=1e-15)


def test_a_plan_costs_less_than_the_images_it_is_for() -> None:
    planner, ids, sizes = ViewPlanner(preset("hydes"), 0), np.arange(64), np.tile([500, 375], (64, 1))
    durations = []
    for epoch in range(30):
        began = time.perf_counter()
        planner.draw(epoch, ids, sizes)
        durations.append(time.perf_counter() - began)
    assert min(durations) < 0.003  # 0.7 ms on a busy core; one view at a time takes over 10 ms


@pytest.mark.parametrize(
    ("ids", "sizes", "named"),
    [
        ([1, 2], [[5, 5]], r"ids \(n,\) and sizes \(n, 2\), got \(2,\) and \(1, 2\)"),
        ([-1], [[5, 5]], "ids must be >= 0"),
        ([1], [[0, 5]], "sizes >= 1"),
    ],
)
def test_ids_and_sizes_that_do_not_fit_are_refused(
    ids: list[int], sizes: list[list[int]], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        ViewPlanner(preset("hydes"), 0).draw(0, ids, sizes)


def test_a_seed_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="seed"):
        ViewPlanner(preset("hydes"), -1)
