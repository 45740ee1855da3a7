"""A JPEG of a picture, the one way this room writes them."""

import io

import numpy as np
from PIL import Image

MAX_JPEG_SIDE = 65_500  # what libjpeg writes


def encode_jpeg(rgb: np.ndarray, quality: int) -> bytes:
    """(H, W, 3) uint8 as JPEG of `quality` 1 to 100; 4:4:4 from 90 on and 4:2:0 below, without metadata."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=quality, subsampling=0 if quality >= 90 else 2)
    return buffer.getvalue()
