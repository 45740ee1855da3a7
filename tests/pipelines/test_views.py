"""The presets: what DESIGN and the papers say, and what NAME@S makes of it."""

from dataclasses import replace

import pytest
from viewmill.pipelines.views import PRESETS, ViewDistribution, ViewSpec, preset

DINO_COLOURS = {
    "flip": 0.5,
    "jitter": 0.8,
    "brightness": (0.6, 1.4),
    "contrast": (0.6, 1.4),
    "saturation": (0.8, 1.2),
    "hue": (-36.0, 36.0),
    "grayscale": 0.2,
    "sigma": (0.1, 2.0),
}


def told(spec: ViewSpec, name: str) -> list[object]:
    return [getattr(view, name) for view in spec.views]


def test_hydes_has_two_global_and_six_local_views() -> None:
    spec = preset("hydes")
    assert spec.num_views == 8
    assert spec.sizes == (224, 224, 96, 96, 96, 96, 96, 96)
    assert told(spec, "scale") == [(0.4, 1.0)] * 2 + [(0.05, 0.4)] * 6
    assert told(spec, "blur") == [1.0, 0.1] + [0.5] * 6
    assert told(spec, "solarize") == [0.0, 0.2] + [0.0] * 6
    assert set(told(spec, "interpolation")) == {"bicubic"}


def test_supervised_has_one_view_that_is_cropped_and_flipped_alone() -> None:
    (view,) = preset("supervised").views
    assert view == ViewDistribution(size=224, scale=(0.08, 1.0), interpolation="bilinear", flip=0.5)


def test_imsvd_has_two_global_views_with_the_augmentations_of_vicreg() -> None:
    spec = preset("imsvd")
    assert spec.sizes == (224, 224)
    assert told(spec, "scale") == [(0.08, 1.0)] * 2
    assert told(spec, "blur") == [1.0, 0.1]
    assert told(spec, "solarize") == [0.0, 0.2]
    assert set(told(spec, "interpolation")) == {"bicubic"}


@pytest.mark.parametrize("name", ["hydes", "imsvd", "dino", "dino_global"])
@pytest.mark.parametrize("parameter", DINO_COLOURS)
def test_colours_are_the_published_ones(name: str, parameter: str) -> None:
    assert set(told(preset(name), parameter)) == {DINO_COLOURS[parameter]}


def test_dino_without_its_local_views_has_the_same_global_ones() -> None:
    assert preset("dino_global").views == preset("dino").views[:2]


def test_simclr_has_strong_colours_and_no_solarization() -> None:
    view = preset("simclr").views[0]
    assert preset("simclr").views == (view, view)
    assert (view.brightness, view.contrast, view.saturation, view.hue) == ((0.2, 1.8),) * 3 + ((-72.0, 72.0),)
    assert (view.blur, view.solarize, view.interpolation) == (0.5, 0.0, "bilinear")


def test_every_crop_draws_the_aspects_of_torchvision() -> None:
    assert {view.ratio for spec in PRESETS.values() for view in spec.views} == {(3 / 4, 4 / 3)}


@pytest.mark.parametrize(("size", "resize_to"), [(224, 256), (96, 110), (64, 73), (32, 37)])
def test_evaluation_resizes_to_eight_sevenths(size: int, resize_to: int) -> None:
    (view,) = preset(f"eval@{size}").views
    assert (view.size, view.resize_to) == (size, resize_to)


def test_a_size_halves_the_local_views_and_scales_the_blur() -> None:
    spec = preset("hydes@112")
    assert spec.name == "hydes@112"
    assert spec.sizes == (112,) * 2 + (56,) * 6
    assert told(spec, "sigma") == [(0.05, 1.0)] * 8


def test_a_size_changes_nothing_else() -> None:
    for before, after in zip(preset("hydes").views, preset("hydes@64").views, strict=True):
        assert replace(after, size=before.size, sigma=before.sigma) == before


def test_a_wrong_name_is_told_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown view preset 'hides', did you mean 'hydes'"):
        preset("hides")


@pytest.mark.parametrize("name", ["hydes@", "hydes@big", "hydes@-4", "hydes@9.5", "hydes@1", "hydes@²"])
def test_a_size_that_is_no_size_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        preset(name)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"size": 0}, "size"),
        ({"resize_to": 31}, "resize_to"),
        ({"interpolation": "nearest"}, "interpolation"),
        ({"flip": 1.5}, "flip"),
        ({"blur": float("nan")}, "blur"),
        ({"scale": (0.5, 0.2)}, "scale"),
        ({"scale": (0.5, 1.2)}, "scale"),
        ({"ratio": (0.0, 1.0)}, "ratio"),
        ({"brightness": (-0.1, 1.0)}, "brightness"),
        ({"sigma": (0.0, 1.0)}, "sigma"),
    ],
)
def test_a_distribution_that_cannot_be_drawn_from_is_refused(changes: dict[str, object], named: str) -> None:
    arguments: dict[str, object] = {"size": 32, **changes}
    with pytest.raises(ValueError, match=named):
        ViewDistribution(**arguments)  # type: ignore[arg-type]


def test_global_views_come_first() -> None:
    with pytest.raises(ValueError, match=r"global views come first, got sizes \(32, 64\)"):
        ViewSpec("mine", (ViewDistribution(size=32), ViewDistribution(size=64)))


def test_a_spec_needs_a_view() -> None:
    with pytest.raises(ValueError, match="no views"):
        ViewSpec("mine", ())
