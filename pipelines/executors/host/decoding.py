"""Encoded images to the pixels of `shards.images.decode_rgb`; plain JPEGs go to libjpeg-turbo directly."""

import numpy as np
import simplejpeg
from viewmill.shards.exif import UPRIGHT, turn_upright
from viewmill.shards.images import MAX_BYTES, MAX_PIXELS, decode_rgb
from viewmill.shards.jpeg_header import START, plain_jpeg_header

# Larger pictures get memory of their own: one of 64 megapixels would hold 192 MB for good.
_KEPT_BYTES = 3 * 8_000_000


class Decoder:
    """Decodes images one after the other into memory of its own; one per thread."""

    def __init__(self) -> None:
        self._memory = np.empty(3 * 512 * 512, np.uint8)

    def decode(self, data: bytes) -> np.ndarray:
        """(H, W, 3) uint8, C-contiguous, upright; valid until the next call.

        Bounds are checked on the header, before a pixel is decoded. What is not a plain JPEG, and a JPEG that
        libjpeg-turbo has any doubt about, is left to `decode_rgb`, which decides what it is.

        Raises:
            ImageError: as `decode_rgb`.
        """
        header = plain_jpeg_header(data) if data.startswith(START) else None
        if header is None or header.width * header.height > MAX_PIXELS or len(data) > MAX_BYTES:
            return decode_rgb(data)
        memory = self._room(3 * header.width * header.height)
        try:
            rgb = simplejpeg.decode_jpeg(data, "RGB", buffer=memory, strict=True)
        except ValueError:  # Pillow bears some damage, and names the rest
            return decode_rgb(data)
        return rgb if header.orientation == UPRIGHT else turn_upright(rgb, header.orientation)

    def _room(self, num_bytes: int) -> np.ndarray:
        if num_bytes > _KEPT_BYTES:
            return np.empty(num_bytes, np.uint8)
        if num_bytes > len(self._memory):
            self._memory = np.empty(num_bytes, np.uint8)
        return self._memory
