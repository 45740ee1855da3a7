"""The DALI executor: carries a view plan out with DALI, on the CPU or on one GPU."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from viewmill.pipelines.executors.dali.jpeg_markers import check_markers
from viewmill.pipelines.executors.executor import BatchDecodeError, check_batch, check_boxes, read_all
from viewmill.pipelines.executors.view_format import FLOAT32, ViewFormat
from viewmill.pipelines.plans.planner import ViewPlan
from viewmill.pipelines.plans.spec import ViewSpec
from viewmill.shards.images import ImageInfo, decode_rgb, probe

if TYPE_CHECKING:
    from viewmill.pipelines.executors.dali.kernel_graph import KernelGraph
    from viewmill.pipelines.executors.dali.operator_graph import OperatorGraph


class DaliExecutor:
    """Runs encoded images and their plan through DALI's graph, one batch at a time.

    On the CPU the views are made by the host executor's kernel, as an operator of DALI's, and are equal to
    `host`'s bit for bit. On a GPU, and with `own_operators`, DALI's own operators make them.

    Args:
        spec: the views.
        max_batch: most images of one run.
        num_threads: DALI's worker threads; they do not change the pixels.
        device: "cpu", or "cuda", "gpu", "cuda:1": decoded and augmented on that GPU.
        view_format: dtype and layout of the views.
        own_operators: what a GPU runs, on the CPU too.

    Raises:
        ValueError: an unknown device, or a batch or thread count below 1.
        RuntimeError: the GPU cannot be used.
    """

    def __init__(
        self,
        spec: ViewSpec,
        *,
        max_batch: int,
        num_threads: int,
        device: str = "cpu",
        view_format: ViewFormat = FLOAT32,
        own_operators: bool = False,
    ) -> None:
        if max_batch < 1 or num_threads < 1:
            raise ValueError(f"max_batch and num_threads must be >= 1, got {max_batch} and {num_threads}")
        self.spec = spec
        self.view_format = view_format
        self.max_batch = max_batch
        self.num_threads = num_threads
        self.device_id = device_id_of(device)
        self.own_operators = own_operators or self.device_id is not None
        self._graph: KernelGraph | OperatorGraph | None = self._new_graph()

    def run(self, images: list[bytes], plan: ViewPlan) -> list[torch.Tensor]:
        """The views of these images: V tensors (n, 3, S, S), which no later run writes to.

        Raises:
            BatchDecodeError: names the rows that cannot be decoded; the next run works as if
                this one had not been.
            ValueError: images and plan differ in length, or the batch is larger than max_batch.
            RuntimeError: the executor is closed, or DALI failed for another reason than an image.
        """
        if self._graph is None:
            raise RuntimeError("this DaliExecutor is closed: make a new one")
        check_batch(images, plan, self.spec, self.max_batch)
        # A broken header can end the whole process inside DALI 2.4; looking costs 0.05 ms an image.
        headers = read_all(images, safe_header)
        check_boxes(plan, np.array([(header.width, header.height) for header in headers]))
        try:
            return self._graph.run(images, plan)
        except RuntimeError:
            # One bad image fails DALI's whole batch, its message does not say which row it was, and DALI
            # calls the pipeline invalid from then on: building another takes 10 ms.
            self._graph = self._new_graph()
            read_all(images, decode_rgb)
            if reasons := self._dali_refusals(images, plan):
                raise BatchDecodeError(reasons) from None
            raise

    def close(self) -> None:
        """Free DALI's threads and memory; views already handed out stay valid."""
        self._graph = None

    def _new_graph(self) -> "KernelGraph | OperatorGraph":
        # Imported where it is used: the kernel's graph brings numba, which a GPU has no need of.
        sizes = {"max_batch": self.max_batch, "num_threads": self.num_threads}
        if self.own_operators:
            from viewmill.pipelines.executors.dali.operator_graph import OperatorGraph

            return OperatorGraph(self.spec, self.view_format, device_id=self.device_id, **sizes)
        from viewmill.pipelines.executors.dali.kernel_graph import KernelGraph

        return KernelGraph(self.spec, self.view_format, **sizes)

    def _dali_refusals(self, images: list[bytes], plan: ViewPlan) -> dict[int, str]:
        """Rows that DALI refuses alone, though our own decoder takes them."""
        reasons = {}
        graph = self._new_graph()
        for row, image in enumerate(images):
            try:
                graph.run([image], plan.select([row]))
            except RuntimeError as error:
                graph = self._new_graph()
                if "fn.decoders.image" in str(error):  # the operator that failed
                    reasons[row] = "DALI does not decode it, though Pillow does"
        return reasons


def safe_header(image: bytes) -> ImageInfo:
    """What the header says, if it is one that DALI survives.

    Raises:
        ImageError: no image, or a broken header.
    """
    check_markers(image)
    return probe(image)


def device_id_of(device: str) -> int | None:
    """None for "cpu"; the index for "gpu", "cuda", "gpu:1" or "cuda:1", 0 where there is none.

    Raises:
        ValueError: anything else.
    """
    if device == "cpu":
        return None
    kind, colon, index = device.partition(":")
    if kind not in ("gpu", "cuda") or (colon and not index.isdecimal()):
        raise ValueError(f"unknown device '{device}', expected cpu, cuda, gpu or cuda:INDEX")
    return int(index or 0)
