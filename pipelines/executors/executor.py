"""What an executor is: encoded images and a plan in, views out. It draws nothing itself."""

import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from viewmill.pipelines.executors.view_format import FLOAT32, ViewFormat
from viewmill.pipelines.plans.planner import ViewPlan
from viewmill.pipelines.plans.spec import ViewSpec
from viewmill.shards.errors import ImageError

T = TypeVar("T")

CPU_EXECUTORS = ("reference", "host")  # those that know no other device


class BatchDecodeError(ImageError):
    """Some images of a batch cannot be decoded; the others are fine and can be run again.

    Args:
        reasons: row of the batch -> why it cannot be used.
    """

    def __init__(self, reasons: dict[int, str]) -> None:
        self.rows = sorted(reasons)
        self.reasons = reasons
        told = "; ".join(f"row {row}: {reasons[row]}" for row in self.rows)
        super().__init__(f"{len(reasons)} images of the batch cannot be decoded: {told}")


class Executor(Protocol):
    """Carries a plan out. Any two give the same crops and, within the tolerance, the same pixels."""

    spec: ViewSpec
    view_format: ViewFormat

    def run(self, images: list[Any], plan: ViewPlan) -> list[torch.Tensor]:
        """V tensors (n, 3, S, S) of the view format, in the spec's order; image i has row i of the plan.

        Args:
            images: encoded, as bytes; or what else feeds this executor, see `feeding.py`.
            plan: n rows.

        Raises:
            BatchDecodeError: some images cannot be decoded; names their rows.
            ValueError: images and plan differ in length, or the batch is larger than max_batch.
        """
        ...

    def close(self) -> None:
        """Give threads and memory back; the executor cannot run any more."""
        ...


def check_batch(images: Sequence[Any], plan: ViewPlan, spec: ViewSpec, max_batch: int) -> None:
    """Refuse a batch that does not fit its plan or its executor.

    Raises:
        ValueError: what differs, with both numbers.
    """
    if len(images) != len(plan):
        raise ValueError(f"{len(images)} images but a plan of {len(plan)} rows")
    if not 1 <= len(images) <= max_batch:
        raise ValueError(f"a batch of {len(images)} images; this executor was made for 1 to {max_batch}")
    if plan.num_views != spec.num_views:
        raise ValueError(f"the plan has {plan.num_views} views, '{spec.name}' has {spec.num_views}")


def read_all(images: list[bytes], reader: Callable[[bytes], T]) -> list[T]:
    """reader(image) of every image.

    Raises:
        BatchDecodeError: names the rows for which `reader` raises ImageError.
    """
    found, reasons = [], {}
    for row, image in enumerate(images):
        try:
            found.append(reader(image))
        except ImageError as error:
            reasons[row] = str(error)
    if reasons:
        raise BatchDecodeError(reasons)
    return found


def check_boxes(plan: ViewPlan, sizes: np.ndarray) -> None:
    """Refuse a plan that was drawn for images of other sizes; sizes: (n, 2) width and height.

    Raises:
        ValueError: a box leaves its image.
    """
    inside = (plan.top >= 0) & (plan.left >= 0) & (plan.height > 0) & (plan.width > 0)
    inside &= (plan.left + plan.width <= sizes[:, :1]) & (plan.top + plan.height <= sizes[:, 1:])
    if not inside.all():
        row, view = np.argwhere(~inside)[0]
        width, height = sizes[row]
        raise ValueError(
            f"row {row}, view {view}: the box of {plan.width[row, view]}x{plan.height[row, view]} pixels at "
            f"({plan.left[row, view]}, {plan.top[row, view]}) leaves the image of {width}x{height}; "
            "was the plan drawn for other sizes?"
        )


_CPU_ONLY = ("reference", "host", "ffcv")  # their views reach another device by a copy


def device_of_executor(name: str, device: str) -> str:
    """Where this executor works when its views are wanted on `device`: there if it can, else on the CPU."""
    return "cpu" if resolved_name(name, device) in _CPU_ONLY else device


def make_executor(
    name: str,
    spec: ViewSpec,
    *,
    max_batch: int,
    num_threads: int,
    device: str = "cpu",
    view_format: ViewFormat = FLOAT32,
) -> Executor:
    """The executor called `name`: "reference", "host", "dali", "dali-operators" (what DALI runs on a GPU, on
    the CPU too), or "auto" (host on the CPU, DALI on a GPU).

    Args:
        name: which one.
        spec: the views it makes.
        max_batch: most images of one run.
        num_threads: threads it may use.
        device: "cpu", or "cuda" (also "gpu", "cuda:1") for DALI.
        view_format: dtype and layout of the views.

    Raises:
        ValueError: no such executor, or one that cannot use the device.
        ImportError: DALI is not installed; names the extra.
    """
    makers: dict[str, Callable[[ViewSpec, int, int, str, ViewFormat], Executor]] = {
        "reference": _make_reference,
        "host": _make_host,
        "dali": partial(_make_dali, own_operators=False),
        "dali-operators": partial(_make_dali, own_operators=True),
    }
    name = resolved_name(name, device)
    if name not in makers:
        raise ValueError(f"unknown executor '{name}'; expected one of auto, {', '.join(sorted(makers))}")
    return makers[name](spec, max_batch, num_threads, device, view_format)


def resolved_name(name: str, device: str) -> str:
    """The executor that "auto" stands for on this device; any other name is its own."""
    if name != "auto":
        return name
    return "host" if device == "cpu" else "dali"


def dali_is_installed() -> bool:
    """Whether `import nvidia.dali` would find a package; nothing is imported."""
    return (
        importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None
    )


def ffcv_is_installed() -> bool:
    """Whether `import ffcv` would find a package; nothing is imported."""
    return importlib.util.find_spec("ffcv") is not None


def _make_reference(
    spec: ViewSpec, max_batch: int, num_threads: int, device: str, view_format: ViewFormat
) -> Executor:
    if device != "cpu":
        raise ValueError(f"the reference executor runs on the cpu, not on '{device}'; use executor 'dali'")
    from viewmill.pipelines.executors.reference import ReferenceExecutor

    return ReferenceExecutor(spec, max_batch=max_batch, num_threads=num_threads, view_format=view_format)


def _make_host(
    spec: ViewSpec, max_batch: int, num_threads: int, device: str, view_format: ViewFormat
) -> Executor:
    if device != "cpu":
        raise ValueError(f"the host executor runs on the cpu, not on '{device}'; use executor 'dali'")
    from viewmill.pipelines.executors.host.executor import HostExecutor

    return HostExecutor(spec, max_batch=max_batch, num_threads=num_threads, view_format=view_format)


def _make_dali(
    spec: ViewSpec,
    max_batch: int,
    num_threads: int,
    device: str,
    view_format: ViewFormat,
    *,
    own_operators: bool,
) -> Executor:
    if not dali_is_installed():
        raise ImportError(
            "executor 'dali' needs NVIDIA DALI: pip install 'viewmill[dali-cuda13]' (or [dali-cuda12]); "
            "it runs on the CPU too. Without it, take executor 'host'"
        )
    from viewmill.pipelines.executors.dali.executor import DaliExecutor

    return DaliExecutor(
        spec,
        max_batch=max_batch,
        num_threads=num_threads,
        device=device,
        view_format=view_format,
        own_operators=own_operators,
    )
