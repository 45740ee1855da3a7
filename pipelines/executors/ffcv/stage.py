"""FFCV's pipeline of one decoder, compiled by FFCV, and called here for any images in memory.

FFCV's Loader is not what calls it, for reasons that lie in its design (ffcv 1.0.2). It reads one file, while
a data set has many. It takes the order of an epoch at its start, so that a batch cannot be made again with
a substitute. An exception in its thread ends the thread, and the training waits for ever. It trusts the
file's own tables, checks no hash, and keeps 0.55 kB of Python objects a sample. It writes again to the memory
that it gave out a few batches before. What makes FFCV fast is its compiled pipeline over mapped pages, and
that is used. `PlannedViews` works in FFCV's Loader all the same; a test runs it there.
"""

import threading
from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np
from numba import carray
from viewmill.pipelines.executors.ffcv.decoder import LivePlan, PlannedViews
from viewmill.pipelines.executors.ffcv.library import Compiler, Graph, PipelineSpec, RGBImageField
from viewmill.pipelines.executors.host.compiled import compiled
from viewmill.pipelines.executors.host.pointers import pointer
from viewmill.pipelines.executors.view_format import ViewFormat
from viewmill.pipelines.plans.spec import ViewSpec
from viewmill.shards.containers.beton import JPEG, RAW

_FIELD = "image"
_METADATA = np.dtype([("f0", RGBImageField().metadata_type)], align=True)  # as FFCV names its fields


class Source(NamedTuple):
    """An image in memory: a JPEG's bytes, or raw pixels row by row from the top left."""

    data: np.ndarray  # (size,) uint8, C-contiguous
    width: int
    height: int
    raw: bool


@compiled
def _read(row, storage_state):
    """FFCV's way to an image's bytes: a pointer of its metadata, which is a row here, and a state."""
    return carray(pointer(storage_state[0][row]), storage_state[1][row])


class Stage:
    """Makes the views of images, any rows of a batch at a time; several threads may call it for one batch.

    FFCV compiles the pipeline when this is made, which takes seconds: see `Stages`.

    spec, view_format: what is made. plan: of the batch, set before `run`.
    """

    def __init__(self, spec: ViewSpec, view_format: ViewFormat) -> None:
        self.plan = LivePlan()
        operation = PlannedViews(spec, view_format, self.plan)
        pipelines = {_FIELD: PipelineSpec(_FIELD, transforms=[operation])}
        graph = Graph(pipelines, {_FIELD: RGBImageField()}, {_FIELD: 0}, np.zeros(1, _METADATA), _read)
        (self._node,) = graph.node_to_id.values()
        threads = Compiler.num_threads
        # One thread: our own threads take image after image, which suits images of differing sizes. Not by
        # FFCV's setter, which sets torch's number of threads too.
        Compiler.num_threads = 1
        try:
            _, code = graph.collect_requirements()
            ((self._code, _),), _ = graph.codegen_all(code)
        finally:
            Compiler.num_threads = threads
        nothing = [np.zeros((0, view_format.bytes_of(1, size)), np.uint8) for size in spec.sizes]
        self.run(Sources([]), np.zeros(0, np.int64), nothing, np.zeros((0, 1), np.uint8))  # compiles

    def run(self, sources: "Sources", rows: np.ndarray, memory: list[np.ndarray], status: np.ndarray) -> None:
        """Makes the views of some images of a batch.

        Args:
            sources: the batch.
            rows: (m,) int64, which of its images; their rows of the live plan are used.
            memory: V arrays (m, bytes of the view) uint8, written.
            status: (m, 1) uint8, written: `DONE`, or another number where the image was refused.
        """
        arguments: dict[str, Any] = {
            "batch_indices": rows,
            "metadata": sources.metadata,
            "storage_state": sources.places,
            f"memory_{self._node}": (*memory, status),
            f"shared_memory_{self._node}": None,
        }
        self._code(**arguments)


class Stages:
    """Compiled stages that nobody uses, for the next executor of the same views in this process."""

    def __init__(self) -> None:
        self._idle: dict[tuple[ViewSpec, ViewFormat], list[Stage]] = defaultdict(list)
        self._lock = threading.Lock()

    def take(self, spec: ViewSpec, view_format: ViewFormat) -> Stage:
        """A stage that is the caller's alone until it is given back."""
        with self._lock:
            if idle := self._idle[spec, view_format]:
                return idle.pop()
            # Under the lock: numba compiles one function at a time as well.
            return Stage(spec, view_format)

    def give_back(self, spec: ViewSpec, view_format: ViewFormat, stage: Stage) -> None:
        """No thread runs it any more."""
        with self._lock:
            self._idle[spec, view_format].append(stage)


class Sources:
    """The images of a batch as FFCV's compiled code takes them; keeps them alive."""

    def __init__(self, images: list[Source]) -> None:
        self._images = images
        self.metadata = np.zeros(len(images), _METADATA)
        fields = self.metadata["f0"]
        fields["mode"] = [RAW if image.raw else JPEG for image in images]
        fields["width"] = [image.width for image in images]
        fields["height"] = [image.height for image in images]
        fields["data_ptr"] = np.arange(len(images))
        addresses = np.array([image.data.ctypes.data for image in images], np.int64)
        self.places = addresses, np.array([len(image.data) for image in images], np.int64)
