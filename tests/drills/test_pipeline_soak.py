"""Loaders run for long without growing: memory against batches, after a warm-up, on each executor.

`make soak PART=pipelines` runs 20 minutes an executor (VIEWMILL_SOAK_S sets other seconds, and
PART='pipelines and dali' takes one executor); `make test` runs the fast ones for 300 batches, 3 to 15 seconds
each.
"""

import itertools
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pytest
from viewmill.pipelines.executors.executor import dali_is_installed, ffcv_is_installed
from viewmill.pipelines.loader import Loader
from viewmill.shards.conversion.options import Options
from viewmill.shards.convert import convert_with
from viewmill.shards.manifest import Dataset

from tests.pipelines.installed import installed_executors
from tests.pipelines.photographs import write_dataset

SOAK_S = float(os.environ.get("VIEWMILL_SOAK_S", 20 * 60))
EVERY = 10  # batches from one look at the memory to the next
WARM_UP = 0.35  # of the time: pools fill and libraries load
# A batch of 8 is 340 kB of views and 20 kB of encoded images.
SHORT_BOUND = 32 << 20  # bytes per 1000 batches: a tenth of every batch would be lost
LONG_BOUND = 1 << 20


class Slope(NamedTuple):
    """Bytes per 1000 batches, with its standard error."""

    bytes: float
    error: float

    def __str__(self) -> str:
        return f"{self.bytes / 1e3:+.1f} kB per 1000 batches, standard error {self.error / 1e3:.1f} kB"


def slope_of(batches: np.ndarray, memory: np.ndarray) -> Slope:
    """Least squares of memory against batches.

    Memory moves in steps, so its residuals follow each other: the error is that of as many independent
    looks as their lag-1 autocorrelation leaves, (1 - r) / (1 + r) of them.
    """
    x, y = batches - batches.mean(), memory - memory.mean()
    slope = float((x * y).sum() / (x * x).sum())
    rest = y - slope * x
    power = float((rest * rest).sum())
    correlation = float((rest[1:] * rest[:-1]).sum()) / power if power else 0.0
    correlation = min(max(correlation, 0.0), 0.99)
    looks = max(3.0, len(x) * (1 - correlation) / (1 + correlation))
    error = math.sqrt(power / len(x) * looks / (looks - 2) / float((x * x).mean()) / looks)
    return Slope(1000 * slope, 1000 * error)


def soaked(folder: Path, executor: str, goes_on: Callable[[int], bool]) -> Slope:
    """The slope after the warm-up; nothing else that the process holds may have grown."""
    process, looks = psutil.Process(), []
    with (
        Dataset.open(folder) as dataset,
        Loader(dataset, "hydes@32", 8, executor=executor, num_threads=2) as loader,
    ):
        batches = itertools.chain.from_iterable(itertools.repeat(loader))
        held = None
        for number, _ in enumerate(batches, 1):
            if number % EVERY:
                continue
            looks.append((number, process.memory_info().rss))
            held = held or (process.num_threads(), process.num_fds())
            if not goes_on(number):
                break
        assert (process.num_threads(), process.num_fds()) == held
    warm = np.array(looks[int(WARM_UP * len(looks)) :], float)
    return slope_of(warm[:, 0], warm[:, 1])


EXECUTORS = [
    *installed_executors(),
    *(["dali-operators"] if dali_is_installed() else []),
    *(["ffcv"] if ffcv_is_installed() else []),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same samples as tars and as betons, by what reads them."""
    home = tmp_path_factory.mktemp("soak")
    tars = write_dataset(home, 40)
    convert_with(tars, home / "betons", Options(format="ffcv", beton_images="jpeg"))
    return dict.fromkeys(EXECUTORS, tars) | {"ffcv": home / "betons"}


def check(slope: Slope, bound: float, executor: str, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{executor}: {slope}")
    assert slope.bytes - 3 * slope.error <= bound, f"{executor} grows: {slope}"


@pytest.mark.slow
@pytest.mark.parametrize("executor", EXECUTORS[1:])  # the reference takes as long as all others together
def test_three_hundred_batches_do_not_grow(
    folders: dict[str, Path], executor: str, capsys: pytest.CaptureFixture[str]
) -> None:
    check(soaked(folders[executor], executor, lambda number: number < 300), SHORT_BOUND, executor, capsys)


@pytest.mark.soak
@pytest.mark.timeout(SOAK_S + 300)
@pytest.mark.parametrize("executor", EXECUTORS)
def test_twenty_minutes_of_pipelines_do_not_grow(
    folders: dict[str, Path], executor: str, capsys: pytest.CaptureFixture[str]
) -> None:
    end_s = time.monotonic() + SOAK_S
    check(
        soaked(folders[executor], executor, lambda _: time.monotonic() < end_s), LONG_BOUND, executor, capsys
    )


def test_the_slope_finds_a_leak_and_passes_over_noise() -> None:
    batches = np.arange(10.0, 3000.0, 10.0)
    draws = np.random.default_rng(0)
    noise = 1e6 * draws.standard_normal(len(batches))
    steps = np.cumsum(draws.choice([-2e5, 0.0, 2e5], len(batches)))  # wanders, and returns
    for memory in (noise, noise + 3e8, steps):
        slope = slope_of(batches, memory)
        assert slope.bytes - 3 * slope.error <= LONG_BOUND
    leaking = slope_of(batches, noise + 3e4 * batches)
    assert abs(leaking.bytes - 3e7) < 4 * leaking.error
    assert leaking.bytes - 3 * leaking.error > LONG_BOUND
    assert slope_of(batches, np.full(len(batches), 7.0)) == (0, 0)
