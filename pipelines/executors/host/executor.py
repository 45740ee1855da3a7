"""The host executor: libjpeg-turbo and one compiled kernel, one image per thread at a time."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from viewmill.pipelines.executors.executor import BatchDecodeError, check_batch, check_boxes
from viewmill.pipelines.executors.host.decoding import Decoder
from viewmill.pipelines.executors.host.image import plan_table, render_image, scratch_for
from viewmill.pipelines.executors.host.writing import form_of, normalisation_of
from viewmill.pipelines.executors.view_format import FLOAT32, ViewFormat, ViewMemory
from viewmill.pipelines.plans.planner import ViewPlan
from viewmill.pipelines.plans.spec import ViewSpec
from viewmill.shards.errors import ImageError


class HostExecutor:
    """Runs plans on the CPU's cores. The views of an image depend on its bytes and its row of the plan only.

    The first one on a machine compiles the kernel (see `compiled.kept` for where it is kept).

    Args:
        spec: the views.
        max_batch: most images of one run.
        num_threads: images that are decoded and rendered at the same time.
        view_format: dtype and layout of the views.

    Raises:
        ValueError: a batch or thread count below 1.
    """

    def __init__(
        self,
        spec: ViewSpec,
        *,
        max_batch: int,
        num_threads: int,
        view_format: ViewFormat = FLOAT32,
    ) -> None:
        if max_batch < 1 or num_threads < 1:
            raise ValueError(f"max_batch and num_threads must be >= 1, got {max_batch} and {num_threads}")
        self.spec = spec
        self.view_format = view_format
        self.max_batch = max_batch
        self.num_threads = num_threads
        self._memory = ViewMemory(view_format)
        self._renderers = [Renderer(spec, view_format) for _ in range(num_threads)]
        self._pool: ThreadPoolExecutor | None = ThreadPoolExecutor(num_threads, "viewmill-host")

    def run(self, images: list[bytes], plan: ViewPlan) -> list[torch.Tensor]:
        """V tensors (n, 3, S, S) of the view format; their memory is used again once they are garbage.

        Raises:
            BatchDecodeError: names the rows that cannot be decoded.
            ValueError: images and plan differ in length, the batch is larger than max_batch, or a box leaves
                its image (the plan was drawn for another size).
            RuntimeError: the executor is closed.
        """
        if self._pool is None:
            raise RuntimeError("this HostExecutor is closed: make a new one")
        check_batch(images, plan, self.spec, self.max_batch)
        work = _Batch(images, plan, [self._memory.take(len(images), size) for size in self.spec.sizes])
        ends = [self._pool.submit(renderer.work, work) for renderer in self._renderers]
        for end in ends:
            end.result()
        if work.reasons:
            raise BatchDecodeError(work.reasons)
        check_boxes(plan, work.sizes)
        return work.views

    def close(self) -> None:
        """Give the threads and the memory back; views already handed out stay valid."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        self._renderers.clear()
        self._memory.clear()


class _Batch:
    """A batch that the threads work on together: each takes the next image that nobody has taken."""

    def __init__(self, images: list[bytes], plan: ViewPlan, views: list[torch.Tensor]) -> None:
        self.images = images
        self.views = views
        self.table = plan_table(plan)
        self.sizes = np.zeros((len(images), 2), np.int64)
        self.reasons: dict[int, str] = {}  # row -> why it does not decode
        # Where image 0 of every view lies, and how far it is to the next.
        self.starts = np.array([view.data_ptr() for view in views], np.int64)
        self.steps = np.array([view[0].numel() * view.element_size() for view in views], np.int64)
        self.rows: Iterator[int] = itertools.count()  # next() is atomic under the GIL, and cheap without it


class Renderer:
    """What one thread keeps from image to image."""

    def __init__(self, spec: ViewSpec, view_format: ViewFormat) -> None:
        self.decoder = Decoder()
        self._sizes = np.array(spec.sizes, np.int64)
        self._bicubic = np.array([view.interpolation == "bicubic" for view in spec.views])
        self._normalisation = normalisation_of(spec, view_format)
        self._form = form_of(view_format)
        self._scratch = np.empty(1, np.float32)

    def work(self, batch: _Batch) -> None:
        """Render images of the batch until none is left."""
        for row in batch.rows:
            if row >= len(batch.images):
                return
            try:
                rgb = self.decoder.decode(batch.images[row])
            except ImageError as error:
                batch.reasons[row] = str(error)
                continue
            batch.sizes[row] = rgb.shape[1], rgb.shape[0]
            self.render(rgb, batch.table[row], batch.starts + row * batch.steps)

    def render(self, rgb: np.ndarray, rows: np.ndarray, memory: np.ndarray) -> None:
        """Write the views of one decoded image; rows: of `plan_table`; memory: (V,) addresses."""
        needed = scratch_for(rgb, rows, self._sizes, self._bicubic)
        if needed > len(self._scratch):
            self._scratch = np.empty(needed, np.float32)
        # A box that leaves the image is not rendered; `run` says which.
        render_image(
            rgb, rows, self._sizes, self._bicubic, self._normalisation, self._form, memory, self._scratch
        )
