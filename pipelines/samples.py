"""What the pipelines ask of a data set, and several data sets as one."""

import hashlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Samples(Protocol):
    """The part of `shards.manifest.Dataset` that makes batches; see there."""

    @property
    def num_samples(self) -> int: ...

    @property
    def data_set_hash(self) -> str: ...

    @property
    def is_remote(self) -> bool: ...

    @property
    def shown(self) -> str: ...

    def read(self, ids: Sequence[int] | np.ndarray) -> list[bytes]: ...

    def stored_bytes(self, ids: Sequence[int] | np.ndarray) -> int: ...

    def sizes(self, ids: Sequence[int] | np.ndarray) -> np.ndarray: ...

    def labels(self, ids: Sequence[int] | np.ndarray) -> np.ndarray: ...

    def keys(self, ids: Sequence[int] | np.ndarray) -> list[str]: ...

    def prefetch(self, ids: Sequence[int] | np.ndarray) -> None: ...


class JoinedDataset:
    """Several data sets as one, part after part: the ids of a part follow those of the parts before it.

    The shards stay as they are, and the parts stay the caller's to close. A label is its own data set's class
    number: class 3 of one part has nothing to do with class 3 of another. Keys are those of the parts, with
    the part's number before them ("1:cat/0042"), since two parts may hold the same key.

    Raises:
        ValueError: no parts.
    """

    def __init__(self, parts: Sequence[Samples]) -> None:
        if not parts:
            raise ValueError("a joined data set needs at least one data set, got none")
        self.parts = tuple(parts)
        self._ends = np.cumsum([part.num_samples for part in self.parts])
        self._starts = self._ends - [part.num_samples for part in self.parts]

    @property
    def num_samples(self) -> int:
        return int(self._ends[-1])

    @property
    def data_set_hash(self) -> str:
        """SHA-256 over the hashes of the parts, in their order."""
        hashes = "\n".join(part.data_set_hash for part in self.parts)
        return hashlib.sha256(f"viewmill joined data sets 1\n{hashes}".encode()).hexdigest()

    @property
    def is_remote(self) -> bool:
        """Whether any part is, so that `prefetch` is of use."""
        return any(part.is_remote for part in self.parts)

    @property
    def shown(self) -> str:
        return " + ".join(part.shown for part in self.parts)

    def read(self, ids: Sequence[int] | np.ndarray) -> list[bytes]:
        """These images, in the order asked for; a part is asked once. Raises as `Dataset.read` does."""
        images = [b""] * len(ids)
        for number, rows, own in self._split(ids):
            for row, image in zip(rows.tolist(), self.parts[number].read(own), strict=True):
                images[row] = image
        return images

    def stored_bytes(self, ids: Sequence[int] | np.ndarray) -> int:
        """Bytes of these images as they lie in the shards."""
        return sum(self.parts[number].stored_bytes(own) for number, _, own in self._split(ids))

    def sizes(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """(width, height) of the upright images: (n, 2) int64."""
        sizes = np.empty((len(ids), 2), dtype=np.int64)
        for number, rows, own in self._split(ids):
            sizes[rows] = self.parts[number].sizes(own)
        return sizes

    def labels(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """The class number of each sample in its own data set, -1 where there is none: (n,) int64."""
        labels = np.empty(len(ids), dtype=np.int64)
        for number, rows, own in self._split(ids):
            labels[rows] = self.parts[number].labels(own)
        return labels

    def keys(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """The keys with the number of the part before them, "PART:KEY"."""
        keys = [""] * len(ids)
        for number, rows, own in self._split(ids):
            for row, key in zip(rows.tolist(), self.parts[number].keys(own), strict=True):
                keys[row] = f"{number}:{key}"
        return keys

    def prefetch(self, ids: Sequence[int] | np.ndarray) -> None:
        """Begins to fetch these samples of the parts that are remote."""
        for number, _, own in self._split(ids):
            self.parts[number].prefetch(own)

    def part_of(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """The number of the part that each id belongs to: (n,) int64.

        Raises:
            IndexError: an id outside the joined data set.
        """
        wanted = np.asarray(ids, dtype=np.int64)
        outside = wanted[(wanted < 0) | (wanted >= self.num_samples)]
        if outside.size:
            raise IndexError(f"{self.shown}: no sample {outside[0]}, ids go from 0 to {self.num_samples - 1}")
        return np.searchsorted(self._ends, wanted, side="right")

    def _split(self, ids: Sequence[int] | np.ndarray) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """For each part that is asked for: its number, the rows of the question, the part's own ids."""
        part_of, wanted = self.part_of(ids), np.asarray(ids, dtype=np.int64)
        found = []
        for number in np.unique(part_of).tolist():
            rows = np.flatnonzero(part_of == number)
            found.append((number, rows, wanted[rows] - self._starts[number]))
        return found
