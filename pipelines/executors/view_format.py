"""What an executor writes and where: dtype and layout of the views, and memory that is used again."""

import weakref
from collections import defaultdict, deque
from dataclasses import dataclass

import numpy as np
import torch

DTYPES = {
    "uint8": torch.uint8,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
}


@dataclass(frozen=True)
class ViewFormat:
    """The form of every view of a batch.

    Args:
        dtype: "float32", "float16" or "bfloat16", normalised; "uint8": pixels on 0..255, rounded, which the
            caller normalises.
        channels_last: the channels of a pixel lie side by side (torch.channels_last); the shape stays
            (n, 3, S, S).

    Raises:
        ValueError: another dtype.
    """

    dtype: str = "float32"
    channels_last: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"the dtype of views must be one of {', '.join(DTYPES)}, got '{self.dtype}'")

    @property
    def torch_dtype(self) -> torch.dtype:
        """The tensors' dtype."""
        return DTYPES[self.dtype]

    @property
    def normalised(self) -> bool:
        """Whether the mean is subtracted and the deviation divided by."""
        return self.dtype != "uint8"

    @property
    def memory_format(self) -> torch.memory_format:
        """The tensors' layout, as torch names it."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def bytes_of(self, num_images: int, size: int) -> int:
        """Bytes of one view of so many images."""
        return num_images * 3 * size * size * self.torch_dtype.itemsize


FLOAT32 = ViewFormat()


class ViewMemory:
    """Hands out tensors for views, in memory that comes back when no tensor of it is left.

    New memory costs a page fault for every 4 kB that is written; a batch of 64 x (2 x 224 + 6 x 96) pixels in
    float32 has 30,000. Nothing has to be returned: what the caller drops, with every tensor made from it
    by slicing or viewing, is used again. An asynchronous copy to a device must keep the tensor until it is
    done.

    Args:
        view_format: dtype and layout.
        pinned: page-locked memory, for asynchronous copies to a GPU.
    """

    def __init__(self, view_format: ViewFormat, *, pinned: bool = False) -> None:
        self.view_format = view_format
        self._pinned = pinned
        self._free: dict[int, list[torch.Tensor]] = defaultdict(list)  # by bytes
        self._lent: dict[int, _Lease] = {}  # by the lease's id
        # A callback in C: a Ctrl-C that met one in Python would be lost with all that a callback raises.
        self._ended: deque[_Lease] = deque()

    def take(self, num_images: int, size: int) -> torch.Tensor:
        """An uninitialised tensor (num_images, 3, size, size)."""
        self._take_back()
        num_bytes = self.view_format.bytes_of(num_images, size)
        free = self._free[num_bytes]
        memory = free.pop() if free else torch.empty(num_bytes, dtype=torch.uint8, pin_memory=self._pinned)
        lent = memory.numpy()[:]  # lives as long as any tensor of the storage that is made from it
        lease = _Lease(lent, self._ended.append)
        lease.memory = memory
        self._lent[id(lease)] = lease
        flat = torch.from_numpy(lent).view(self.view_format.torch_dtype)
        if self.view_format.channels_last:
            return flat.view(num_images, size, size, 3).permute(0, 3, 1, 2)
        return flat.view(num_images, 3, size, size)

    def clear(self) -> None:
        """Give back what is not in use; what is in use goes with its last tensor."""
        self._free.clear()
        self._lent.clear()
        self._ended.clear()

    def _take_back(self) -> None:
        while self._ended:
            lease = self._ended.popleft()
            del self._lent[id(lease)]
            self._free[len(lease.memory)].append(lease.memory)


class _Lease(weakref.ref[np.ndarray]):
    """Tells when nobody has the array any more, and keeps the memory for the next one."""

    memory: torch.Tensor
