"""The pixels of a view, operator by operator, against float64 formulas written in this file."""

import io
import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from skimage import data
from viewmill.pipelines.executors.executor import BatchDecodeError, make_executor
from viewmill.pipelines.executors.reference import ReferenceExecutor, colour_map, render_view
from viewmill.pipelines.views import ViewDistribution, ViewPlan, ViewPlanner, ViewSpec, preset

NEUTRAL: dict[str, object] = {
    "top": 0,
    "left": 0,
    "flip": False,
    "brightness": 1.0,
    "contrast": 1.0,
    "saturation": 1.0,
    "hue": 0.0,
    "sigma": 0.0,
    "solarize": False,
}
TYPES = {
    "top": "int32",
    "left": "int32",
    "height": "int32",
    "width": "int32",
    "flip": "bool",
    "solarize": "bool",
}
# float32 sums of a few dozen products of numbers to 255, against float64.
ROUNDING = 2e-3


def plan_of(**parameters: object) -> ViewPlan:
    """The plan of one view of one image: neutral but for these parameters."""
    values = {**NEUTRAL, **parameters}
    return ViewPlan(
        **{f.name: np.array([[values[f.name]]], TYPES.get(f.name, "float32")) for f in fields(ViewPlan)}
    )


def spec_of(size: int, interpolation: str = "bicubic") -> ViewSpec:
    return ViewSpec("one", (ViewDistribution(size=size, interpolation=interpolation),))


def rendered(rgb: np.ndarray, size: int, interpolation: str = "bicubic", **parameters: object) -> np.ndarray:
    box = {"height": rgb.shape[0], "width": rgb.shape[1]}
    return render_view(rgb, plan_of(**{**box, **parameters}), 0, 0, spec_of(size, interpolation))


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    return np.ascontiguousarray(data.astronaut()[40:340, 60:460])


@pytest.fixture(scope="module")
def square(photograph: np.ndarray) -> np.ndarray:
    """48 x 48 pixels of the photograph: a box that no view of 48 has to resize."""
    return np.ascontiguousarray(photograph[100:148, 100:148])


def png(rgb: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_neutral_plan_of_the_views_own_size_is_the_image(square: np.ndarray) -> None:
    pixels = rendered(square, 48)
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, square, atol=ROUNDING)


def test_the_crop_is_the_box_to_the_pixel(photograph: np.ndarray) -> None:
    pixels = rendered(photograph, 48, top=17, left=201, height=48, width=48)
    np.testing.assert_allclose(pixels, photograph[17:65, 201:249], atol=ROUNDING)


def test_a_flip_turns_left_into_right(square: np.ndarray) -> None:
    np.testing.assert_allclose(rendered(square, 48, flip=True), square[:, ::-1], atol=ROUNDING)


def triangle(distance: float) -> float:
    return max(0.0, 1 - abs(distance))


def cubic(distance: float) -> float:
    """Keys' cubic convolution with a = -1/2."""
    x = abs(distance)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


KERNELS = {"bilinear": (triangle, 1), "bicubic": (cubic, 2)}


def resize_matrix(length: int, size: int, interpolation: str) -> np.ndarray:
    """The weights of every output pixel, (size, length); the kernel widens by the factor of shrinking."""
    kernel, reach = KERNELS[interpolation]
    step = length / size
    widening = max(step, 1.0)
    matrix = np.zeros((size, length))
    for out in range(size):
        centre = (out + 0.5) * step
        for pixel in range(length):
            if abs(pixel + 0.5 - centre) <= reach * widening:
                matrix[out, pixel] = kernel((pixel + 0.5 - centre) / widening)
        matrix[out] /= matrix[out].sum()
    return matrix


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("box", [(0, 0, 200, 200), (31, 57, 29, 111), (5, 9, 20, 20), (3, 3, 1, 2)])
def test_resizing_is_the_antialiased_filter_of_the_crop_alone(
    photograph: np.ndarray, interpolation: str, box: tuple[int, int, int, int]
) -> None:
    top, left, height, width = box
    crop = photograph[top : top + height, left : left + width].astype(np.float64)
    rows, columns = resize_matrix(height, 48, interpolation), resize_matrix(width, 48, interpolation)
    expected = np.einsum("ih,hwc,jw->ijc", rows, crop, columns)
    pixels = rendered(photograph, 48, interpolation, top=top, left=left, height=height, width=width)
    np.testing.assert_allclose(pixels, np.clip(expected, 0, 255), atol=ROUNDING)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resizing_a_ramp_agrees_with_pillow_on_whole_numbers(interpolation: str) -> None:
    ramp = np.broadcast_to(np.arange(0, 256, 2, dtype=np.uint8)[None, :, None], (64, 128, 3))
    resample = Image.Resampling[interpolation.upper()]
    expected = np.asarray(
        Image.fromarray(np.ascontiguousarray(ramp)).resize((48, 48), resample), dtype=np.float64
    )
    assert np.abs(rendered(ramp, 48, interpolation) - expected).max() <= 1.0  # Pillow rounds twice


def colours_by_hand(
    rgb: np.ndarray, brightness: float, contrast: float, saturation: float, hue: float
) -> np.ndarray:
    """Contrast, brightness, saturation and hue one after another, in float64."""
    middle = 128 * (1 - contrast) * brightness
    red, green, blue = (rgb[..., c].astype(np.float64) * contrast * brightness for c in range(3))
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    in_phase = saturation * (0.596 * red - 0.274 * green - 0.321 * blue)
    quadrature = saturation * (0.211 * red - 0.523 * green + 0.311 * blue)
    cosine, sine = math.cos(math.radians(hue)), math.sin(math.radians(hue))
    turned_in_phase = cosine * in_phase + sine * quadrature
    turned_quadrature = cosine * quadrature - sine * in_phase
    back = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])
    turned = np.stack([luma, turned_in_phase, turned_quadrature], axis=-1)
    return np.linalg.solve(back, turned[..., None])[..., 0] + middle


COLOURS = [
    {"brightness": 1.4},
    {"contrast": 0.6},
    {"contrast": 1.7},
    {"saturation": 0.0},
    {"saturation": 1.8},
    {"hue": 36.0},
    {"hue": -72.0},
    {"brightness": 0.7, "contrast": 1.3, "saturation": 0.8, "hue": -20.0},
    {"brightness": 1.3, "contrast": 0.6, "saturation": 0.0, "hue": 50.0},
]


@pytest.mark.parametrize("colours", COLOURS, ids=str)
def test_colours_follow_the_yiq_formula(square: np.ndarray, colours: dict[str, float]) -> None:
    neutral = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
    expected = np.clip(colours_by_hand(square, **{**neutral, **colours}), 0, 255)
    np.testing.assert_allclose(rendered(square, 48, **colours), expected, atol=ROUNDING)


def test_colours_are_those_of_dali(square: np.ndarray) -> None:
    fn = pytest.importorskip("nvidia.dali.fn", reason="DALI is an extra")
    dali = pytest.importorskip("nvidia.dali", reason="DALI is an extra")
    colours = {"brightness": 0.7, "contrast": 1.3, "saturation": 0.8, "hue": -20.0}
    pipeline = dali.Pipeline(batch_size=1, num_threads=1, device_id=None)
    with pipeline:
        image = fn.external_source([[square]], batch=True, cycle=True)
        pipeline.set_outputs(fn.color_twist(image, dtype=dali.types.FLOAT, **colours))
    pipeline.build()
    (found,) = pipeline.run()
    pixels = rendered(square, 48, **colours)
    np.testing.assert_allclose(pixels, np.clip(np.array(found.at(0)), 0, 255), atol=ROUNDING)


def test_saturation_zero_is_a_grey_picture(square: np.ndarray) -> None:
    pixels = rendered(square, 48, saturation=0.0)
    # The three-digit matrix's grey is grey to 0.4 % of the luma, as DALI's is.
    assert np.ptp(pixels, axis=2).max() < 0.004 * 255
    assert np.ptp(square, axis=2).max() > 50


def test_colours_are_clamped_once_at_the_end(square: np.ndarray) -> None:
    matrix, offset = colour_map(1.8, 1.8, 1.0, 0.0)
    unclamped = square @ matrix.T + offset
    assert (unclamped < 0).any()
    assert (unclamped > 255).any()
    expected = np.clip(unclamped, 0, 255)
    np.testing.assert_allclose(rendered(square, 48, brightness=1.8, contrast=1.8), expected, atol=ROUNDING)


@pytest.mark.parametrize("sigma", [0.1, 0.34, 0.5, 1.0, 2.0, 20.0])
def test_blur_is_the_gaussian_of_three_sigma_with_mirrored_borders(square: np.ndarray, sigma: float) -> None:
    expected = ndimage.gaussian_filter(
        square.astype(np.float64), (sigma, sigma, 0), mode="mirror", radius=(math.ceil(3 * sigma),) * 2 + (0,)
    )
    np.testing.assert_allclose(rendered(square, 48, sigma=sigma), expected, atol=ROUNDING)


def test_solarize_inverts_the_bright_half(square: np.ndarray) -> None:
    square = square.copy()
    square[0, :2] = [[127, 128, 129], [0, 255, 128]]
    pixels = rendered(square, 48, solarize=True)
    np.testing.assert_allclose(pixels[0, :2], [[127, 127, 126], [0, 0, 127]], atol=ROUNDING)
    np.testing.assert_allclose(pixels, np.where(square >= 128, 255 - square, square), atol=ROUNDING)


def test_the_operators_follow_each_other_as_the_design_says(square: np.ndarray) -> None:
    colours = {"brightness": 1.3, "contrast": 1.6, "saturation": 0.7, "hue": 30.0}
    coloured = np.clip(colours_by_hand(square[:, ::-1], **colours), 0, 255)
    blurred = np.clip(
        ndimage.gaussian_filter(coloured, (1.1, 1.1, 0), mode="mirror", radius=(4, 4, 0)), 0, 255
    )
    expected = np.where(blurred >= 128, 255 - blurred, blurred)
    pixels = rendered(square, 48, flip=True, sigma=1.1, solarize=True, **colours)
    # A value within rounding of 128 may fall on either side of the threshold, and then 1 apart.
    clear = np.abs(blurred - 128) > 0.01
    assert clear.mean() > 0.99
    np.testing.assert_allclose(pixels[clear], expected[clear], atol=ROUNDING)


def test_evaluation_is_resize_then_centre_crop() -> None:
    # 292 becomes 146 = round(8 * 128 / 7): by exactly 2, so that no box has to be rounded to whole pixels.
    photograph = np.ascontiguousarray(data.astronaut()[40:332, 60:500])
    spec = preset("eval@128")
    plan = ViewPlanner(spec, 0).draw(0, [0], [[440, 292]])
    resized = np.asarray(
        Image.fromarray(photograph).resize((220, 146), Image.Resampling.BILINEAR), np.float64
    )
    expected = resized[9:137, 46:174]
    pixels = render_view(photograph, plan, 0, 0, spec)
    # The crop's own border has no neighbours to look at; inside, Pillow on whole numbers rounds twice.
    np.testing.assert_allclose(pixels[2:-2, 2:-2], expected[2:-2, 2:-2], atol=1.0)


def test_a_box_outside_the_image_is_refused(square: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"48x48 pixels at \(0, 1\) leaves the image of 48x48"):
        rendered(square, 48, top=1)


@pytest.fixture(scope="module")
def pictures(photograph: np.ndarray) -> list[np.ndarray]:
    return [photograph, np.ascontiguousarray(photograph[:90, :60]), np.ascontiguousarray(photograph[:, ::-1])]


def drawn(spec: ViewSpec, pictures: list[np.ndarray]) -> ViewPlan:
    sizes = [[picture.shape[1], picture.shape[0]] for picture in pictures]
    return ViewPlanner(spec, 0).draw(0, np.arange(len(pictures)), sizes)


def test_a_run_gives_every_view_normalised(pictures: list[np.ndarray]) -> None:
    spec = preset("hydes@32")
    plan = drawn(spec, pictures)
    executor = ReferenceExecutor(spec, max_batch=4, num_threads=2)
    views = executor.run([png(picture) for picture in pictures], plan)
    executor.close()
    assert [tuple(view.shape) for view in views] == [(3, 3, 32, 32)] * 2 + [(3, 3, 16, 16)] * 6
    for number, view in enumerate(views):
        assert view.dtype == torch.float32
        for row, picture in enumerate(pictures):
            pixels = render_view(picture, plan, row, number, spec).astype(np.float64)
            expected = (pixels / 255 - np.array(spec.mean)) / np.array(spec.std)
            np.testing.assert_allclose(view[row].permute(1, 2, 0), expected, atol=1e-5)


def test_images_that_do_not_decode_are_named_and_the_others_run_again(pictures: list[np.ndarray]) -> None:
    spec = preset("simclr@32")
    plan = drawn(spec, [pictures[0], pictures[0], pictures[1], pictures[1]])
    good, other = png(pictures[0]), png(pictures[1])
    executor = ReferenceExecutor(spec, max_batch=4)
    with pytest.raises(BatchDecodeError, match="2 images of the batch cannot be decoded: row 1: ") as raised:
        executor.run([good, good[:100], other, b"no image"], plan)
    assert raised.value.rows == [1, 3]
    views = executor.run([good, other], plan.select([0, 2]))
    whole = executor.run([good, good, other, other], plan)
    for view, full in zip(views, whole, strict=True):
        torch.testing.assert_close(view, full[[0, 2]], rtol=0, atol=0)


def test_a_batch_must_fit_its_plan_and_its_executor(pictures: list[np.ndarray]) -> None:
    spec = preset("simclr@32")
    plan = drawn(spec, pictures)
    executor = make_executor("reference", spec, max_batch=2, num_threads=1)
    images = [png(picture) for picture in pictures]
    with pytest.raises(ValueError, match="2 images but a plan of 3 rows"):
        executor.run(images[:2], plan)
    with pytest.raises(ValueError, match="a batch of 3 images; this executor was made for 1 to 2"):
        executor.run(images, plan)
    with pytest.raises(ValueError, match="the plan has 1 views, 'simclr@32' has 2"):
        executor.run(images[:1], plan_of(height=10, width=10))


def test_an_unknown_executor_is_refused() -> None:
    with pytest.raises(ValueError, match="'dalli'; expected one of auto, dali, dali-operators, host,"):
        make_executor("dalli", preset("eval"), max_batch=1, num_threads=1)


def test_the_reference_runs_on_the_cpu_alone() -> None:
    with pytest.raises(ValueError, match="reference executor runs on the cpu, not on 'cuda'"):
        make_executor("reference", preset("eval"), max_batch=1, num_threads=1, device="cuda")


def test_dali_that_is_not_installed_is_an_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("viewmill.pipelines.executors.executor.dali_is_installed", lambda: False)
    with pytest.raises(ImportError, match="dali-cuda13"):
        make_executor("dali", preset("eval"), max_batch=1, num_threads=1)
    with pytest.raises(ImportError, match="dali-cuda13"):  # what "auto" is on a GPU
        make_executor("auto", preset("eval"), max_batch=1, num_threads=1, device="cuda")
