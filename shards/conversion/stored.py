"""What is stored of an input: its own bytes where the kind of data set keeps them, another form otherwise.

A tar keeps what `images.py` says, and all else becomes PNG. A beton holds upright JPEGs and raw pixels only.
"""

import numpy as np
import xxhash
from PIL import Image
from viewmill.shards.containers.beton import MAX_SIDE, is_raw, spells_jpeg
from viewmill.shards.containers.shard_writer import Stored
from viewmill.shards.conversion.options import Options
from viewmill.shards.conversion.resize import Resize
from viewmill.shards.errors import ImageError
from viewmill.shards.exif import UPRIGHT
from viewmill.shards.images import (
    MAX_BYTES,
    ImageInfo,
    check_decodes,
    decode_picture,
    decode_rgb,
    encode_png,
    probe,
)
from viewmill.shards.jpeg import MAX_JPEG_SIDE, encode_jpeg
from viewmill.shards.jpeg_header import plain_jpeg_header
from viewmill.shards.raw import is_rgb, picture, size_of
from viewmill.shards.sources.inputs import ENCODED
from viewmill.shards.sources.reading import Read


def to_store(read: Read, form: str, options: Options) -> Stored:
    """The bytes to store of an input whose form is that of its `Place`: those read, if they are kept.

    Raises:
        ImageError: no usable image, or one that this kind of data set has no room for.
    """
    data = read.data
    info = probe(data) if form == ENCODED else _info_of_pixels(form)
    resize = Resize.parse(options.resize)
    shrinks = resize is not None and resize.shrinks(info.width, info.height)
    kept_as = None if shrinks else _kept_as(data, form, info, options)
    if kept_as:
        if form == ENCODED and options.check == "decode":
            check_decodes(bytes(data))
        _refuse_unfit(kept_as, data)
        return Stored(data, kept_as, info.width, info.height, read.xxh64, transcoded=False)
    if resize is not None and shrinks:
        rgb = resize.apply(
            decode_picture(bytes(data)) if form == ENCODED else Image.fromarray(picture(data, form))
        )
    else:
        rgb = decode_rgb(bytes(data)) if form == ENCODED else picture(data, form)
    height, width = rgb.shape[:2]
    ext, encoded = _encoded(rgb, options, lossy=shrinks and info.format == "JPEG")
    _refuse_unfit(ext, encoded)
    return Stored(encoded, ext, width, height, xxhash.xxh64_intdigest(encoded), transcoded=True)


def _info_of_pixels(form: str) -> ImageInfo:
    return ImageInfo("RAW", *size_of(form), UPRIGHT, keep=False, ext="raw")


def _kept_as(data: bytes | memoryview, form: str, info: ImageInfo, options: Options) -> str | None:
    """The extension under which the input's own bytes are stored, or None where they are not."""
    if options.format == "webdataset":
        return info.ext if info.keep else None
    if is_rgb(form):
        return None if options.beton_images == "jpeg" else "raw"
    # FFCV obeys no EXIF and reads grey and three components of 8 bits; what is unusual goes to our decoder.
    kept = (
        options.beton_images != "raw"
        and info.format == "JPEG"
        and info.orientation == UPRIGHT
        and plain_jpeg_header(data) is not None
    )
    return "jpg" if kept and not is_raw(len(data), info.width, info.height) else None


def _encoded(rgb: np.ndarray, options: Options, lossy: bool) -> tuple[str, bytes]:
    """(extension, bytes) of a picture; lossy: it is a smaller copy of a JPEG, so JPEG loses nothing more."""
    if options.format == "webdataset":
        return ("jpg", encode_jpeg(rgb, options.quality)) if lossy else ("png", encode_png(rgb))
    height, width = rgb.shape[:2]
    limit = MAX_JPEG_SIDE if options.beton_images == "jpeg" else MAX_SIDE
    if max(width, height) > limit:
        raise ImageError(f"too large: {width}x{height}, the sides of an image in a beton end at {limit}")
    if options.beton_images == "jpeg" or (options.beton_images == "mixed" and lossy):
        jpeg = encode_jpeg(rgb, options.quality)
        # Whether a sample is raw is told by its size, so a JPEG of that very size is stored as its pixels.
        return ("raw", decode_rgb(jpeg).tobytes()) if is_raw(len(jpeg), width, height) else ("jpg", jpeg)
    return "raw", rgb.tobytes()


def _refuse_unfit(ext: str, data: bytes | memoryview) -> None:
    if ext == "raw":
        if spells_jpeg(data):
            raise ImageError("unusual pixels: they spell a JPEG file, and in a beton would be taken for one")
    elif len(data) > MAX_BYTES:
        form = "lossless PNG" if ext == "png" else ext
        raise ImageError(f"too large: {len(data)} bytes as {form}, the limit is {MAX_BYTES // 10**6} MB")
