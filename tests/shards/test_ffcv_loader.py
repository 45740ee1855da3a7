"""FFCV's own Loader reads our betons: the pixels and labels that the data set has."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from viewmill.shards.conversion.options import Options
from viewmill.shards.convert import convert_with
from viewmill.shards.images import decode_rgb
from viewmill.shards.info import read_info
from viewmill.shards.manifest import Dataset

from tests.after_ffcv import ffcvs_changes_undone
from tests.shards.pictures import SHARED_DATA, encoded, exif_with_orientation, noise, picture

pytestmark = [
    pytest.mark.slow,  # numba compiles for seconds when FFCV is imported, and for each pipeline
    # numba's own, when compiled functions go that share a type; nothing of theirs or ours is wrong
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <finalize:pytest.PytestUnraisableExceptionWarning"
    ),
]

# FFCV decodes JPEGs with the fast DCT, Pillow with the exact one: 1 of 255 in the mean, 2 at quality 100.
MEAN_TOLERANCE, LARGEST_TOLERANCE = 1.5, 16


@pytest.fixture(scope="module")
def decoders() -> Iterator[Any]:
    pytest.importorskip("ffcv", exc_type=ImportError, reason="FFCV is not installed")
    with ffcvs_changes_undone():
        import ffcv.fields.decoders

        yield ffcv.fields.decoders


def textured(seed: int, height: int, width: int) -> np.ndarray:
    """A picture with fine detail, which an error of decoding would not leave as it is."""
    mixed = picture(seed, height, width).astype(int) + noise(seed, height, width) // 8 - 16
    return np.clip(mixed, 0, 255).astype(np.uint8)


def write_source(folder: Path, height: int, width: int) -> Path:
    """JPEGs as cameras and tools write them, and what a beton stores raw."""
    rgb = [textured(seed, height, width) for seed in range(5)]
    grey = Image.fromarray(rgb[0]).convert("L")
    turned = np.ascontiguousarray(rgb[1].transpose(1, 0, 2))
    files = {
        "a/fine.jpg": encoded(rgb[0], "JPEG", quality=95, subsampling=0),
        "a/coarse.jpg": encoded(rgb[1], "JPEG", quality=60, subsampling=2),
        "a/narrow.jpg": encoded(rgb[2], "JPEG", subsampling="4:1:1"),
        "a/progressive.jpg": encoded(rgb[3], "JPEG", progressive=True),
        "a/as_rgb.jpg": encoded(rgb[4], "JPEG", keep_rgb=True),
        "b/restarts.jpg": encoded(rgb[2], "JPEG", restart_marker_blocks=2),
        "b/grey.jpg": encoded(grey, "JPEG"),
        "b/grey_progressive.jpg": encoded(grey, "JPEG", progressive=True),
        "b/upright.jpg": encoded(rgb[3], "JPEG", exif=exif_with_orientation(1)),
        "b/turned.jpg": encoded(turned, "JPEG", exif=exif_with_orientation(6)),
        "b/inks.jpg": encoded(Image.fromarray(rgb[4]).convert("CMYK"), "JPEG"),
        "c/lossless.png": encoded(rgb[0], "PNG"),
        "c/web.webp": encoded(rgb[1], "WEBP", lossless=True),
        "c/bitmap.bmp": encoded(rgb[2], "BMP"),
    }
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def loaded(shard: Path, decoder: Any, decoders: Any, os_cache: bool) -> Iterator[tuple[np.ndarray, int]]:
    """(picture, label) of every sample in the file's order."""
    from ffcv.loader import Loader, OrderOption

    pipelines = {"image": [decoder], "label": [decoders.IntDecoder()]}
    order = OrderOption.SEQUENTIAL
    loader = Loader(
        str(shard), batch_size=1, num_workers=1, order=order, os_cache=os_cache, pipelines=pipelines
    )
    for images, labels in loader:
        yield np.array(images[0]), int(labels[0, 0])


def compare(folder: Path, decoders: Any, os_cache: bool = True) -> dict[str, float]:
    """Mean difference of each sample from what the data set shows, by key; labels and sizes are equal."""
    differences = {}
    with Dataset.open(folder) as dataset:
        (shard,) = dataset.info.shards
        ids = range(dataset.num_samples)
        found = list(loaded(folder / shard.name, decoders.SimpleRGBImageDecoder(), decoders, os_cache))
        assert [label for _, label in found] == dataset.labels(ids).tolist()
        for key, stored, (theirs, _) in zip(dataset.keys(ids), dataset.read(ids), found, strict=True):
            difference = np.abs(decode_rgb(stored).astype(int) - theirs)
            assert difference.max() <= (0 if stored.startswith(b"P6") else LARGEST_TOLERANCE), key
            differences[key] = float(difference.mean())
    return differences


# Not all pairs: numba compiles a pipeline for each, which takes seconds.
@pytest.mark.parametrize(
    ("mode", "height", "width"),
    [("mixed", 32, 32), ("mixed", 375, 500), ("jpeg", 32, 32), ("raw", 375, 500)],
)
def test_pixels_and_labels_are_those_of_the_data_set(
    tmp_path: Path, decoders: Any, mode: str, height: int, width: int
) -> None:
    source = write_source(tmp_path / "in", height, width)
    convert_with(source, tmp_path / "out", Options(format="ffcv", beton_images=mode))
    differences = compare(tmp_path / "out", decoders)
    assert len(differences) == 14
    assert max(differences.values()) < MEAN_TOLERANCE
    raw = {"b/turned", "b/inks", "c/lossless", "c/web", "c/bitmap"} if mode == "mixed" else set(differences)
    assert mode == "jpeg" or {key for key, mean in differences.items() if mean == 0} >= raw


def test_its_cache_of_pages_finds_images_on_larger_pages(tmp_path: Path, decoders: Any) -> None:
    """Raw images of 9 MB make the pages 16 MiB; JPEGs of the same size lie between them."""
    (tmp_path / "in").mkdir()
    for number in range(6):
        data = encoded(picture(number, 1500, 2000), "JPEG" if number % 2 else "PNG")
        (tmp_path / "in" / f"{number}.img").write_bytes(data)
    convert_with(tmp_path / "in", tmp_path / "out", Options(format="ffcv", shard_bytes=1 << 40))
    differences = compare(tmp_path / "out", decoders, os_cache=False)
    assert [differences[str(number)] == 0 for number in (0, 2, 4)] == [True] * 3
    assert max(differences.values()) < MEAN_TOLERANCE


def test_the_example_of_the_guide_trains(
    tmp_path: Path, decoders: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert_with(write_source(tmp_path / "in", 300, 400), tmp_path / "dataset", Options(format="ffcv"))
    guide = (Path(__file__).resolve().parents[2] / "shards" / "README.md").read_text()
    (example,) = (block for block in re.findall(r"```python\n(.*?)```", guide, re.DOTALL) if "ffcv" in block)
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(example.replace("batch_size=64", "batch_size=14"), found)  # noqa: S102 - our own guide
    assert (found["images"].shape, found["images"].dtype) == ((14, 3, 224, 224), torch.uint8)
    assert sorted(found["labels"].tolist()) == [0] * 5 + [1] * 6 + [2] * 3


@pytest.mark.skipif(not (SHARED_DATA / "odd_images.tar").is_file(), reason="the shared data are not here")
@pytest.mark.parametrize("source", ["odd_images.tar", "imagenet_sample.tar"])
def test_every_jpeg_that_is_kept_is_one_that_ffcv_decodes(tmp_path: Path, decoders: Any, source: str) -> None:
    """Sizes differ, so the largest square of each is compared, as FFCV's own resize shows it."""
    found = {}
    for mode in ("mixed", "raw"):
        options = Options(format="ffcv", beton_images=mode, shard_bytes=1 << 40)
        convert_with(SHARED_DATA / source, tmp_path / mode, options)
        (shard,) = read_info(tmp_path / mode).shards
        square = decoders.CenterCropRGBImageDecoder((32, 32), 1)
        found[mode] = list(loaded(tmp_path / mode / shard.name, square, decoders, os_cache=True))
    for (mixed, label), (raw, same) in zip(found["mixed"], found["raw"], strict=True):
        assert label == same
        assert np.abs(mixed.astype(int) - raw).mean() < MEAN_TOLERANCE
