"""The one table of images: what is kept byte for byte, and the RGB that everything else becomes.

Kept are JPEG (grey, RGB), 8-bit PNG (grey, RGB) and 8-bit WebP (RGB), the last two only when upright, opaque
and still. Every executor shows a kept image as `decode_rgb` does. The rest that decodes is stored as PNG.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from viewmill.shards.errors import ImageError
from viewmill.shards.exif import UPRIGHT, orientation_of_exif, orientation_of_png, swaps_sides, turn_upright
from viewmill.shards.jpeg_header import plain_jpeg_header
from viewmill.shards.png import encode_png as encode_png

MAX_PIXELS = 64_000_000
MAX_BYTES = 64_000_000
MAX_RAW_BYTES = 3 * MAX_PIXELS  # of pixels without compression, three channels of 8 bits
_PPM_HEADER_BYTES = 32  # more than that of the raw images of a data set, which are read behind one
# The names Pillow knows these formats by; no other decoder ever sees a byte of the input.
SIGNATURES = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "WEBP": (b"RIFF",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "BMP": (b"BM",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "PPM": (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6"),
    "JPEG2000": (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
}
EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_KEPT_MODES = {"JPEG": ("L", "RGB"), "PNG": ("L", "RGB"), "WEBP": ("RGB",)}


class ImageInfo(NamedTuple):
    """What the header says: format, upright size, orientation; keep: stored as it is, under `ext`."""

    format: str
    width: int
    height: int
    orientation: int
    keep: bool
    ext: str


def format_of(head: bytes) -> str | None:
    """The format that the first bytes (16 are enough) announce, or None; file names are not asked."""
    if head.startswith(b"RIFF") and head[8:12] != b"WEBP":
        return None
    return next((name for name, starts in SIGNATURES.items() if head.startswith(starts)), None)


def probe(data: bytes | memoryview) -> ImageInfo:
    """What the header says of an image; no pixel is decoded.

    Raises:
        ImageError: no image, a broken header, over 64 megapixels or over 64 MB.
    """
    return _info_of_plain_jpeg(data) or _info_by_decoder(bytes(data))


def _info_of_plain_jpeg(data: bytes | memoryview) -> ImageInfo | None:
    if data[:3] != SIGNATURES["JPEG"][0] or len(data) > MAX_BYTES:
        return None
    header = plain_jpeg_header(data)
    if header is None or header.width * header.height > MAX_PIXELS:
        return None
    width, height, orientation, _ = header
    if swaps_sides(orientation):
        width, height = height, width
    return ImageInfo("JPEG", width, height, orientation, keep=True, ext=EXTENSIONS["JPEG"])


def _info_by_decoder(data: bytes) -> ImageInfo:
    """What Pillow says, which decides wherever an image is not a plain JPEG."""
    with _opened(data) as (image, name):
        return _info(image, name, data)


def decode_rgb(data: bytes) -> np.ndarray:
    """The upright picture as RGB, (H, W, 3) uint8, C-contiguous and writable.

    Orientation as EXIF says (values outside 1..8 are ignored); grey repeated; 16-bit samples by their high
    byte; CMYK by Pillow's plain formula; colour profiles ignored; transparency over white; first frame.

    Raises:
        ImageError: as `probe`, or the pixels do not decode in full.
    """
    with _opened(data) as (image, name):
        info = _info(image, name, data)
        with _decoding(name):
            image.load()
            rgb = _rgb(image)
        return turn_upright(rgb, info.orientation)


def decode_picture(data: bytes) -> Image.Image:
    """What `decode_rgb` gives, as Pillow's RGB image; an upright JPEG does not become an array on the way.

    Raises:
        ImageError: as `decode_rgb`.
    """
    info = probe(data)
    if info.format != "JPEG" or not info.keep or info.orientation != UPRIGHT:
        return Image.fromarray(decode_rgb(data))
    with _opened(data) as (image, name), _decoding(name):
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")


def check_decodes(data: bytes) -> None:
    """Decodes an image and drops the pixels; a JPEG's, which all have an RGB, never become an array.

    Raises:
        ImageError: as `decode_rgb`.
    """
    if format_of(data[:16]) != "JPEG":
        decode_rgb(data)
        return
    with _opened(data) as (image, name), _decoding(name):
        image.load()


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # a decoder raises whatever it likes on hostile bytes
        raise ImageError(f"{name} does not decode: {_one_line(error)}") from error


@contextmanager
def _opened(data: bytes) -> Iterator[tuple[Image.Image, str]]:
    """The image with its header read, bounded before any pixel is decoded."""
    name = _checked_format(data)
    try:
        image = Image.open(io.BytesIO(data), formats=[name])
    except Image.DecompressionBombError as error:
        raise ImageError(f"too large: over {MAX_PIXELS // 10**6} megapixels") from error
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise ImageError(f"{name} header cannot be read: {_one_line(error)}") from error
    with image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ImageError(f"too large: {width}x{height} is over {MAX_PIXELS // 10**6} megapixels")
        if width < 1 or height < 1:
            raise ImageError(f"no pixels: {width}x{height}")
        yield image, name


def _checked_format(data: bytes) -> str:
    if not data:
        raise ImageError("empty file")
    name = format_of(data[:16])
    limit = MAX_RAW_BYTES + _PPM_HEADER_BYTES if name == "PPM" else MAX_BYTES
    if len(data) > limit:
        raise ImageError(f"too large: {len(data)} bytes, the limit is {limit // 10**6} MB")
    if name is None:
        raise ImageError("no image: the first bytes are of no known image format")
    return name


def _info(image: Image.Image, name: str, data: bytes) -> ImageInfo:
    orientation = _orientation(image, name, data)
    width, height = image.size[::-1] if swaps_sides(orientation) else image.size
    keep = _is_kept(image, name, data, orientation)
    return ImageInfo(name, width, height, orientation, keep, EXTENSIONS[name] if keep else "png")


def _orientation(image: Image.Image, name: str, data: bytes) -> int:
    if name == "PNG":
        return orientation_of_png(data)
    if name in ("JPEG", "WEBP"):
        exif = image.info.get("exif", b"")
        return orientation_of_exif(exif) if isinstance(exif, bytes) else UPRIGHT
    return UPRIGHT  # Pillow itself turns TIFF upright, size included; the others carry no EXIF


def _is_kept(image: Image.Image, name: str, data: bytes, orientation: int) -> bool:
    if image.mode not in _KEPT_MODES.get(name, ()):
        return False
    if name == "JPEG":
        return True  # DALI obeys a JPEG's orientation, and re-encoding would lose quality or space
    if orientation != UPRIGHT or image.has_transparency_data or getattr(image, "is_animated", False):
        return False
    return name != "PNG" or data[24] == 8  # IHDR's bit depth: Pillow's mode hides 2, 4 and 16


def _rgb(image: Image.Image) -> np.ndarray:
    """The stored picture as RGB (H, W, 3) uint8, not yet turned."""
    if image.mode.startswith("I;16"):
        return _rgb_of_grey16(image)
    if image.has_transparency_data:
        return _over_white(image)
    if image.mode not in ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr"):
        raise ImageError(f"unusual pixels: {image.format} of Pillow mode {image.mode} has no documented RGB")
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _rgb_of_grey16(image: Image.Image) -> np.ndarray:
    # Pillow's convert("RGB") would clip at 255; the high byte is also what it gives for 16-bit colour.
    samples = np.asarray(image)
    grey = (samples >> 8).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[samples == transparent] = 255
    return np.repeat(grey[:, :, None], 3, axis=2)


def _over_white(image: Image.Image) -> np.ndarray:
    key = image.info.get("transparency")
    if isinstance(key, tuple) and max(key) > 255:
        raise ImageError("unusual pixels: a transparent colour of 16 bits, of which 8 are decoded")
    rgba = np.asarray(image.convert("RGBA"))
    alpha = rgba[:, :, 3:].astype(np.uint16)
    blended = rgba[:, :, :3] * alpha + 255 * (255 - alpha) + 127
    return (blended // 255).astype(np.uint8)


def _one_line(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "the decoder does not recognise it"  # its own text holds an address, new in every run
    return " ".join(_ADDRESS.sub("", str(error)).split())[:200] or type(error).__name__
