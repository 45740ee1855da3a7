"""The FFCV executor: FFCV's compiled pipeline over the mapped betons of a data set, with the plan's views."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from viewmill.pipelines.executors.executor import BatchDecodeError, check_batch, check_boxes
from viewmill.pipelines.executors.ffcv.betons import MappedBetons
from viewmill.pipelines.executors.ffcv.decoder import DONE
from viewmill.pipelines.executors.ffcv.stage import Source, Sources, Stages
from viewmill.pipelines.executors.view_format import FLOAT32, ViewFormat, ViewMemory
from viewmill.pipelines.plans.planner import ViewPlan
from viewmill.pipelines.plans.spec import ViewSpec
from viewmill.shards.containers.beton import StoredImage
from viewmill.shards.errors import ImageError
from viewmill.shards.exif import UPRIGHT
from viewmill.shards.images import decode_rgb
from viewmill.shards.jpeg_header import plain_jpeg_header
from viewmill.shards.manifest import Dataset

_STAGES = Stages()
_HEADER_BYTES = 1 << 16  # a JPEG whose header is longer is left to Pillow


class FfcvExecutor:
    """Carries plans out on the CPU with FFCV, fed by ids of a data set of betons.

    A beton's pages are hashed against the manifest where they are mapped, then decoded from there. FFCV
    decodes JPEGs with libjpeg-turbo's fast DCT; an image that it refuses is decoded as the data set says, and
    only where that fails too is it bad.

    Args:
        dataset: of kind "ffcv", in a local folder.
        spec: the views.
        max_batch: most images of one run.
        num_threads: images that are decoded and rendered at the same time.
        view_format: dtype and layout of the views.

    Raises:
        ValueError: a data set of another kind or at a URL, or a thread count below 1.
    """

    def __init__(
        self,
        dataset: Dataset,
        spec: ViewSpec,
        *,
        max_batch: int,
        num_threads: int,
        view_format: ViewFormat = FLOAT32,
    ) -> None:
        if num_threads < 1:
            raise ValueError(f"num_threads must be >= 1, got {num_threads}")
        check_data_set(dataset)
        self.spec = spec
        self.view_format = view_format
        self._dataset = dataset
        self._max_batch = max_batch
        self._num_threads = num_threads
        self._memory = ViewMemory(view_format)
        self._stage = _STAGES.take(spec, view_format)
        self._betons = MappedBetons(dataset.path, [shard.name for shard in dataset.info.shards])
        self._pool: ThreadPoolExecutor | None = ThreadPoolExecutor(num_threads, "viewmill-ffcv")

    def fetch(self, ids: np.ndarray) -> list[StoredImage]:
        """What `run` takes in the place of encoded images: mapped bytes, which have their hash.

        Raises:
            ShardError: bytes that are missing or not those that were written.
            ValueError: the executor or the data set is closed.
        """
        return self._dataset.stored(ids, self._betons.read)

    def run(self, images: list[StoredImage], plan: ViewPlan) -> list[torch.Tensor]:
        """V tensors (n, 3, S, S) of the view format; their memory is used again once they are garbage.

        Raises:
            BatchDecodeError: names the rows that cannot be decoded.
            ValueError: images and plan differ in length, the batch is larger than max_batch, or a box leaves
                its image.
            RuntimeError: the executor is closed.
        """
        if self._pool is None:
            raise RuntimeError("this FfcvExecutor is closed: make a new one")
        check_batch(images, plan, self.spec, self._max_batch)
        batch = _Batch(images, [self._memory.take(len(images), size) for size in self.spec.sizes])
        self._stage.plan.set(plan)
        self._make(batch, self._pool, list(range(len(images))))
        # What libjpeg-turbo has any doubt about, Pillow decides, as for every executor.
        refused = [row for row in np.flatnonzero(batch.status[:, 0] != DONE).tolist() if not images[row].raw]
        for row in refused:
            batch.decode_by_pillow(row)
        if batch.reasons:
            raise BatchDecodeError(batch.reasons)
        if refused:
            self._make(batch, self._pool, refused)
        check_boxes(plan, np.array([(source.width, source.height) for source in batch.sources]))
        assert (batch.status == DONE).all()  # only a box outside its image is refused beside a JPEG
        return batch.views

    def close(self) -> None:
        """Give threads, memory and maps back; views already handed out stay valid."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
            _STAGES.give_back(self.spec, self.view_format, self._stage)
        self._memory.clear()
        self._betons.close()

    def _make(self, batch: "_Batch", pool: ThreadPoolExecutor, rows: list[int]) -> None:
        """The views of these rows; each thread takes the next row that nobody has taken."""
        sources = Sources(batch.sources)
        turns: Iterator[int] = itertools.count()  # next() is atomic under the GIL
        work = [pool.submit(self._work, batch, sources, rows, turns) for _ in range(self._num_threads)]
        for end in work:
            end.result()

    def _work(self, batch: "_Batch", sources: Sources, rows: list[int], turns: Iterator[int]) -> None:
        for turn in turns:
            if turn >= len(rows):
                return
            row = rows[turn]
            memory = [view[row : row + 1] for view in batch.memory]
            self._stage.run(sources, np.array([row]), memory, batch.status[row : row + 1])


class _Batch:
    """A batch in the making."""

    def __init__(self, images: list[StoredImage], views: list[torch.Tensor]) -> None:
        self.images = images
        self.views = views
        self.memory = [bytes_of_rows(view) for view in views]
        self.status = np.full((len(images), 1), DONE, np.uint8)
        self.reasons: dict[int, str] = {}  # row -> why it does not decode
        self.sources = [_source_of(image) for image in images]

    def decode_by_pillow(self, row: int) -> None:
        """Makes the row's source the pixels that the data set defines, or notes why there are none."""
        try:
            rgb = decode_rgb(bytes(self.images[row].data))
        except ImageError as error:
            self.reasons[row] = str(error)
        else:
            self.sources[row] = Source(rgb.reshape(-1), rgb.shape[1], rgb.shape[0], raw=True)


def _source_of(image: StoredImage) -> Source:
    """The stored bytes; a JPEG whose header is not a plain one of the manifest's size becomes an empty one.

    FFCV would decode that into the wrong rows, or not as the data set says; it refuses one without a byte.
    """
    data = np.frombuffer(image.data, np.uint8)
    if not image.raw:
        header = plain_jpeg_header(bytes(image.data[:_HEADER_BYTES]))
        if header is None or header[:3] != (image.width, image.height, UPRIGHT):
            data = data[:0]
    return Source(data, image.width, image.height, image.raw)


def bytes_of_rows(view: torch.Tensor) -> np.ndarray:
    """The memory of a view of n images: (n, bytes) uint8."""
    in_order = view.permute(0, 2, 3, 1) if not view.is_contiguous() else view
    return in_order.reshape(len(view), -1).view(torch.uint8).numpy()


def check_data_set(dataset: Dataset) -> None:
    """Refuse a data set whose shards FFCV cannot map.

    Raises:
        ValueError: it has no betons, or they are at a URL.
    """
    if dataset.kind != "ffcv":
        raise ValueError(
            f"{dataset.shown}: executor 'ffcv' reads betons, this data set is of kind '{dataset.kind}'; "
            "make one with: viewmill convert --format ffcv, or take executor 'host'"
        )
    if dataset.is_remote:
        raise ValueError(
            f"{dataset.shown}: executor 'ffcv' maps betons, which needs a local copy; copy the data set, or "
            "take executor 'host'"
        )
