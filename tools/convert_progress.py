"""How fast a conversion goes, in words for its progress bar."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from viewmill.shards.conversion.run import Progress


class Speed:
    """Images and megabytes (10^6 bytes) of source a second, since the first call."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: tuple[float, int, int] | None = None

    def in_words(self, now: "Progress") -> str:
        """The bar's description: speed, and inputs that were quarantined so far."""
        if self._began is None:
            self._began = self._clock(), now.images, now.bytes
        began_s, images, num_bytes = self._began
        seconds = max(self._clock() - began_s, 1e-3)
        images_per_s, mb_per_s = (now.images - images) / seconds, (now.bytes - num_bytes) / seconds / 1e6
        speed = f"{images_per_s:,.0f} images/s  {mb_per_s:,.1f} MB/s"
        return f"convert  {speed}  {now.quarantined:,} quarantined"
