"""The resident executor: the views of the reference, from pictures that were decoded once."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from viewmill.pipelines.executors.host.decoding import Decoder
from viewmill.pipelines.executors.reference import ReferenceExecutor, blur
from viewmill.pipelines.executors.resident.executor import ResidentExecutor, groups_of, torch_device
from viewmill.pipelines.executors.resident.filters import blur_matrix, reflected
from viewmill.pipelines.executors.view_format import ViewFormat
from viewmill.pipelines.loader import Loader
from viewmill.pipelines.passes import read_once
from viewmill.pipelines.plans.planner import ViewPlanner
from viewmill.pipelines.plans.spec import ViewSpec
from viewmill.pipelines.views import ViewPlan, preset
from viewmill.shards.convert import convert
from viewmill.shards.errors import ImageError, ShardError
from viewmill.shards.images import decode_rgb
from viewmill.shards.manifest import Dataset

from tests.pipelines.damage import assert_same_epoch, damaged, epoch_of
from tests.pipelines.photographs import changed, on_255, photographs, plain_spec, write_dataset

# Mean absolute difference from the reference, of 255: both compute in float32, in another order of summation.
# What is published is 0.1, for a GPU that multiplies matrices in TF32.
TOLERANCE = 0.001
NUM_SAMPLES = 24
TINY = preset("hydes@16")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dataset]:
    """Photographs of many sizes, formats and orientations."""
    folder = tmp_path_factory.mktemp("photos")
    for name, image in list(photographs().items())[2:]:
        path = folder / "in" / f"{Path(name).stem} {Path(name).suffix[1:]}.img"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(image)
    convert(folder / "in", folder / "out", workers=1)
    with Dataset.open(folder / "out") as dataset:
        yield dataset


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("whole"), NUM_SAMPLES)


def plan_of(dataset: Dataset, spec: ViewSpec) -> ViewPlan:
    ids = np.arange(dataset.num_samples)
    return ViewPlanner(spec, 0).draw(0, ids, dataset.sizes(ids))


def both(dataset: Dataset, spec: ViewSpec, plan: ViewPlan, **options: Any) -> list[list[torch.Tensor]]:
    """The views of all samples, resident and reference."""
    ids = np.arange(dataset.num_samples)
    executor = ResidentExecutor(dataset, spec, max_batch=len(ids), num_threads=2, **options)
    reference = ReferenceExecutor(spec, max_batch=len(ids), num_threads=2, **options)
    return [executor.run(executor.fetch(ids), plan), reference.run(dataset.read(ids), plan)]


def difference(dataset: Dataset, spec: ViewSpec, plan: ViewPlan) -> float:
    """The largest mean over a view of all samples, of 255."""
    pairs = zip(*both(dataset, spec, plan), strict=True)
    return max(float((on_255(a, spec) - on_255(b, spec)).abs().mean()) for a, b in pairs)


@pytest.mark.parametrize("name", ["hydes@64", "imsvd@64", "simclr@64", "eval@64"])
def test_every_preset_has_the_pixels_of_the_reference(photos: Dataset, name: str) -> None:
    assert difference(photos, preset(name), plan_of(photos, preset(name))) < TOLERANCE


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [1, 7, 300])
def test_crop_and_resize_alone(photos: Dataset, interpolation: str, size: int) -> None:
    spec = plain_spec(size, interpolation)
    assert difference(photos, spec, plan_of(photos, spec)) < TOLERANCE


@pytest.mark.parametrize(
    "values",
    [
        {"brightness": 1.4},
        {"contrast": 1.8},
        {"saturation": 0.0},
        {"hue": -72.0},
        {"brightness": 0.6, "contrast": 1.4, "saturation": 1.2, "hue": 36.0},
        {"sigma": 0.1},
        {"sigma": 2.0},
        {"solarize": True},
        {"flip": True, "sigma": 1.0, "solarize": True, "contrast": 0.7},
    ],
    ids=lambda values: " ".join(f"{name}={value}" for name, value in values.items()),
)
def test_one_operator_alone(photos: Dataset, values: dict[str, float]) -> None:
    spec = plain_spec(48)
    assert difference(photos, spec, changed(plan_of(photos, spec), **values)) < TOLERANCE


def test_rows_that_are_blurred_or_solarized_stand_among_rows_that_are_not(photos: Dataset) -> None:
    spec = plain_spec(48)
    plan = plan_of(photos, spec)
    rows = np.arange(len(plan))[:, None]
    sigma = np.where(rows % 3 == 0, 0.3 + 0.1 * rows, 0).astype(np.float32)
    assert difference(photos, spec, replace(plan, sigma=sigma, solarize=rows % 2 == 0)) < TOLERANCE


@pytest.mark.parametrize(("size", "sigma"), [(1, 1.0), (2, 0.5), (5, 3.0), (8, 0.2), (16, 2.0)])
def test_a_blur_wider_than_the_view_reflects_as_often_as_it_must(size: int, sigma: float) -> None:
    pixels = np.random.default_rng(0).random((size, size, 3), np.float32) * 255
    radius = int(np.ceil(3 * sigma)) + 1  # one more than needed: another row's, which must change nothing
    weights = blur_matrix(torch.tensor([sigma]), radius, size)[0]
    border = reflected(size, radius, torch.device("cpu"))
    planes = torch.from_numpy(pixels).permute(2, 0, 1)
    ours = (weights @ planes[:, border])[:, :, border] @ weights.T
    np.testing.assert_allclose(ours.permute(1, 2, 0), blur(pixels, sigma), atol=1e-3)


@pytest.mark.parametrize("dtype", ["uint8", "float16", "bfloat16"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_every_view_format_is_that_of_the_reference(photos: Dataset, dtype: str, channels_last: bool) -> None:
    spec = preset("hydes@32")
    form = ViewFormat(dtype, channels_last)
    ours, theirs = both(photos, spec, plan_of(photos, spec), view_format=form)
    for our, their in zip(ours, theirs, strict=True):
        assert our.dtype == form.torch_dtype
        assert our.is_contiguous(memory_format=form.memory_format)
        # The last digit of the dtype, where a value lies between two.
        assert (our.float() - their.float()).abs().max() <= (1 if dtype == "uint8" else 0.02)
        assert (our.float() - their.float()).abs().mean() <= 0.001


def test_a_row_is_the_same_whatever_stands_beside_it(photos: Dataset) -> None:
    spec = preset("hydes@32")
    plan, ids = plan_of(photos, spec), np.arange(photos.num_samples)
    executor = ResidentExecutor(photos, spec, max_batch=len(ids), num_threads=1)
    together = executor.run(executor.fetch(ids), plan)
    for row in (0, 5, len(ids) - 1):
        alone = executor.run(executor.fetch(ids[[row]]), plan.select([row]))
        for one, many in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], many[row], rtol=0, atol=1e-4)


def test_every_image_is_read_and_decoded_once(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []

    def counted(self: Decoder, image: bytes) -> np.ndarray:
        decoded.append(len(image))
        return decode_rgb(image)

    monkeypatch.setattr(Decoder, "decode", counted)
    with Dataset.open(whole) as dataset, Loader(dataset, TINY, 8, executor="resident") as loader:
        for _ in range(3):
            assert len(list(loader)) == 3
        assert sorted(decoded) == sorted(dataset.manifest["size"].tolist())


def test_what_is_kept_is_what_the_pictures_have_and_a_smaller_bound_is_refused_before_reading(
    photos: Dataset,
) -> None:
    sizes = photos.sizes(range(photos.num_samples))
    needed = int(3 * (sizes[:, 0] * sizes[:, 1]).sum())
    executor = ResidentExecutor(photos, TINY, max_batch=4, num_threads=1, max_bytes=needed)
    assert executor._open().num_bytes == needed
    with pytest.raises(ValueError, match=f"{needed} bytes when decoded, .*may keep {needed - 1} on 'cpu'.*"):
        Loader(photos, TINY, 4, executor="resident", resident_bytes=needed - 1)


def test_progress_is_told(whole: Path, caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    monkeypatch.setattr("viewmill.pipelines.executors.resident.store._TOLD_EVERY_S", -1.0)
    with Dataset.open(whole) as dataset, caplog.at_level(logging.INFO, logger="viewmill"):
        ResidentExecutor(dataset, TINY, max_batch=4, num_threads=2)
    assert "24 of 24 images decoded" in caplog.text
    assert "0 are bad" in caplog.text


@given(
    flipped=st.sets(st.integers(0, NUM_SAMPLES - 1), max_size=12),
    cut=st.sets(st.integers(0, NUM_SAMPLES - 1), max_size=12),
    seed=st.integers(0, 100),
)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bad_samples_have_the_substitutes_of_the_reference_in_the_same_order(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, flipped: set[int], cut: set[int], seed: int
) -> None:
    path = damaged(whole, tmp_path_factory.mktemp("damaged") / "dataset", flipped, cut)
    options = {"seed": seed, "max_substitutes": 16}
    ours, theirs = (epoch_of(path, TINY, name, **options) for name in ("resident", "reference"))
    assert ours[1:] == theirs[1:]  # with the same reasons
    assert_same_epoch(ours[0], theirs[0], 1e-4)


def test_a_pass_that_must_be_exact_names_the_bad_sample(whole: Path, tmp_path: Path) -> None:
    for number, kinds in enumerate([({3}, set()), (set(), {3})]):
        path = damaged(whole, tmp_path / str(number), *kinds)
        with Dataset.open(path) as dataset:
            key = dataset.keys([3])[0]
            with pytest.raises((ShardError, ImageError), match=f"sample '{key}'"):
                list(read_once(dataset, TINY, 8, executor="resident"))


def test_images_of_one_group_are_at_most_half_padding() -> None:
    sizes = np.random.default_rng(0).integers(1, 3000, (300, 2))
    groups = groups_of(sizes)
    assert sorted(np.concatenate(groups).tolist()) == list(range(300))
    for rows in groups:
        assert (sizes[rows].max(axis=0).prod() <= 2 * sizes[rows].prod(axis=1) + 1).all()
    assert len(groups_of(np.full((64, 2), 32))) == 1
    few = groups_of(np.full((64, 2), 32), most_pixels=10 * 32 * 32)
    assert [len(rows) for rows in few] == [10] * 6 + [4]
    assert [len(rows) for rows in groups_of(np.full((2, 2), 32), most_pixels=1)] == [1, 1]


def test_a_box_outside_its_image_and_a_closed_executor_are_refused(whole: Path) -> None:
    with Dataset.open(whole) as dataset:
        executor = ResidentExecutor(dataset, TINY, max_batch=4, num_threads=1)
        plan = plan_of(dataset, TINY).select(range(4))
        ids = executor.fetch(np.arange(4))
        with pytest.raises(ValueError, match="leaves the image"):
            executor.run(ids, changed(plan, left=1000))
        with pytest.raises(ValueError, match="4 images but a plan of 3 rows"):
            executor.run(ids, plan.select(range(3)))
        executor.close()
        with pytest.raises(RuntimeError, match="closed"):
            executor.run(ids, plan)


def test_a_device_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="unknown device 'tpu'"):
        torch_device("tpu")
    with pytest.raises(ValueError, match="unknown device 'cuda:x'"):
        torch_device("cuda:x")
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="no GPU"):
            torch_device("cuda")
