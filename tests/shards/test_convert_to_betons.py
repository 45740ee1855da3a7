"""`convert --format ffcv`: the same data set in FFCV's container, whole, resumable, and convertible again."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import xxhash
from viewmill.shards.containers.beton import walk
from viewmill.shards.conversion import journal
from viewmill.shards.conversion.options import Options
from viewmill.shards.conversion.parts import Part
from viewmill.shards.conversion.splits import parse_splits
from viewmill.shards.conversion.stored import to_store
from viewmill.shards.convert import ConvertReport, convert_part, convert_splits, convert_with
from viewmill.shards.errors import ImageError, ShardError
from viewmill.shards.images import decode_rgb
from viewmill.shards.info import read_info
from viewmill.shards.manifest import Dataset
from viewmill.shards.raw import rgb_form
from viewmill.shards.sources.inputs import ENCODED
from viewmill.shards.sources.reading import Read
from viewmill.shards.verify import verify

from tests.drills.test_bit_flips import flip
from tests.shards.pictures import (
    SHARED_DATA,
    encoded,
    exif_with_orientation,
    noise,
    picture,
    tree_hashes,
    write_tree,
)
from tests.shards.restating import describe_again
from tests.shards.test_jpeg_header import photoshop, resource

MODES = ("mixed", "jpeg", "raw")


def to_betons(source: Path, dataset: Path, images: str = "mixed", **options: Any) -> ConvertReport:
    workers = options.pop("workers", 1)
    return convert_with(
        source, dataset, Options(format="ffcv", beton_images=images, **options), workers=workers
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of JPEGs with a BMP and refused files, and beside them all that a beton stores otherwise."""
    folder = write_tree(tmp_path_factory.mktemp("betons") / "in")
    rgb = picture(50, 30, 41)
    grey = decode_rgb(encoded(rgb, "PNG"))[:, :, 0]
    files = {
        "grey.jpg": encoded(grey, "JPEG"),
        "progressive.jpg": encoded(rgb, "JPEG", progressive=True),
        "photoshop.jpg": photoshop(resource(0x0404, b"caption")),
        "turned.jpg": encoded(rgb, "JPEG", exif=exif_with_orientation(6)),
        "kept.png": encoded(rgb, "PNG"),
        "lossless.webp": encoded(rgb, "WEBP", lossless=True),
    }
    (folder / "odd").mkdir()
    for name, data in files.items():
        (folder / "odd" / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def tars(source: Path) -> Path:
    convert_with(source, source.parent / "tars", Options())
    return source.parent / "tars"


@pytest.fixture(scope="module")
def betons(source: Path) -> Path:
    to_betons(source, source.parent / "betons")
    return source.parent / "betons"


def columns(dataset: Path, *names: str) -> dict[str, tuple[Any, ...]]:
    """These columns of the manifest by key."""
    rows = pq.read_table(dataset / "manifest.parquet").to_pylist()
    return {row["key"]: tuple(row[name] for name in names) for row in rows}


def images(dataset: Path) -> dict[str, bytes]:
    with Dataset.open(dataset) as opened:
        ids = range(opened.num_samples)
        return dict(zip(opened.keys(ids), opened.read(ids), strict=True))


@pytest.mark.parametrize("mode", MODES)
def test_a_tar_and_a_beton_data_set_have_one_hash(
    source: Path, tars: Path, tmp_path: Path, mode: str
) -> None:
    report = to_betons(source, tmp_path / "out", mode)
    info = read_info(tars)
    assert (report.data_set_hash, report.samples) == (info.data_set_hash, info.num_samples)
    assert pq.read_table(tmp_path / "out" / "quarantine.parquet").equals(
        pq.read_table(tars / "quarantine.parquet")
    )
    assert verify(tmp_path / "out", decode=True) == []


def test_upright_jpegs_keep_their_bytes_and_the_rest_is_raw(source: Path, betons: Path) -> None:
    found = columns(betons, "ext", "transcoded")
    raw = {"class_0/extra", "odd/turned", "odd/kept", "odd/lossless"}
    assert {key for key, what in found.items() if what == ("raw", True)} == raw
    assert {what for key, what in found.items() if key not in raw} == {("jpg", False)}
    stored = images(betons)
    assert all(stored[key] == (source / f"{key}.jpg").read_bytes() for key in found if key not in raw)


def test_mixed_and_raw_lose_nothing(source: Path, tars: Path, betons: Path, tmp_path: Path) -> None:
    to_betons(source, tmp_path / "raw", "raw")
    expected, mixed, raw = images(tars), images(betons), images(tmp_path / "raw")
    for key, data in expected.items():
        assert np.array_equal(decode_rgb(mixed[key]), decode_rgb(data)), key
        assert np.array_equal(decode_rgb(raw[key]), decode_rgb(data)), key
    assert set(columns(tmp_path / "raw", "ext", "transcoded").values()) == {("raw", True)}


def test_what_is_no_jpeg_becomes_one_of_the_quality(source: Path, tars: Path, tmp_path: Path) -> None:
    sizes = {}
    for quality in (30, 95):
        out = tmp_path / f"jpeg_{quality}"
        to_betons(source, out, "jpeg", quality=quality)
        found = columns(out, "ext", "transcoded", "size")
        assert {ext for ext, _, _ in found.values()} == {"jpg"}
        assert [found[key][1] for key in ("odd/kept", "odd/grey")] == [True, False]
        sizes[quality] = found["odd/kept"][2]
    assert sizes[30] < sizes[95]
    difference = decode_rgb(images(out)["odd/kept"]).astype(int) - decode_rgb(images(tars)["odd/kept"])
    assert np.abs(difference).mean() < 3


def test_the_manifest_points_at_the_images_in_the_betons(betons: Path) -> None:
    with Dataset.open(betons) as dataset, (betons / dataset.info.shards[0].name).open("rb") as file:
        found = walk(file, "shard")
        for name in ("offset", "size", "width", "height", "label"):
            assert found[name].tolist() == dataset.manifest[name].tolist()
        assert [shard.name for shard in dataset.info.shards] == ["train-000000.beton"]
        assert (dataset.kind, dataset.info.options["beton_images"]) == ("ffcv", "mixed")
    names = {"dataset.json", "manifest.bin", "manifest.parquet", "quarantine.parquet", "train-000000.beton"}
    assert {path.name for path in betons.iterdir()} == names


def test_workers_do_not_change_a_byte(source: Path, tmp_path: Path) -> None:
    for workers in (1, 2):
        to_betons(source, tmp_path / f"of_{workers}", shard_bytes=20_000, workers=workers)
    assert tree_hashes(tmp_path / "of_1") == tree_hashes(tmp_path / "of_2")
    assert len(list((tmp_path / "of_1").glob("*.beton"))) > 1


def test_parts_make_what_one_command_makes(source: Path, tmp_path: Path) -> None:
    options = Options(format="ffcv", shard_bytes=20_000)
    for index in (1, 0):
        convert_part(source, tmp_path / "parts", options, Part(index, 2))
    convert_with(source, tmp_path / "parts", options, merge=True)
    convert_with(source, tmp_path / "whole", options)
    assert tree_hashes(tmp_path / "parts") == tree_hashes(tmp_path / "whole")


def test_splits_share_the_samples(source: Path, betons: Path, tmp_path: Path) -> None:
    options = Options(format="ffcv")
    reports = convert_splits(source, tmp_path / "out", options, parse_splits("train=0.6,val=0.4"))
    parts = [images(report.dataset) for report in reports]
    assert parts[0] | parts[1] == images(betons)
    assert not set(parts[0]) & set(parts[1])


def test_a_conversion_goes_on_where_it_stopped(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, options = tmp_path / "out", {"shard_bytes": 20_000}
    to_betons(source, tmp_path / "whole", **options)
    convert_part(source, out, Options(format="ffcv", **options), Part(0, 2))
    before = {path.name: path.stat().st_mtime_ns for path in (out / journal.FOLDER).glob("*.beton")}
    (out / journal.FOLDER / sorted(before)[0]).write_bytes(b"damaged")  # written again, for its hash is wrong
    to_betons(source, out, **options)
    assert tree_hashes(out) == tree_hashes(tmp_path / "whole")


def test_another_format_is_another_plan(source: Path, tmp_path: Path) -> None:
    convert_part(source, tmp_path / "out", Options(format="ffcv"), Part(0, 1))
    with pytest.raises(ValueError, match="format was ffcv, is webdataset"):
        convert_with(source, tmp_path / "out", Options())


@pytest.mark.parametrize("mode", MODES)
def test_betons_become_tars_and_betons_again(
    source: Path, tars: Path, betons: Path, tmp_path: Path, mode: str
) -> None:
    to_betons(source, tmp_path / "first", mode, quality=95)
    convert_with(tmp_path / "first", tmp_path / "tars", Options())
    report = to_betons(tmp_path / "tars", tmp_path / "second", mode, quality=95)
    assert report.data_set_hash == read_info(tars).data_set_hash
    first, between, second = (images(tmp_path / name) for name in ("first", "tars", "second"))
    assert first == second
    for key, data in first.items():
        assert (between[key] == data) == data.startswith(b"\xff\xd8"), "a JPEG stays, raw pixels become PNG"
        assert np.array_equal(decode_rgb(between[key]), decode_rgb(data))


def test_betons_of_betons_are_copies(betons: Path, tmp_path: Path) -> None:
    to_betons(betons, tmp_path / "again", shuffle_seed=3)
    assert images(tmp_path / "again") == images(betons)
    assert not any(transcoded for (transcoded,) in columns(tmp_path / "again", "transcoded").values())


def test_a_flipped_bit_of_a_source_beton_is_quarantined(betons: Path, tmp_path: Path) -> None:
    shutil.copytree(betons, tmp_path / "damaged")
    offset = columns(betons, "offset")["odd/kept"][0]
    flip(tmp_path / "damaged" / "train-000000.beton", 8 * offset)
    report = to_betons(tmp_path / "damaged", tmp_path / "out")
    assert report.reasons == {"damaged": 1}
    assert "odd/kept" not in columns(tmp_path / "out")


def test_verify_names_the_shard_whose_tables_are_another_s(betons: Path, tmp_path: Path) -> None:
    """The label of a sample forged in the beton, and dataset.json made to agree."""
    shutil.copytree(betons, tmp_path / "forged")
    flip(tmp_path / "forged" / "train-000000.beton", 8 * (2106 + 16))
    describe_again(tmp_path / "forged", "train-000000.beton")
    (fault,) = verify(tmp_path / "forged")
    assert "its samples are not those of manifest.parquet" in str(fault)


def test_a_stray_beton_is_named(betons: Path, tmp_path: Path) -> None:
    shutil.copytree(betons, tmp_path / "copy")
    shutil.copy(betons / "train-000000.beton", tmp_path / "copy" / "train-000001.beton")
    assert [fault.file for fault in verify(tmp_path / "copy")] == ["train-000001.beton"]


def test_a_manifest_with_another_width_gives_no_pixels(betons: Path, tmp_path: Path) -> None:
    shutil.copytree(betons, tmp_path / "copy")
    with Dataset.open(betons) as dataset:
        sample = next(i for i in range(dataset.num_samples) if dataset.keys([i]) == ["odd/kept"])
    flip(tmp_path / "copy" / "manifest.bin", 8 * (36 * sample + 20))  # the lowest bit of its width
    describe_again(tmp_path / "copy", "manifest.bin")
    with Dataset.open(tmp_path / "copy") as dataset, pytest.raises(ShardError, match="neither a JPEG nor"):
        dataset.read([sample])


def as_read(data: bytes) -> Read:
    return Read(memoryview(data), xxhash.xxh64_intdigest(data))


def test_a_jpeg_of_the_size_of_its_pixels_is_stored_as_pixels() -> None:
    width, height = 40, 30
    jpeg = encoded(picture(3, height, width), "JPEG", quality=20)
    filler = 3 * width * height - len(jpeg) - 4
    padded = jpeg[:2] + b"\xff\xfe" + (filler + 2).to_bytes(2, "big") + bytes(filler) + jpeg[2:]
    for mode in MODES:
        stored = to_store(as_read(padded), ENCODED, Options(format="ffcv", beton_images=mode))
        if mode == "jpeg":  # encoded again, to another size
            assert (stored.ext, len(stored.data) == len(padded)) == ("jpg", False)
        else:
            assert (stored.ext, stored.data) == ("raw", decode_rgb(padded).tobytes())


def test_pixels_that_spell_a_jpeg_are_refused() -> None:
    jpeg = encoded(picture(3, 30, 40), "JPEG")
    pixels = jpeg + bytes(-len(jpeg) % 3)
    for form, data in (
        (rgb_form(len(pixels) // 3, 1), pixels),
        (ENCODED, b"P6\n%d 1\n255\n" % (len(pixels) // 3) + pixels),
    ):
        with pytest.raises(ImageError, match="unusual pixels: they spell a JPEG file"):
            to_store(as_read(data), form, Options(format="ffcv"))


def test_an_image_too_wide_for_the_container_is_refused_with_the_limit() -> None:
    wide = encoded(np.zeros((1, 65_536, 3), np.uint8), "PNG")
    assert to_store(as_read(wide), ENCODED, Options()).ext == "png"
    for mode, limit in (("mixed", 65_535), ("jpeg", 65_500)):
        with pytest.raises(ImageError, match=f"too large: 65536x1, the sides .* end at {limit}"):
            to_store(as_read(wide), ENCODED, Options(format="ffcv", beton_images=mode))


def test_smaller_copies_of_jpegs_are_jpegs_and_of_the_rest_raw(source: Path, tmp_path: Path) -> None:
    to_betons(source, tmp_path / "out", resize="max=20")
    found = columns(tmp_path / "out", "ext", "width", "height")
    assert found["odd/turned"] == ("jpg", 15, 20)
    assert found["odd/kept"] == ("raw", 20, 15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "tar"}, "the format is one of webdataset, ffcv, got 'tar'"),
        ({"format": "ffcv", "beton_images": "png"}, "images in a beton are mixed, jpeg, raw, got 'png'"),
        ({"beton_images": "raw"}, "'raw' images are for the format ffcv, got 'webdataset'"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Options(**options)  # type: ignore[arg-type]


def test_cifar_s_records_become_raw_pixels(tmp_path: Path) -> None:
    records = [bytes([n % 10]) + noise(n, 32, 32).transpose(2, 0, 1).tobytes() for n in range(5)]
    (tmp_path / "test_batch.bin").write_bytes(b"".join(records))
    to_betons(tmp_path / "test_batch.bin", tmp_path / "out")
    assert set(columns(tmp_path / "out", "ext", "size").values()) == {("raw", 3072)}
    assert np.array_equal(decode_rgb(images(tmp_path / "out")["test_batch/000003"]), noise(3, 32, 32))


@pytest.mark.slow  # 23 megapixels, decoded and encoded
def test_pixels_of_over_64_mb_are_stored_read_and_converted(tmp_path: Path) -> None:
    rgb = np.zeros((4800, 4800, 3), np.uint8)
    rgb[::97] = 200
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "large.png").write_bytes(encoded(rgb, "PNG"))
    to_betons(tmp_path / "in", tmp_path / "out")
    assert np.array_equal(decode_rgb(images(tmp_path / "out")["large"]), rgb)
    assert verify(tmp_path / "out", decode=True) == []
    convert_with(tmp_path / "out", tmp_path / "tars", Options())
    assert np.array_equal(decode_rgb(images(tmp_path / "tars")["large"]), rgb)


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED_DATA / "odd_images.tar").is_file(), reason="the shared data are not here")
@pytest.mark.parametrize("mode", ["mixed", "raw"])
def test_odd_images_show_what_they_show_from_a_tar(tmp_path: Path, mode: str) -> None:
    source = SHARED_DATA / "odd_images.tar"
    report = to_betons(source, tmp_path / "betons", mode)
    tars = convert_with(source, tmp_path / "tars", Options())
    assert (report.data_set_hash, report.reasons) == (tars.data_set_hash, tars.reasons)
    expected = images(tmp_path / "tars")
    for key, data in images(tmp_path / "betons").items():
        assert np.array_equal(decode_rgb(data), decode_rgb(expected[key])), key
