"""manifest.bin as rows of a fixed width: a few read one by one, many through the memory map."""

import os
from pathlib import Path

import numpy as np
from viewmill.shards.errors import ShardError

RECORD = np.dtype(
    [
        ("shard", "<i4"),
        ("offset", "<i8"),
        ("size", "<i4"),
        ("label", "<i4"),
        ("width", "<i4"),
        ("height", "<i4"),
        ("xxh64", "<u8"),
    ]
)
# A page that is touched through a map brings its neighbours into the process: 1,024 rows out of 1e8 made 860
# MiB resident. A read of its own takes 1 us a row and leaves nothing behind.
_FEW = 8192


class Rows:
    """The rows of manifest.bin, opened once; safe in several threads until it is closed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDONLY)
        self._map: np.ndarray | None = None

    @property
    def all(self) -> np.ndarray:
        """Every row, memory-mapped when it is first asked for: (N,) RECORD."""
        if self._map is None:
            self._map = np.memmap(self.path, dtype=RECORD, mode="r")
        return self._map

    def of(self, ids: np.ndarray) -> np.ndarray:
        """Rows of these ids (n,), which the caller has checked: (n,) RECORD.

        Raises:
            ShardError: the file has become shorter.
        """
        if len(ids) > _FEW:
            rows: np.ndarray = self.all[ids]
            return rows
        width = RECORD.itemsize
        found = b"".join(os.pread(self._file, width, width * row) for row in ids.tolist())
        if len(found) != width * len(ids):
            raise ShardError(f"{self.path}: cut short since it was opened; put it back or convert again")
        return np.frombuffer(found, RECORD)

    def close(self) -> None:
        """Unmaps the file, once no caller holds rows of the map."""
        self._map = np.empty(0, RECORD)
        os.close(self._file)
