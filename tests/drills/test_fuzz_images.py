"""Mutated images of every format: each becomes a sample that decodes, or a refusal with a reason."""

import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from viewmill.shards.convert import ConvertReport, convert
from viewmill.shards.images import SIGNATURES, decode_rgb, format_of
from viewmill.shards.manifest import Dataset

from tests.drills.mutations import mutated
from tests.shards.pictures import encoded, exif_with_orientation, noise, picture, tree_hashes

BATCH = 250
# Not in a reason: addresses and objects, which differ by run, paths, which differ by machine, line breaks.
NOT_IN_A_REASON = re.compile(r"0x[0-9a-fA-F]{5}|<[a-zA-Z_.]+ object|[^\x20-\x7e]|(?<!\w)/\w+/|\.py\b")


@pytest.fixture(scope="module")
def seeds() -> list[bytes]:
    """Whole images: small ones of every format and kind of pixels, and scikit-image's photographs."""
    return made() + photographs()


def made() -> list[bytes]:
    colour, loud = picture(1, 40, 56), noise(2, 31, 45)
    grey = Image.fromarray(colour).convert("L")
    palette, alpha = Image.fromarray(colour).convert("P"), Image.fromarray(colour).convert("RGBA")
    alpha.putalpha(grey)
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    frames = {"save_all": True, "append_images": [Image.fromarray(picture(n, 40, 56)) for n in (3, 4)]}
    turned = exif_with_orientation(6)
    found = [
        encoded(colour, "JPEG"), encoded(loud, "JPEG", quality=95, subsampling=0), encoded(grey, "JPEG"),
        encoded(colour, "JPEG", progressive=True), encoded(colour, "JPEG", exif=turned),
        encoded(Image.fromarray(colour).convert("CMYK"), "JPEG"),
        encoded(colour, "JPEG", restart_marker_blocks=2),
        encoded(colour, "PNG"), encoded(grey, "PNG"), encoded(palette, "PNG"), encoded(alpha, "PNG"),
        encoded(deep, "PNG"), encoded(colour, "PNG", exif=turned), encoded(colour, "PNG", **frames),
        encoded(grey.convert("1"), "PNG"), encoded(palette, "PNG", transparency=3),
        encoded(colour, "WEBP"), encoded(loud, "WEBP", lossless=True), encoded(alpha, "WEBP"),
        encoded(colour, "WEBP", exif=turned), encoded(colour, "WEBP", **frames),
        encoded(palette, "GIF"), encoded(colour, "GIF", **frames),
        encoded(colour, "BMP"), encoded(palette, "BMP"), encoded(alpha, "BMP"),
        encoded(colour, "TIFF"), encoded(loud, "TIFF", compression="tiff_lzw"), encoded(deep, "TIFF"),
        encoded(colour, "TIFF", compression="jpeg"), encoded(grey.convert("1"), "TIFF", compression="group4"),
        encoded(colour, "TIFF", compression="tiff_adobe_deflate"),
        encoded(colour, "PPM"), encoded(grey, "PPM"), encoded(grey.convert("1"), "PPM"),
        b"P3 2 2 255 1 2 3 4 5 6 7 8 9 10 11 12\n", b"P2 2 2 255 1 2 3 4\n", b"P1 2 2 1 0 1 0\n",
        encoded(colour, "JPEG2000"), encoded(grey, "JPEG2000", no_jp2=True),
    ]  # fmt: skip
    assert {format_of(data[:16]) for data in found} == set(SIGNATURES)
    return found


def photographs() -> list[bytes]:
    """The bundled ones; the larger are cut down, which keeps a batch within its time."""
    skimage = pytest.importorskip("skimage", reason="scikit-image is not installed")
    paths = sorted((Path(skimage.__file__).parent / "data").iterdir())
    images = [path for path in paths if path.suffix in (".png", ".jpg", ".gif", ".tif")]
    assert len(images) >= 10
    return [smaller(path) if path.stat().st_size > 100_000 else path.read_bytes() for path in images]


def smaller(path: Path) -> bytes:
    with Image.open(path) as image:
        file_format = image.format
        assert file_format is not None
        image.thumbnail((200, 200))
        return encoded(image, file_format)


def batch(folder: Path, seeds: list[bytes], number: int) -> Path:
    folder.mkdir()
    for row in range(BATCH):
        rng = np.random.default_rng((11, number, row))
        data, other = seeds[rng.integers(len(seeds))], seeds[rng.integers(len(seeds))]
        (folder / f"{row:04d}").write_bytes(mutated(data, other, rng))
    return folder


def check(dataset: Path, report: ConvertReport) -> None:
    refused = pq.read_table(dataset / "quarantine.parquet").column("reason").to_pylist()
    assert report.inputs == BATCH == report.samples + report.quarantined
    assert len(refused) == report.quarantined
    assert [reason for reason in refused if NOT_IN_A_REASON.search(reason) or not reason] == []
    with Dataset.open(dataset) as opened:
        sizes = opened.sizes(range(opened.num_samples)).tolist()
        for sample in range(opened.num_samples):
            assert list(decode_rgb(opened.read([sample])[0]).shape[1::-1]) == sizes[sample]


def drill(folder: Path, seeds: list[bytes], number: int) -> None:
    # Two processes: a decoder that kills its process is an error here, not the end of the tests.
    source = batch(folder / "source", seeds, number)
    report = convert(source, folder / "dataset", check="decode", workers=2, shard_bytes=200_000)
    check(folder / "dataset", report)
    assert min(report.samples, report.quarantined) >= BATCH // 20, "the damage is too small, or too large"


@pytest.mark.slow
@pytest.mark.timeout(90)  # a batch takes about five seconds: more is an image that hangs
@pytest.mark.parametrize("number", range(2))
def test_mutated_images_are_samples_or_quarantined(tmp_path: Path, seeds: list[bytes], number: int) -> None:
    drill(tmp_path, seeds, number)


@pytest.mark.soak
@pytest.mark.timeout(90)  # of a batch, as above
@pytest.mark.parametrize("number", range(2, 22))
def test_many_mutated_images_are_samples_or_quarantined(
    tmp_path: Path, seeds: list[bytes], number: int
) -> None:
    drill(tmp_path, seeds, number)


@pytest.mark.slow
def test_mutated_images_give_the_same_bytes_in_another_process(tmp_path: Path, seeds: list[bytes]) -> None:
    source = batch(tmp_path / "source", seeds, 1)
    convert(source, tmp_path / "two", workers=2, shard_bytes=200_000)
    convert(source, tmp_path / "one", workers=1, shard_bytes=200_000)
    assert tree_hashes(tmp_path / "one") == tree_hashes(tmp_path / "two")
