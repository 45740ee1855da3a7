"""The host executor carries out the plan that the reference does, whatever its threads and its batch."""

import gc
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch
from viewmill.pipelines.executors.executor import BatchDecodeError, make_executor
from viewmill.pipelines.executors.host.executor import HostExecutor
from viewmill.pipelines.executors.reference import ReferenceExecutor
from viewmill.pipelines.executors.view_format import DTYPES, ViewFormat
from viewmill.pipelines.plans.spec import ViewDistribution, ViewSpec
from viewmill.pipelines.views import ViewPlan, preset

from tests.pipelines.photographs import changed, encode, on_255, photographs, plain_spec, plan_for

# float32 sums of up to a few hundred terms, of 255; pixels beside the solarize threshold may fall either way.
ROUNDING = 0.01


@pytest.fixture(scope="module")
def images() -> dict[str, bytes]:
    return photographs()


@pytest.fixture(scope="module")
def plain() -> Iterator[HostExecutor]:
    executor = HostExecutor(plain_spec(), max_batch=16, num_threads=2)
    yield executor
    executor.close()


def host_views(
    spec: ViewSpec,
    images: list[bytes],
    plan: ViewPlan,
    *,
    threads: int = 2,
    view_format: ViewFormat = ViewFormat(),  # noqa: B008 - frozen
) -> list[torch.Tensor]:
    executor = HostExecutor(spec, max_batch=len(images), num_threads=threads, view_format=view_format)
    views = executor.run(images, plan)
    executor.close()
    return views


def differences(spec: ViewSpec, images: list[bytes], plan: ViewPlan) -> list[torch.Tensor]:
    """Absolute differences between host and reference, of 255, view after view."""
    reference = ReferenceExecutor(spec, max_batch=len(images)).run(images, plan)
    pairs = zip(host_views(spec, images, plan), reference, strict=True)
    return [(on_255(ours, spec) - on_255(theirs, spec)).abs() for ours, theirs in pairs]


@pytest.mark.parametrize("name", ["hydes@96", "simclr@64", "eval@64", "imsvd@97", "dino@50"])
def test_every_preset_has_the_pixels_of_the_reference(name: str, images: dict[str, bytes]) -> None:
    spec, batch = preset(name), list(images.values())
    plan = replace(plan_for(spec, batch), solarize=np.zeros((len(batch), spec.num_views), bool))
    for view in differences(spec, batch, plan):
        assert view.max() <= ROUNDING


def test_every_format_decodes_to_the_very_pixels_of_the_reference(images: dict[str, bytes]) -> None:
    # A view as large as its image copies it: no filter blurs a difference away.
    for name, image in images.items():
        spec = ViewSpec("copy", (ViewDistribution(size=64, interpolation="bilinear"),))
        plan = changed(plan_for(spec, [image]), top=3, left=5, height=64, width=64)
        (view,) = host_views(spec, [image], plan, view_format=ViewFormat("uint8"))
        (expected,) = ReferenceExecutor(spec, max_batch=1, view_format=ViewFormat("uint8")).run([image], plan)
        assert torch.equal(view, expected), name


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [1, 2, 7, 16, 33, 300])
def test_crop_and_resize_alone(interpolation: str, size: int, images: dict[str, bytes]) -> None:
    spec, batch = plain_spec(size, interpolation), list(images.values())[:5]
    assert differences(spec, batch, plan_for(spec, batch))[0].max() <= ROUNDING


@pytest.mark.parametrize("box", [(1, 1), (1, 9), (2, 2), (3, 2), (300, 1), (7, 451), (300, 451)])
def test_boxes_of_any_shape_are_resized(box: tuple[int, int], images: dict[str, bytes]) -> None:
    spec, batch = plain_spec(24), [images["cat.png"]]
    height, width = box
    plan = changed(
        plan_for(spec, batch), top=300 - height, left=451 - width, height=height, width=width
    )  # the last pixels of the image, behind which nothing may be read
    assert differences(spec, batch, plan)[0].max() <= ROUNDING


@pytest.mark.parametrize(
    "values",
    [
        {"brightness": 0.6},
        {"contrast": 1.8},
        {"saturation": 0.0},
        {"hue": -72.0},
        {"brightness": 1.4, "contrast": 1.4, "saturation": 1.2, "hue": 36.0},
        {"sigma": 0.1},
        {"sigma": 0.7},
        {"sigma": 2.0},
        {"sigma": 9.0},  # its radius is larger than the view
        {"solarize": True},
        {"flip": True, "sigma": 1.0, "contrast": 0.7},
    ],
    ids=lambda values: " ".join(f"{name}={value}" for name, value in values.items()),
)
def test_one_operator_alone(values: dict[str, float], images: dict[str, bytes]) -> None:
    spec, batch = plain_spec(26), list(images.values())[:3]
    neutral = plan_for(spec, batch)
    plan = changed(neutral, **values)
    (found,) = differences(spec, batch, plan)
    if "solarize" in values:  # what is 128 but for rounding falls to either side of an edge of 1
        assert found.max() <= 1 + ROUNDING
        assert (found > ROUNDING).float().mean() < 1e-3
    else:
        assert found.max() <= ROUNDING
    if values != {"sigma": 0.1}:  # a blur that does nothing
        moved = host_views(spec, batch, plan)[0] - host_views(spec, batch, neutral)[0]
        assert moved.abs().mean() > 0.01


@pytest.mark.parametrize("size", [5, 20, 48])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_format_holds_the_float32_views_rounded_once(
    dtype: str, channels_last: bool, size: int, images: dict[str, bytes]
) -> None:
    spec, batch = plain_spec(size), list(images.values())[:3]
    plan = changed(plan_for(spec, batch), sigma=0.6)
    (found,) = host_views(spec, batch, plan, view_format=ViewFormat(dtype, channels_last))
    (expected,) = host_views(spec, batch, plan)
    assert found.dtype == DTYPES[dtype]
    assert found.is_contiguous(memory_format=ViewFormat(dtype, channels_last).memory_format)
    if dtype == "uint8":
        assert (found.float() - on_255(expected, spec)).abs().max() <= 0.5 + ROUNDING
    else:
        assert torch.equal(found, expected.to(DTYPES[dtype]))


def test_neither_threads_nor_the_batch_change_a_bit(images: dict[str, bytes]) -> None:
    spec, batch = preset("hydes@64"), list(images.values())
    plan = plan_for(spec, batch)
    whole = host_views(spec, batch, plan, threads=1)
    for one, three in zip(whole, host_views(spec, batch, plan, threads=3), strict=True):
        assert torch.equal(one, three)
    rows = [7, 2, 2, 11]
    part = host_views(spec, [batch[row] for row in rows], plan.select(rows))
    for some, all_rows in zip(part, whole, strict=True):
        assert torch.equal(some, all_rows[rows])


def test_views_keep_their_values_when_the_executor_runs_on_and_is_gone(images: dict[str, bytes]) -> None:
    batch = list(images.values())
    executor = HostExecutor(plain_spec(), max_batch=16, num_threads=2)
    (first,) = executor.run(batch, plan_for(plain_spec(), batch))
    kept = first.clone()
    for epoch in range(1, 4):
        executor.run(batch, plan_for(plain_spec(), batch, epoch=epoch))
    executor.close()
    gc.collect()
    assert torch.equal(first, kept)


def test_bad_images_are_named_and_the_next_batch_is_whole(
    plain: HostExecutor, images: dict[str, bytes]
) -> None:
    batch = list(images.values())
    plan = plan_for(plain.spec, batch)
    (expected,) = plain.run(batch, plan)
    broken = [b"", batch[1], batch[2][:4000], *batch[3:9], batch[9][: len(batch[9]) // 2], *batch[10:]]
    with pytest.raises(BatchDecodeError, match="row 2: JPEG does not decode") as caught:
        plain.run(broken, plan)
    assert caught.value.rows == [0, 2, 9]
    assert torch.equal(plain.run(batch, plan)[0], expected)


def test_a_header_of_too_many_pixels_is_refused_before_they_are_decoded(
    plain: HostExecutor, images: dict[str, bytes]
) -> None:
    jpeg = images["flower.jpg"]
    frame = jpeg.index(b"\xff\xc0")
    bomb = jpeg[: frame + 5] + b"\xff\xff\xff\xff" + jpeg[frame + 9 :]  # 65535 x 65535
    with pytest.raises(BatchDecodeError, match="megapixels"):
        plain.run([bomb], plan_for(plain.spec, [jpeg]))


def test_what_pillow_bears_the_host_executor_bears(plain: HostExecutor, images: dict[str, bytes]) -> None:
    jpeg = images["flower.jpg"]
    length = int.from_bytes(jpeg[4:6], "big")
    rubbish = jpeg[: 4 + length] + b"rubbish" + jpeg[4 + length :]
    plan = plan_for(plain.spec, [jpeg])
    assert torch.equal(plain.run([rubbish], plan)[0], plain.run([jpeg], plan)[0])


def test_a_plan_for_other_sizes_is_refused(plain: HostExecutor, images: dict[str, bytes]) -> None:
    batch = [images["flower.jpg"], images["cat.png"]]
    plan = plan_for(plain.spec, batch)
    plan.left[1] = 400
    with pytest.raises(ValueError, match=r"row 1, view 0.*leaves the image of 451x300"):
        plain.run(batch, plan)


def test_a_batch_that_does_not_fit_is_refused(plain: HostExecutor, images: dict[str, bytes]) -> None:
    plan = plan_for(plain.spec, [images["cat.png"]])
    with pytest.raises(ValueError, match="2 images but a plan of 1"):
        plain.run([images["cat.png"]] * 2, plan)
    with pytest.raises(ValueError, match="got 0 and 1"):
        HostExecutor(plain_spec(), max_batch=0, num_threads=1)


def test_a_closed_executor_has_no_threads_and_does_not_run(images: dict[str, bytes]) -> None:
    plan = plan_for(plain_spec(), [images["cat.png"]])
    before = psutil.Process().num_threads()
    executor = HostExecutor(plain_spec(), max_batch=2, num_threads=2)
    executor.run([images["cat.png"]], plan)
    assert psutil.Process().num_threads() > before
    executor.close()
    executor.close()
    assert psutil.Process().num_threads() <= before
    with pytest.raises(RuntimeError, match="closed"):
        executor.run([images["cat.png"]], plan)


def test_auto_is_host_on_the_cpu_and_host_knows_no_gpu() -> None:
    executor = make_executor("auto", plain_spec(), max_batch=1, num_threads=1)
    assert isinstance(executor, HostExecutor)
    executor.close()
    with pytest.raises(ValueError, match="use executor 'dali'"):
        make_executor("host", plain_spec(), max_batch=1, num_threads=1, device="cuda")


def test_small_pngs_are_rendered_like_large_ones() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    batch, spec = [encode(rgb, "PNG")], plain_spec(40)
    assert differences(spec, batch, plan_for(spec, batch))[0].max() <= ROUNDING
