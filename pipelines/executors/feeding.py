"""What an executor is fed: encoded images that the data set reads, or samples that it knows by their ids."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from viewmill.pipelines.executors.executor import Executor, make_executor
from viewmill.pipelines.executors.view_format import FLOAT32, ViewFormat
from viewmill.pipelines.plans.spec import ViewSpec
from viewmill.pipelines.samples import Samples
from viewmill.shards.manifest import Dataset

# ids (n,) -> what the executor's `run` takes as its n images. Raises ShardError where a sample is not what
# was written; it may be asked for one sample after another then. Any thread may call it.
Fetch = Callable[[np.ndarray], list[Any]]


class Fed(NamedTuple):
    """An executor and what feeds it."""

    executor: Executor
    fetch: Fetch


def fed_executor(
    name: str,
    dataset: Samples,
    spec: ViewSpec,
    *,
    max_batch: int,
    num_threads: int,
    device: str = "cpu",
    view_format: ViewFormat = FLOAT32,
    resident_bytes: int | None = None,
) -> Fed:
    """The executor called `name` and what feeds it with samples of `dataset`.

    Args:
        name: see `make_executor`; or "resident", which decodes the data set here and now; or "ffcv", for a
            data set of betons.
        dataset: stays the caller's to close, after the executor.
        spec, max_batch, num_threads, device, view_format: see `make_executor`.
        resident_bytes: most bytes of pictures that "resident" keeps; None: half of the device's free memory.

    Raises:
        ValueError: no such executor, one that cannot use the device or the data set, or too many pictures.
        ImportError: a library is not installed; names the extra.
    """
    if name == "resident":
        from viewmill.pipelines.executors.resident.executor import ResidentExecutor

        resident = ResidentExecutor(
            dataset, spec, max_batch=max_batch, num_threads=num_threads, device=device,
            view_format=view_format, max_bytes=resident_bytes,
        )  # fmt: skip
        return Fed(resident, resident.fetch)
    if name == "ffcv":
        if device != "cpu":
            raise ValueError(f"the ffcv executor runs on the cpu, not on '{device}'; use executor 'dali'")
        if not isinstance(dataset, Dataset):
            raise ValueError(f"the ffcv executor reads one data set of betons, not {dataset.shown}")
        from viewmill.pipelines.executors.ffcv.executor import FfcvExecutor

        ffcv = FfcvExecutor(
            dataset, spec, max_batch=max_batch, num_threads=num_threads, view_format=view_format
        )
        return Fed(ffcv, ffcv.fetch)
    executor = make_executor(
        name, spec, max_batch=max_batch, num_threads=num_threads, device=device, view_format=view_format
    )
    return Fed(executor, dataset.read)
