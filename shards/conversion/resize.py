"""Images made smaller at conversion: by the short side or by the longer one, never larger."""

import io
import re
from typing import NamedTuple

import numpy as np
from PIL import Image
from viewmill.shards.png import encode_png

_TEXT = re.compile(r"(short|max)=([1-9][0-9]{0,4})")


class Resize(NamedTuple):
    """`short=S` brings the short side down to S pixels, `max=S` the longer one; the aspect is kept.

    Smaller images are left as they are, byte for byte. What was a JPEG is written as JPEG of `quality` (4:4:4
    from 90 on, 4:2:0 below), all else as lossless PNG; both upright, without metadata.
    """

    side: str
    pixels: int
    quality: int

    @classmethod
    def parse(cls, text: str | None, quality: int) -> "Resize | None":
        """None gives None.

        Raises:
            ValueError: another text, or a quality outside 1..100.
        """
        if not 1 <= quality <= 100:
            raise ValueError(f"the JPEG quality lies in 1..100, got {quality}")
        if text is None:
            return None
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError(f"resize is short=PIXELS or max=PIXELS, got '{text}'")
        return cls(match[1], int(match[2]), quality)

    def shrinks(self, width: int, height: int) -> bool:
        """Whether an image of this size is made smaller."""
        return self._deciding(width, height) > self.pixels

    def apply(self, rgb: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 to its smaller size, by Pillow's antialiased bicubic filter."""
        height, width = rgb.shape[:2]
        factor = self.pixels / self._deciding(width, height)
        size = max(1, round(width * factor)), max(1, round(height * factor))
        return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC))

    def encode(self, rgb: np.ndarray, source_format: str) -> tuple[str, bytes]:
        """(extension, bytes) of a picture that came from an image of `source_format`."""
        if source_format != "JPEG":
            return "png", encode_png(rgb)
        buffer = io.BytesIO()
        subsampling = 0 if self.quality >= 90 else 2
        Image.fromarray(rgb).save(buffer, "JPEG", quality=self.quality, subsampling=subsampling)
        return "jpg", buffer.getvalue()

    def _deciding(self, width: int, height: int) -> int:
        return min(width, height) if self.side == "short" else max(width, height)
