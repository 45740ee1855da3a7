"""The table of images: what is kept, and the RGB of everything."""

import csv
import io
import tarfile
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from viewmill.shards.errors import ImageError
from viewmill.shards.images import MAX_BYTES, check_decodes, decode_picture, decode_rgb, encode_png, probe

from tests.shards.pictures import SHARED_DATA, encoded, exif_with_orientation, noise, picture

RGB = picture()
GREY = Image.fromarray(RGB).convert("L")
RGBA = Image.fromarray(np.dstack([RGB, np.arange(192, dtype=np.uint8).reshape(12, 16)]))
PALETTE = Image.fromarray(RGB).quantize(16)

GREY16 = Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257)
OTHER = [Image.fromarray(noise(1, 12, 16))]

# name -> (bytes, format, kept, extension)
TABLE = {
    "colour JPEG": (encoded(RGB, "JPEG"), "JPEG", True, "jpg"),
    "progressive JPEG": (encoded(RGB, "JPEG", progressive=True), "JPEG", True, "jpg"),
    "grey JPEG": (encoded(GREY, "JPEG"), "JPEG", True, "jpg"),
    "turned JPEG": (encoded(RGB, "JPEG", exif=exif_with_orientation(6)), "JPEG", True, "jpg"),
    "CMYK JPEG": (encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG"), "JPEG", False, "png"),
    "colour PNG": (encoded(RGB, "PNG"), "PNG", True, "png"),
    "grey PNG": (encoded(GREY, "PNG"), "PNG", True, "png"),
    "alpha PNG": (encoded(RGBA, "PNG"), "PNG", False, "png"),
    "palette PNG": (encoded(PALETTE, "PNG"), "PNG", False, "png"),
    "bilevel PNG": (encoded(GREY.convert("1"), "PNG"), "PNG", False, "png"),
    "16-bit PNG": (
        encoded(GREY16, "PNG"),
        "PNG",
        False,
        "png",
    ),
    "colour key PNG": (encoded(RGB, "PNG", transparency=tuple(RGB[0, 0].tolist())), "PNG", False, "png"),
    "animated PNG": (encoded(RGB, "PNG", save_all=True, append_images=OTHER), "PNG", False, "png"),
    "turned PNG": (encoded(RGB, "PNG", exif=exif_with_orientation(6)), "PNG", False, "png"),
    "lossy WebP": (encoded(RGB, "WEBP"), "WEBP", True, "webp"),
    "alpha WebP": (encoded(RGBA, "WEBP"), "WEBP", False, "png"),
    "turned WebP": (encoded(RGB, "WEBP", exif=exif_with_orientation(6)), "WEBP", False, "png"),
    "animated WebP": (encoded(RGB, "WEBP", save_all=True, append_images=OTHER), "WEBP", False, "png"),
    "GIF": (encoded(PALETTE, "GIF"), "GIF", False, "png"),
    "BMP": (encoded(RGB, "BMP"), "BMP", False, "png"),
    "TIFF": (encoded(RGB, "TIFF"), "TIFF", False, "png"),
    "PPM": (encoded(RGB, "PPM"), "PPM", False, "png"),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_table_says_what_is_kept_and_what_becomes_png(name: str) -> None:
    data, image_format, kept, extension = TABLE[name]
    info = probe(data)
    assert (info.format, info.keep, info.ext) == (image_format, kept, extension)


@pytest.mark.parametrize("name", TABLE)
def test_the_header_gives_the_size_that_decoding_gives(name: str) -> None:
    data = TABLE[name][0]
    rgb, info = decode_rgb(data), probe(data)
    assert rgb.shape == (info.height, info.width, 3)
    assert rgb.dtype == np.uint8
    assert rgb.flags.c_contiguous
    assert rgb.flags.writeable


@pytest.mark.parametrize("name", TABLE)
def test_a_stored_png_is_kept_and_shows_the_same_pixels(name: str) -> None:
    rgb = decode_rgb(TABLE[name][0])
    stored = encode_png(rgb)
    assert probe(stored).keep
    np.testing.assert_array_equal(decode_rgb(stored), rgb)


@pytest.mark.parametrize("name", ["colour PNG", "BMP", "TIFF", "PPM", "animated PNG"])
def test_lossless_formats_give_their_first_frame_to_the_bit(name: str) -> None:
    np.testing.assert_array_equal(decode_rgb(TABLE[name][0]), RGB)


def test_transparency_lies_over_white() -> None:
    alpha = np.asarray(RGBA)[:, :, 3:] / 255
    expected = np.asarray(RGBA)[:, :, :3] * alpha + 255 * (1 - alpha)
    assert np.abs(decode_rgb(TABLE["alpha PNG"][0]) - expected).max() <= 0.5  # rounded, not cut


def test_a_transparent_colour_becomes_white() -> None:
    rgb = decode_rgb(TABLE["colour key PNG"][0])
    transparent = (RGB[0, 0] == RGB).all(axis=2)
    assert (rgb[transparent] == 255).all()
    np.testing.assert_array_equal(rgb[~transparent], RGB[~transparent])


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    grey = np.asarray(GREY)
    np.testing.assert_array_equal(decode_rgb(TABLE["16-bit PNG"][0]), np.repeat(grey[:, :, None], 3, axis=2))


def test_sixteen_bit_tiff_of_either_byte_order_is_scaled() -> None:
    values = np.array([[0, 257, 40000, 65535]], dtype=np.uint16)
    for order in ("<u2", ">u2"):
        data = encoded(Image.fromarray(values.astype(order)), "TIFF")
        assert decode_rgb(data)[0, :, 0].tolist() == [0, 1, 156, 255]


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_shows_the_same_upright_picture(file_format: str, orientation: int) -> None:
    stored = {
        1: RGB,
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.transpose(1, 0, 2),
        6: np.rot90(RGB, 1),
        7: RGB[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(RGB, -1),
    }[orientation]
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "PNG": {}, "WEBP": {"lossless": True}}[file_format]
    data = encoded(
        np.ascontiguousarray(stored), file_format, exif=exif_with_orientation(orientation), **options
    )
    difference = np.abs(decode_rgb(data).astype(int) - RGB)
    assert difference.max() <= (4 if file_format == "JPEG" else 0)  # quality 100 still rounds
    assert (probe(data).width, probe(data).height) == (16, 12)


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_an_invalid_orientation_is_ignored(orientation: int) -> None:
    data = encoded(RGB, "JPEG", exif=exif_with_orientation(orientation))
    assert probe(data).orientation == 1
    np.testing.assert_array_equal(decode_rgb(data), decode_rgb(encoded(RGB, "JPEG")))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"junk"]
)
def test_damaged_exif_is_ignored(exif: bytes) -> None:
    assert probe(encoded(RGB, "JPEG", exif=exif)).orientation == 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"<html>404</html>", "no image: the first bytes are of no known image format"),
        (b"RIFF\0\0\0\0WAVEfmt ", "no image: the first bytes are of no known image format"),
        (b"\xff\xd8\xff\xe0", "JPEG header cannot be read: the decoder does not recognise it"),
        (bytes(MAX_BYTES + 1), f"too large: {MAX_BYTES + 1} bytes, the limit is 64 MB"),
    ],
)
def test_what_is_no_image_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    for read in (probe, decode_rgb):
        with pytest.raises(ImageError) as refusal:
            read(data)
        assert str(refusal.value) == reason


@pytest.mark.parametrize(("width", "height"), [(9000, 9000), (20000, 20000), (65000, 65000)])
def test_a_huge_picture_in_few_bytes_is_refused_before_it_is_decoded(width: int, height: int) -> None:
    chunk = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    data = b"\x89PNG\r\n\x1a\n\0\0\0\r" + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    data += b"\0\0\0\0IDAT" + zlib.crc32(b"IDAT").to_bytes(4, "big")
    for read in (probe, decode_rgb):
        with pytest.raises(ImageError, match=r"^too large: .*over 64 megapixels"):
            read(data)


@pytest.mark.parametrize(
    "name", ["colour JPEG", "colour PNG", "lossy WebP", "GIF", "BMP", "TIFF", "16-bit PNG"]
)
def test_a_file_cut_short_is_an_image_error(name: str) -> None:
    data = TABLE[name][0]
    with pytest.raises(ImageError):
        decode_rgb(data[: len(data) // 2])


def refusal_of(read: Callable[[bytes], object], data: bytes) -> str:
    try:
        read(data)
    except ImageError as error:
        return str(error)
    return ""


@pytest.mark.filterwarnings("ignore")  # Pillow's remarks on damaged files
@pytest.mark.parametrize("name", TABLE)
def test_damaged_bytes_decode_or_are_an_image_error_and_nothing_else(name: str) -> None:
    data = TABLE[name][0]
    generator = np.random.default_rng(0)
    for _ in range(40):
        damaged = bytearray(data)
        for place in generator.integers(0, len(data), 3):
            damaged[place] = generator.integers(0, 256)
        assert "0x" not in refusal_of(decode_rgb, bytes(damaged))  # no address: the same reason in every run


@pytest.mark.filterwarnings("ignore")  # Pillow's remarks on damaged files
@pytest.mark.parametrize("name", TABLE)
def test_checking_refuses_what_decoding_refuses(name: str) -> None:
    data = TABLE[name][0]
    generator = np.random.default_rng(1)
    for end in generator.integers(1, len(data) + 1, 40):
        damaged = bytearray(data[:end])
        damaged[generator.integers(0, end)] = generator.integers(0, 256)
        for tried in (data[:end], bytes(damaged)):
            assert refusal_of(check_decodes, tried) == refusal_of(decode_rgb, tried)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 700), (700, 1), (257, 3), (512, 5)])
def test_png_of_any_shape_holds_the_pixels(height: int, width: int) -> None:
    rgb = noise(3, height, width)
    data = encode_png(rgb)
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        np.testing.assert_array_equal(np.asarray(image), rgb)


def test_png_refuses_what_is_no_rgb_picture() -> None:
    with pytest.raises(ValueError, match=r"got \(4, 4\) uint8"):
        encode_png(np.zeros((4, 4), np.uint8))


# Where the documented RGB is not what Pillow's convert("RGB") gave when the reference list was made.
BY_POLICY = {
    "png_rgba_gradient_alpha.png": "alpha over white",
    "png_la.png": "alpha over white",
    "png_palette_transparency.png": "alpha over white",
    "webp_lossless_alpha.webp": "alpha over white",
    "png_gray16.png": "16 bits scaled, not clipped",
}


@pytest.mark.parametrize("name", TABLE)
def test_a_picture_shows_what_the_array_holds(name: str) -> None:
    data = TABLE[name][0]
    shown = decode_picture(data)
    assert shown.mode == "RGB"
    assert np.array_equal(np.asarray(shown), decode_rgb(data))


def test_a_cut_jpeg_is_no_picture() -> None:
    with pytest.raises(ImageError, match="JPEG does not decode"):
        decode_picture(encoded(noise(0, 60, 60), "JPEG")[:-500])


@pytest.mark.skipif(not (SHARED_DATA / "odd_images.tar").is_file(), reason="odd_images.tar is not here")
def test_odd_images_decode_to_their_known_mean_or_are_refused() -> None:
    with (
        (SHARED_DATA / "odd_images.tsv").open() as listing,
        tarfile.open(SHARED_DATA / "odd_images.tar") as tar,
    ):
        for row in csv.DictReader(listing, delimiter="\t", quoting=csv.QUOTE_NONE):
            member = tar.extractfile(row["file"])
            assert member is not None
            _check_odd_image(row, member.read())


def _check_odd_image(row: dict[str, str], data: bytes) -> None:
    if row["expect"] in ("fail", "truncated"):
        with pytest.raises(ImageError):
            decode_rgb(data)
        return
    rgb = decode_rgb(data)  # the corrupt one decodes without an error, to the wrong pixels of the list
    assert sorted(rgb.shape[:2]) == sorted([int(row["height"]), int(row["width"])]), row["file"]  # as stored
    means = [float(value) for value in row["mean_rgb"].split(",")]
    if row["file"] == "png_gray16.png":
        assert rgb.mean() == pytest.approx(107.97, abs=0.01)  # the right mean, from the file's note
    elif row["file"] not in BY_POLICY:
        found = rgb.reshape(-1, 3).mean(axis=0)
        np.testing.assert_allclose(found, means, atol=0.0051, err_msg=row["file"])  # two decimals are listed
    else:
        assert rgb.mean() > np.mean(means)  # white shows through
