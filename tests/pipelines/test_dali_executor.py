"""DALI carries out the plan that the reference carries out."""

import gc
import io
from collections.abc import Iterator

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from viewmill.pipelines.executors.dali.jpeg_markers import check_markers
from viewmill.pipelines.executors.dali.regions import regions_of
from viewmill.pipelines.executors.executor import BatchDecodeError, make_executor
from viewmill.pipelines.executors.host.executor import HostExecutor
from viewmill.pipelines.executors.reference import ReferenceExecutor
from viewmill.pipelines.plans.spec import ViewSpec
from viewmill.pipelines.views import ViewPlan, preset
from viewmill.shards.errors import ImageError
from viewmill.shards.images import decode_rgb

from tests.pipelines.photographs import changed, encode, on_255, photographs, plain_spec, plan_for, sizes_of

pytest.importorskip("nvidia.dali", reason="DALI is not installed")
from viewmill.pipelines.executors.dali.executor import DaliExecutor, device_id_of

# The published tolerance of DALI's own operators (mean over a batch, of 255), which round to whole numbers.
TOLERANCE = 2.0
PRESETS = ["hydes", "imsvd", "dino", "simclr", "eval", "hydes@96"]


@pytest.fixture(scope="module")
def images() -> dict[str, bytes]:
    return photographs()


@pytest.fixture(scope="module", params=[False, True], ids=["kernel", "operators"])
def plain(request: pytest.FixtureRequest) -> Iterator[DaliExecutor]:
    executor = DaliExecutor(plain_spec(), max_batch=16, num_threads=2, own_operators=request.param)
    yield executor
    executor.close()


def dali_views(
    spec: ViewSpec, images: list[bytes], plan: ViewPlan, *, threads: int = 2, own_operators: bool = True
) -> list[torch.Tensor]:
    executor = DaliExecutor(spec, max_batch=len(images), num_threads=threads, own_operators=own_operators)
    views = executor.run(images, plan)
    executor.close()
    return views


def difference(spec: ViewSpec, images: list[bytes], plan: ViewPlan) -> torch.Tensor:
    """Mean absolute difference between DALI's own operators and the reference, of 255: (V, n)."""
    reference = ReferenceExecutor(spec, max_batch=len(images)).run(images, plan)
    pairs = zip(dali_views(spec, images, plan), reference, strict=True)
    return torch.stack(
        [(on_255(ours, spec) - on_255(theirs, spec)).abs().mean((1, 2, 3)) for ours, theirs in pairs]
    )


@pytest.mark.parametrize("name", PRESETS)
def test_on_the_cpu_the_kernel_gives_the_bits_of_the_host_executor(
    name: str, images: dict[str, bytes]
) -> None:
    spec, batch = preset(name), list(images.values())
    plan = plan_for(spec, batch, seed=4)
    host = HostExecutor(spec, max_batch=len(batch), num_threads=1)
    found = dali_views(spec, batch, plan, own_operators=False)
    for ours, theirs in zip(found, host.run(batch, plan), strict=True):
        assert torch.equal(ours, theirs)
    host.close()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_the_pixels_of_the_reference(name: str, images: dict[str, bytes]) -> None:
    batch = list(images.values())
    worst = difference(preset(name), batch, plan_for(preset(name), batch)).mean(1)
    assert worst.max() <= TOLERANCE / 2, f"{name}: {worst}"  # half: photographs leave room for small images


def test_every_format_decodes_as_the_reference_decodes_it(images: dict[str, bytes]) -> None:
    batch = list(images.values())
    found = difference(plain_spec(224), batch, plan_for(plain_spec(224), batch))[0]
    assert {
        name: round(value.item(), 2) for name, value in zip(images, found, strict=True) if value > 1
    } == {}


def test_small_images_stay_within_the_tolerance(images: dict[str, bytes]) -> None:
    # The resize filter of DALI sees past the box, by up to a source pixel: most where pixels are few.
    small = [Image.open(io.BytesIO(image)).convert("RGB").resize((32, 32)) for image in images.values()]
    batch = [encode(np.array(image), "PNG") for image in small]
    spec = preset("hydes@96")
    assert difference(spec, batch, plan_for(spec, batch)).mean() <= TOLERANCE


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [32, 96, 300])
def test_crop_and_resize_alone(interpolation: str, size: int, images: dict[str, bytes]) -> None:
    spec, batch = plain_spec(size, interpolation), list(images.values())
    assert difference(spec, batch, plan_for(spec, batch)).mean() <= 0.5


@pytest.mark.parametrize(
    "values",
    [
        {"brightness": 0.6},
        {"brightness": 1.4},
        {"contrast": 0.6},
        {"contrast": 1.8},
        {"saturation": 0.0},
        {"saturation": 1.8},
        {"hue": -72.0},
        {"hue": 36.0},
        {"brightness": 1.4, "contrast": 1.4, "saturation": 1.2, "hue": 36.0},
        {"sigma": 0.1},
        {"sigma": 0.7},
        {"sigma": 2.0},
        {"solarize": True},
        {"flip": True},
        {"flip": True, "sigma": 1.0, "solarize": True, "contrast": 0.7},
    ],
    ids=lambda values: " ".join(f"{name}={value}" for name, value in values.items()),
)
def test_one_operator_alone(values: dict[str, float], images: dict[str, bytes]) -> None:
    spec, batch = plain_spec(), list(images.values())[:6]
    neutral = plan_for(spec, batch)
    plan = changed(neutral, **values)
    assert difference(spec, batch, plan).mean() <= 1.0
    if values != {"sigma": 0.1}:  # a blur that does nothing
        moved = dali_views(spec, batch, plan)[0] - dali_views(spec, batch, neutral)[0]
        assert moved.abs().mean() > 0.01


def test_the_crop_is_the_box_to_the_pixel() -> None:
    row, column = np.mgrid[0:256, 0:256]
    ramp = encode(np.stack([column, row, row * 0], axis=2).astype(np.uint8), "PNG")  # red is x, green is y
    spec = plain_spec(64, "bilinear")
    plan = plan_for(spec, [ramp] * 12)
    view = on_255(dali_views(spec, [ramp] * 12, plan)[0], spec).numpy()
    pixel = np.arange(8, 56)  # away from the border, where the filter is cut
    for image in range(12):
        for channel, start, length in ((0, plan.left, plan.width), (1, plan.top, plan.height)):
            line = view[image, channel].mean(axis=channel)[pixel]
            slope, offset = np.polyfit(pixel + 0.5, line + 0.5, 1)
            assert offset == pytest.approx(start[image, 0], abs=0.3)
            assert slope * 64 == pytest.approx(length[image, 0], abs=0.5)


@pytest.mark.parametrize("own_operators", [False, True])
def test_the_number_of_threads_changes_nothing(own_operators: bool, images: dict[str, bytes]) -> None:
    spec, batch = preset("hydes@64"), list(images.values())
    plan = plan_for(spec, batch)
    one, two = (
        dali_views(spec, batch, plan, threads=threads, own_operators=own_operators) for threads in (1, 2)
    )
    assert all(map(torch.equal, one, two))


def test_a_batch_may_be_of_any_size_and_its_rows_do_not_know_each_other(
    plain: DaliExecutor, images: dict[str, bytes]
) -> None:
    batch = list(images.values())
    plan = plan_for(plain.spec, batch)
    (whole,) = plain.run(batch, plan)
    for rows in ([0], [3, 1], list(range(7)), list(range(len(batch)))):
        (part,) = plain.run([batch[row] for row in rows], plan.select(rows))
        assert part.shape == (len(rows), 3, 96, 96)
        assert part.dtype == torch.float32
        assert torch.equal(part, whole[rows])


@pytest.mark.parametrize("own_operators", [False, True])
def test_views_keep_their_values_when_the_executor_runs_on_and_is_gone(
    own_operators: bool, images: dict[str, bytes]
) -> None:
    batch = list(images.values())
    executor = DaliExecutor(plain_spec(), max_batch=16, num_threads=2, own_operators=own_operators)
    (first,) = executor.run(batch, plan_for(plain_spec(), batch))
    kept = first.clone()
    for epoch in range(1, 6):
        executor.run(batch, plan_for(plain_spec(), batch, epoch=epoch))
    executor.close()
    gc.collect()
    assert torch.equal(first, kept)


def test_one_bad_image_is_named_and_the_next_batch_is_whole(
    plain: DaliExecutor, images: dict[str, bytes]
) -> None:
    batch = list(images.values())
    plan = plan_for(plain.spec, batch)
    (expected,) = plain.run(batch, plan)
    broken = [*batch[:2], batch[2][:4000], *batch[3:9], batch[9][: len(batch[9]) // 2], *batch[10:]]
    with pytest.raises(BatchDecodeError, match="row 2") as caught:
        plain.run(broken, plan)
    assert caught.value.rows == [2, 9]
    assert torch.equal(plain.run(batch, plan)[0], expected)


@pytest.mark.parametrize("bad", [b"", b"no image at all", b"\xff\xd8\xff\xe0\x00\x10JFIF"])
def test_an_image_without_a_header_never_reaches_dali(
    bad: bytes, plain: DaliExecutor, images: dict[str, bytes]
) -> None:
    batch = list(images.values())[:4]
    with pytest.raises(BatchDecodeError) as caught:
        plain.run([batch[0], bad, *batch[2:]], plan_for(plain.spec, batch))
    assert caught.value.rows == [1]


def test_rubbish_between_segments_which_can_crash_dali_never_reaches_it(
    plain: DaliExecutor, images: dict[str, bytes]
) -> None:
    jpeg = images["coffee, progressive.jpg"]
    length = int.from_bytes(jpeg[4:6], "big")
    rubbish = jpeg[: 4 + length] + b"rubbish" + jpeg[4 + length :]
    assert decode_rgb(rubbish).shape == decode_rgb(jpeg).shape  # Pillow skips it
    with pytest.raises(BatchDecodeError, match=f"row 1: broken JPEG header: byte {4 + length} is no marker"):
        plain.run([jpeg, rubbish], plan_for(plain.spec, [jpeg, rubbish]))


def test_whole_headers_pass_and_headers_without_a_scan_do_not(images: dict[str, bytes]) -> None:
    for image in images.values():
        check_markers(image)
    jpeg = images["flower.jpg"]
    for broken in (jpeg[:200], jpeg[:2] + b"\xff\xd9" + jpeg[2:], b"\xff\xd8"):
        with pytest.raises(ImageError, match="ends before the first scan"):
            check_markers(broken)
    check_markers(jpeg[:2] + b"\xff\xff\xff" + jpeg[2:])  # fill bytes
    check_markers(jpeg[:2] + b"\xff\x01" + jpeg[2:])  # a marker without a length


def test_what_dali_alone_does_not_decode_is_named_too(plain: DaliExecutor, images: dict[str, bytes]) -> None:
    gif = encode(np.array(Image.open(io.BytesIO(images["flower.jpg"]))), "GIF")
    batch = [images["cat.png"], gif, images["rocket.webp"]]
    with pytest.raises(BatchDecodeError, match="DALI does not decode it") as caught:
        plain.run(batch, plan_for(plain.spec, batch))
    assert caught.value.rows == [1]


def test_a_plan_for_other_sizes_is_refused(plain: DaliExecutor, images: dict[str, bytes]) -> None:
    plan = changed(plan_for(plain.spec, [images["cat.png"]]), left=400)
    with pytest.raises(ValueError, match=r"row 0, view 0.*leaves the image of 451x300"):
        plain.run([images["cat.png"]], plan)


def test_a_batch_that_does_not_fit_is_refused(plain: DaliExecutor, images: dict[str, bytes]) -> None:
    plan = plan_for(plain.spec, [images["cat.png"]])
    with pytest.raises(ValueError, match="2 images but a plan of 1"):
        plain.run([images["cat.png"]] * 2, plan)


def test_a_closed_executor_has_no_threads_and_does_not_run(images: dict[str, bytes]) -> None:
    before = psutil.Process().num_threads()
    executor = DaliExecutor(plain_spec(), max_batch=2, num_threads=2)
    plan = plan_for(plain_spec(), [images["cat.png"]])
    executor.run([images["cat.png"]], plan)
    assert psutil.Process().num_threads() > before
    executor.close()
    gc.collect()
    assert psutil.Process().num_threads() <= before
    with pytest.raises(RuntimeError, match="closed"):
        executor.run([images["cat.png"]], plan)


def test_devices_have_torchs_names_and_dalis() -> None:
    assert [device_id_of(name) for name in ("cpu", "gpu", "cuda", "cuda:1")] == [None, 0, 0, 1]
    for wrong in ("tpu", "cuda:", "cuda:x", "cpu:0"):
        with pytest.raises(ValueError, match="expected cpu, cuda"):
            device_id_of(wrong)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_gpu_that_is_not_there_is_an_error_when_the_executor_is_made() -> None:
    with pytest.raises(RuntimeError, match="CUDA"):
        make_executor("dali", plain_spec(), max_batch=2, num_threads=1, device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", PRESETS)
def test_the_gpu_has_the_pixels_of_the_reference(name: str, images: dict[str, bytes]) -> None:
    spec, batch = preset(name), list(images.values())
    plan = plan_for(spec, batch)
    executor = DaliExecutor(spec, max_batch=len(batch), num_threads=2, device="cuda")
    reference = ReferenceExecutor(spec, max_batch=len(batch)).run(batch, plan)
    for ours, theirs in zip(executor.run(batch, plan), reference, strict=True):
        assert ours.device.type == "cuda"
        gap = on_255(ours.cpu(), spec) - on_255(theirs, spec)
        assert gap.abs().mean() <= TOLERANCE


def test_only_what_the_views_see_of_an_image_is_decoded(images: dict[str, bytes]) -> None:
    spec, batch = preset("simclr@64"), list(images.values())
    plan = plan_for(spec, batch, seed=5)
    regions = regions_of(plan)
    areas = (regions[:, 2:] - regions[:, :2]).prod(axis=1)
    assert np.mean(areas < 0.9 * sizes_of(batch).prod(axis=1)) > 0.3  # there is something to leave out
    for start, length, near, far in ((plan.top, plan.height, 0, 2), (plan.left, plan.width, 1, 3)):
        np.testing.assert_array_equal(start.min(axis=1), regions[:, near])
        np.testing.assert_array_equal((start + length).max(axis=1), regions[:, far])


@pytest.mark.parametrize("own_operators", [False, True])
def test_an_image_has_the_same_views_in_any_place_of_any_batch(
    own_operators: bool, images: dict[str, bytes]
) -> None:
    spec, batch = preset("hydes@32"), list(images.values())
    plan, backwards = plan_for(spec, batch, seed=6), list(range(len(batch)))[::-1]
    whole = dali_views(spec, batch, plan, own_operators=own_operators)
    turned = dali_views(
        spec, [batch[row] for row in backwards], plan.select(backwards), own_operators=own_operators
    )
    assert all(torch.equal(one.flip(0), two) for one, two in zip(whole, turned, strict=True))
