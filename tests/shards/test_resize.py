"""Images made smaller at conversion: only larger ones, by which side, as which format."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from viewmill.shards.conversion.options import Options
from viewmill.shards.conversion.resize import Resize
from viewmill.shards.convert import convert
from viewmill.shards.images import decode_rgb, probe
from viewmill.shards.manifest import Dataset

from tests.shards.pictures import encoded, exif_with_orientation, picture


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    turned = exif_with_orientation(6)
    images = {
        "large.jpg": encoded(picture(0, 60, 90), "JPEG"),
        "small.jpg": encoded(picture(1, 20, 25), "JPEG"),
        "turned.jpg": encoded(picture(2, 40, 80), "JPEG", exif=turned),
        "tall.png": encoded(picture(3, 90, 30), "PNG"),
    }
    for name, data in images.items():
        (tmp_path / "in" / name).write_bytes(data)
    return tmp_path / "in"


def converted(source: Path, resize: str | None, quality: int = 90) -> dict[str, bytes]:
    out = source.parent / f"out_{resize}_{quality}"
    convert(source, out, resize=resize, quality=quality)
    with Dataset.open(out) as dataset:
        ids = range(dataset.num_samples)
        for i, size in zip(ids, dataset.sizes(ids).tolist(), strict=True):
            info = probe(dataset.read([i])[0])
            assert [info.width, info.height] == size
        return {dataset.keys([i])[0]: dataset.read([i])[0] for i in ids}


@pytest.mark.parametrize(
    ("resize", "sizes"),
    [
        ("short=30", {"large": (45, 30), "small": (25, 20), "turned": (30, 60), "tall": (30, 90)}),
        ("max=45", {"large": (45, 30), "small": (25, 20), "turned": (22, 45), "tall": (15, 45)}),
    ],
)
def test_sizes_by_the_short_or_the_longer_side(
    source: Path, resize: str, sizes: dict[str, tuple[int, int]]
) -> None:
    found = converted(source, resize)
    infos = {key: probe(data) for key, data in found.items()}
    assert {key: (info.width, info.height) for key, info in infos.items()} == sizes


def test_what_is_small_enough_keeps_its_bytes(source: Path) -> None:
    found, kept = converted(source, "max=45"), converted(source, None)
    assert found["small"] == kept["small"]
    assert all(found[key] != kept[key] for key in ("large", "turned", "tall"))


def test_jpegs_stay_jpegs_and_the_rest_stays_lossless(source: Path) -> None:
    found = converted(source, "max=45")
    assert {key: probe(data).format for key, data in found.items()} == {
        "large": "JPEG",
        "small": "JPEG",
        "turned": "JPEG",
        "tall": "PNG",
    }
    full = Image.fromarray(decode_rgb((source / "tall.png").read_bytes()))
    assert np.array_equal(decode_rgb(found["tall"]), full.resize((15, 45), Image.Resampling.HAMMING))


def test_a_turned_image_is_stored_upright_without_its_exif(source: Path) -> None:
    data = converted(source, "max=45", 95)["turned"]
    assert probe(data).orientation == 1
    full = Image.fromarray(decode_rgb((source / "turned.jpg").read_bytes()))
    expected = np.asarray(full.resize((22, 45), Image.Resampling.HAMMING)).astype(int)
    assert np.abs(decode_rgb(data) - expected).mean() < 3


def test_quality_decides_on_the_bytes(source: Path) -> None:
    assert len(converted(source, "max=45", 30)["large"]) < len(converted(source, "max=45", 95)["large"])


@pytest.mark.parametrize(("text", "quality"), [("short=0", 90), ("500", 90), ("min=3", 90), ("max=10", 0)])
def test_what_is_no_size_is_refused(text: str, quality: int) -> None:
    with pytest.raises(ValueError, match="got"):
        Options(resize=text, quality=quality)


def test_one_pixel_remains_of_a_thin_picture() -> None:
    resize = Resize("max", 10)
    assert resize.apply(Image.fromarray(picture(0, 2000, 3))).shape == (10, 1, 3)
