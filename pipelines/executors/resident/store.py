"""A data set's pictures, decoded once and kept on one device: each in as many bytes as it has."""

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
import psutil
import torch
from torch import Tensor
from viewmill.pipelines.executors.host.decoding import Decoder
from viewmill.pipelines.samples import Samples
from viewmill.shards.errors import ImageError, ShardError

log = logging.getLogger(__name__)

_READ_TOGETHER = 64  # samples
_QUEUED = 4  # such reads for each thread, so that a large data set makes no list of tasks
_TOLD_EVERY_S = 10.0


class _Decoders(threading.local):
    """A decoder for each thread that asks."""

    def __init__(self) -> None:
        self.own = Decoder()


class ResidentImages:
    """Every picture of a data set as (3, H, W) uint8, one after another in one tensor.

    Each image is read against its hash and decoded once, when this is made. One that cannot be read or
    decoded takes its place all the same, and its fault is kept.

    Args:
        dataset: what is decoded; it is not needed afterwards.
        device: where the pictures are kept.
        num_threads: decoders.
        max_bytes: most bytes of pictures; None: half of what the device has free.

    Raises:
        ValueError: the pictures need more; both numbers are named. Nothing has been read then.
        StorageError: a remote store does not answer.
    """

    def __init__(
        self, dataset: Samples, device: torch.device, *, num_threads: int, max_bytes: int | None = None
    ) -> None:
        self.device = device
        self.sizes = dataset.sizes(np.arange(dataset.num_samples))  # (N, 2) width and height
        ends = np.cumsum(3 * self.sizes[:, 0] * self.sizes[:, 1])
        self._starts = np.concatenate([[0], ends])
        self._refuse_too_many(dataset, free_bytes(device) // 2 if max_bytes is None else max_bytes)
        self._pixels = torch.zeros(self.num_bytes, dtype=torch.uint8, device=device)
        self.unreadable: dict[int, ShardError] = {}  # by id
        self.undecodable: dict[int, str] = {}
        self._decoders = _Decoders()
        self._decode_all(dataset, num_threads)

    @property
    def num_bytes(self) -> int:
        """Bytes of all pictures."""
        return int(self._starts[-1])

    def picture(self, sample: int) -> Tensor:
        """(3, H, W) uint8; zeros where the image is bad."""
        width, height = self.sizes[sample].tolist()
        start, end = self._starts[sample : sample + 2].tolist()
        return self._pixels[start:end].view(3, height, width)

    def padded(self, samples: np.ndarray) -> Tensor:
        """(n, 3, H, W) uint8, as high and wide as the largest; zeros below and on the right of the others."""
        width, height = self.sizes[samples].max(axis=0).tolist()
        if (self.sizes[samples] == (width, height)).all():
            return torch.stack([self.picture(sample) for sample in samples.tolist()])
        together = torch.zeros(len(samples), 3, height, width, dtype=torch.uint8, device=self.device)
        for row, sample in enumerate(samples.tolist()):
            own_width, own_height = self.sizes[sample].tolist()
            together[row, :, :own_height, :own_width] = self.picture(sample)
        return together

    def _refuse_too_many(self, dataset: Samples, max_bytes: int) -> None:
        if self.num_bytes > max_bytes:
            raise ValueError(
                f"{dataset.shown}: its {dataset.num_samples} pictures are {self.num_bytes} bytes when "
                f"decoded, executor 'resident' may keep {max_bytes} on '{self.device}'; raise "
                "resident_bytes, convert to smaller images (viewmill convert --resize), or take another "
                "executor"
            )

    def _decode_all(self, dataset: Samples, num_threads: int) -> None:
        began_s = told_s = time.monotonic()
        done = 0
        for count in _in_threads(self, dataset, num_threads):
            done += count
            if time.monotonic() - told_s > _TOLD_EVERY_S:
                told_s = time.monotonic()
                log.info("resident: %d of %d images decoded", done, dataset.num_samples)
        log.info(
            "resident: %d images, %.1f MB on %s, decoded in %.1f s; %d are bad",
            done, self.num_bytes / 1e6, self.device, time.monotonic() - began_s,
            len(self.unreadable) + len(self.undecodable),
        )  # fmt: skip

    def _decode_some(self, dataset: Samples, ids: range) -> int:
        """Reads and decodes these samples; how many they are. Any thread may call it."""
        try:
            images: list[bytes | ShardError] = list(dataset.read(ids))
        except ShardError:
            images = [_read_alone(dataset, sample) for sample in ids]
        for sample, image in zip(ids, images, strict=True):
            if isinstance(image, ShardError):
                self.unreadable[sample] = image
            else:
                self._decode(sample, image)
        return len(ids)

    def _decode(self, sample: int, image: bytes) -> None:
        width, height = self.sizes[sample].tolist()
        try:
            rgb = self._decoders.own.decode(image)
            if rgb.shape != (height, width, 3):
                found = f"{rgb.shape[1]}x{rgb.shape[0]}"
                raise ImageError(f"another size: {found} pixels, the manifest says {width}x{height}")
        except ImageError as error:
            self.undecodable[sample] = str(error)
        else:
            self.picture(sample).copy_(torch.from_numpy(rgb).permute(2, 0, 1))


def free_bytes(device: torch.device) -> int:
    """Memory that nobody uses on the device now; for "cpu" what the system could give without swapping."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)


def _read_alone(dataset: Samples, sample: int) -> bytes | ShardError:
    try:
        return dataset.read([sample])[0]
    except ShardError as error:
        return error


def _in_threads(images: ResidentImages, dataset: Samples, num_threads: int) -> Iterator[int]:
    """Decodes the data set; yields how many samples are done more, in order."""
    blocks = (
        range(first, min(first + _READ_TOGETHER, dataset.num_samples))
        for first in range(0, dataset.num_samples, _READ_TOGETHER)
    )
    with ThreadPoolExecutor(num_threads, thread_name_prefix="viewmill-resident") as pool:
        waiting: list[Future[int]] = []
        while True:
            waiting += [
                pool.submit(images._decode_some, dataset, block)
                for block in islice(blocks, _QUEUED * num_threads - len(waiting))
            ]
            if not waiting:
                return
            yield waiting.pop(0).result()
