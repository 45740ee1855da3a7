"""Where a rank's time goes, from one line of the log to the next."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import quantiles


class StepClock:
    """The wall time of this rank's steps, and how much of it was waiting for data and for other ranks.

    Waiting for other ranks is what the small all-reduce takes that every step begins with: there the ranks
    meet, so the one that the others wait for waits least. Work is all the rest, with the gradient's sums.

    Args:
        data_wait_s: what the loader has waited so far, in all.
        now: seconds of a clock that never goes back.
    """

    def __init__(self, data_wait_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._begin(data_wait_s)

    def _begin(self, data_wait_s: float) -> None:
        self._began_s = self._last_s = self._now()
        self._data_wait_s, self._rank_wait_s = data_wait_s, 0.0
        self._images, self._steps = 0, list[float]()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Around what is no part of a step: it does not count."""
        began_s = self._now()
        yield
        passed = self._now() - began_s
        self._began_s, self._last_s = self._began_s + passed, self._last_s + passed

    @contextmanager
    def meeting(self) -> Iterator[None]:
        """Around what waits for the other ranks."""
        began_s = self._now()
        yield
        self._rank_wait_s += self._now() - began_s

    def count(self, images: int) -> None:
        """A step ends, of so many images (of all ranks)."""
        now_s = self._now()
        self._images += images
        self._steps.append(now_s - self._last_s)
        self._last_s = now_s

    def read(self, data_wait_s: float) -> dict[str, float]:
        """Figures of the steps since the last time; the next stretch begins.

        Returns:
            images_per_s; data_wait_fraction and rank_wait_fraction, shares of the time; step_s, their mean,
            step_p50_s and step_p95_s, seconds.
        """
        passed = max(self._now() - self._began_s, 1e-9)
        # Of one step: itself.
        cuts = quantiles(self._steps * (2 if len(self._steps) == 1 else 1), n=20, method="inclusive")
        figures = {
            "images_per_s": self._images / passed,
            "data_wait_fraction": min(1.0, (data_wait_s - self._data_wait_s) / passed),
            "rank_wait_fraction": min(1.0, self._rank_wait_s / passed),
            "step_s": passed / len(self._steps),
            "step_p50_s": cuts[9],
            "step_p95_s": cuts[18],
        }
        self._begin(data_wait_s)
        return figures
