"""The resident executor: views of pictures that are in the device's memory already."""

import numpy as np
import torch
from torch import Tensor
from viewmill.pipelines.executors.executor import BatchDecodeError, check_batch, check_boxes
from viewmill.pipelines.executors.resident.rendering import PlanOnDevice, moved, plan_on, render
from viewmill.pipelines.executors.resident.store import ResidentImages
from viewmill.pipelines.executors.view_format import FLOAT32, ViewFormat
from viewmill.pipelines.plans.planner import ViewPlan
from viewmill.pipelines.plans.spec import ViewSpec
from viewmill.pipelines.samples import Samples

# Of the images that run together: 12 bytes each in float32, and about as much for what becomes of them.
_MOST_PIXELS = 1 << 24


class ResidentExecutor:
    """Carries plans out on the device that holds the decoded data set; fed by ids, it reads nothing.

    Args:
        dataset: decoded when this is made, see `ResidentImages`.
        spec: the views.
        max_batch: most images of one run.
        num_threads: that decode, when this is made. On the CPU the views take torch's own threads.
        device: "cpu", "cuda", "cuda:1".
        view_format: dtype and layout of the views.
        max_bytes: most bytes of decoded pictures; None: half of what the device has free.

    Raises:
        ValueError: the pictures need more than that, or an unknown device.
        RuntimeError: the GPU cannot be used.
    """

    def __init__(
        self,
        dataset: Samples,
        spec: ViewSpec,
        *,
        max_batch: int,
        num_threads: int,
        device: str = "cpu",
        view_format: ViewFormat = FLOAT32,
        max_bytes: int | None = None,
    ) -> None:
        self.spec = spec
        self.view_format = view_format
        self._max_batch = max_batch
        where = torch_device(device)
        self._images: ResidentImages | None = ResidentImages(
            dataset, where, num_threads=num_threads, max_bytes=max_bytes
        )
        mean, std = (torch.tensor(channel, device=where)[:, None, None] for channel in (spec.mean, spec.std))
        self._factor, self._offset = 1 / (255 * std), -mean / std

    def fetch(self, ids: np.ndarray) -> list[int]:
        """What `run` takes in the place of encoded images: the ids.

        Raises:
            ShardError: a sample that could not be read, as the data set said it.
        """
        unreadable = self._open().unreadable
        for sample in ids.tolist():
            if sample in unreadable:
                raise unreadable[sample]
        return ids.tolist()

    def run(self, images: list[int], plan: ViewPlan) -> list[Tensor]:
        """V tensors (n, 3, S, S) of the view format on the device; sample i has row i of the plan.

        Raises:
            BatchDecodeError: some samples did not decode; names their rows.
            ValueError: samples and plan differ in length, the batch is larger than max_batch, or a box leaves
                its image.
            RuntimeError: the executor is closed.
        """
        store = self._open()
        check_batch(images, plan, self.spec, self._max_batch)
        bad = store.undecodable
        if reasons := {row: bad[sample] for row, sample in enumerate(images) if sample in bad}:
            raise BatchDecodeError(reasons)
        ids = np.array(images, dtype=np.int64)
        sizes = store.sizes[ids]
        check_boxes(plan, sizes)
        with torch.no_grad():
            return self._views(store, ids, plan_on(plan, store.device), groups_of(sizes))

    def close(self) -> None:
        """Give the pictures' memory back; views already handed out stay valid."""
        self._images = None

    def _open(self) -> ResidentImages:
        if self._images is None:
            raise RuntimeError("this ResidentExecutor is closed: make a new one")
        return self._images

    def _views(
        self, store: ResidentImages, ids: np.ndarray, there: PlanOnDevice, groups: list[np.ndarray]
    ) -> list[Tensor]:
        form = self.view_format
        views = [
            torch.empty(
                len(ids), 3, size, size,
                dtype=form.torch_dtype, device=store.device, memory_format=form.memory_format,
            )
            for size in self.spec.sizes
        ]  # fmt: skip
        for rows in groups:
            pixels = store.padded(ids[rows]).float()
            rows_there = moved(rows, store.device)
            mine = there.select(rows, rows_there)
            for number, view in enumerate(views):
                view[rows_there] = self._formed(render(pixels, mine, number, self.spec))
        return views

    def _formed(self, view: Tensor) -> Tensor:
        """Normalised, or rounded to whole numbers; in the dtype of the views."""
        if self.view_format.normalised:
            view = view * self._factor + self._offset
        else:
            view = view.round()
        return view.to(self.view_format.torch_dtype)


def torch_device(device: str) -> torch.device:
    """ "cpu", "cuda", "gpu", "cuda:1" or "gpu:1" as torch names it.

    Raises:
        ValueError: another device.
        RuntimeError: there is no GPU.
    """
    kind, colon, index = device.partition(":")
    if device != "cpu" and (kind not in ("cuda", "gpu") or (colon and not index.isdecimal())):
        raise ValueError(f"unknown device '{device}', expected cpu, cuda, gpu or cuda:INDEX")
    if device == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RuntimeError(f"device '{device}': this machine has no GPU that torch can use; take 'cpu'")
    return torch.device("cuda", int(index) if colon else torch.cuda.current_device())


def groups_of(sizes: np.ndarray, most_pixels: int = _MOST_PIXELS) -> list[np.ndarray]:
    """Rows of images that are padded to one size and run together, so that at most half of it is padding.

    Sides share a group where they lie between the same two powers of the square root of 2; one size makes
    one group, as long as it has not more pixels than `most_pixels`.

    Args:
        sizes: (n, 2) widths and heights.
        most_pixels: of a padded group; one image may have more.
    """
    steps = np.ceil(2 * np.log2(sizes)).astype(np.int64)
    _, group = np.unique(steps, axis=0, return_inverse=True)
    group = group.reshape(-1)
    groups = []
    for number in range(group.max() + 1):
        rows = np.flatnonzero(group == number)
        together = max(1, most_pixels // int(sizes[rows].max(axis=0).prod()))
        groups += [rows[first : first + together] for first in range(0, len(rows), together)]
    return groups
