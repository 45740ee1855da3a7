"""An order of some of the samples: a list of ids, the samples of some classes, so many of every class."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from viewmill.pipelines.order import SampleOrder
from viewmill.pipelines.philox import Stream, keyed_words

SUBSET_VERSION = 1  # of this order and of `capped`; a change is a change of this number
_HASHED_AT_ONCE = 1 << 20  # ids


class SubsetOrder:
    """The order of a subset: a different bijection of its members in every epoch.

    The members are taken in ascending order, so that `block` neighbours of the subset lie near each other on
    disk. Memory: 8 bytes a member; members that are sorted already (a memory-mapped file too) are not copied.

    Args:
        members: the ids, each once, in any order.
        num_ids: samples of the data set.
        seed, block, window: see `SampleOrder`.

    Raises:
        ValueError: no members, one twice, or one that is not in the data set; names it.
    """

    repeats = False

    def __init__(
        self, members: ArrayLike, num_ids: int, seed: int, *, block: int = 1, window: int = 0
    ) -> None:
        self.members = checked_members(members, num_ids)
        self.num_ids = num_ids
        self._order = SampleOrder(len(self.members), seed, block=block, window=window)
        self._digest = hash_of_numbers(self.members)

    @property
    def num_samples(self) -> int:
        """Members, which are the positions of an epoch."""
        return len(self.members)

    def ids(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """The ids at positions [start, stop) of the epoch, see `Order`."""
        found: np.ndarray = np.asarray(self.members[self._order.ids(epoch, start, stop)], dtype=np.int64)
        return found

    def stand_in(self, sample: int, word: int) -> int:
        """A member may be replaced by any member."""
        return int(self.members[word % len(self.members)])

    def describe(self) -> dict[str, Any]:
        """Plain data, equal for equal orders alone."""
        return {
            "kind": "subset",
            "version": SUBSET_VERSION,
            "num_ids": self.num_ids,
            "members_sha256": self._digest,
            "of": self._order.describe(),
        }


def checked_members(members: ArrayLike, num_ids: int) -> np.ndarray:
    """The ids in ascending order: (n,) int64.

    Raises:
        ValueError: they are no list of whole numbers, none, one twice, or one outside [0, num_ids).
    """
    given = np.asanyarray(members)
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise ValueError(f"a subset is one list of whole numbers, got {given.dtype} of shape {given.shape}")
    if not given.size:
        raise ValueError("a subset needs at least one id, got none")
    ids = given.astype(np.int64, copy=False)
    if not (ids[1:] > ids[:-1]).all():
        ids = np.sort(ids)
        twice = np.flatnonzero(ids[1:] == ids[:-1])
        if twice.size:
            raise ValueError(
                f"id {ids[twice[0]]} stands twice in the subset ({twice.size} such); "
                "a subset holds an id once, weights make it come more often"
            )
    if ids[0] < 0 or ids[-1] >= num_ids:
        outside = ids[0] if ids[0] < 0 else ids[-1]
        raise ValueError(f"id {outside} of the subset is not in a data set of {num_ids} samples")
    return ids


def read_ids(path: Path) -> np.ndarray:
    """The ids in a file: `.npy` (memory-mapped), else text with one whole number a line.

    Raises:
        ValueError: another content; names the file, and the line of a text.
        FileNotFoundError: no such file.
    """
    if path.suffix == ".npy":
        try:
            array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path}: no array of ids ({error}); write it with numpy.save") from error
        return array
    ids = []
    with path.open(encoding="ascii", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            text = line.strip()
            if not (text.isascii() and text.isdigit() and len(text) <= 18):
                raise ValueError(f"{path}, line {number}: expected one sample id, got {text[:40]!r}")
            ids.append(int(text))
    return np.array(ids, dtype=np.int64)


def members_of_classes(labels: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """The ids whose label is one of `classes`, ascending.

    Raises:
        ValueError: a class without any sample; names it.
    """
    wanted = np.asarray(classes, dtype=np.int64)
    missing = wanted[~np.isin(wanted, labels)]
    if missing.size:
        raise ValueError(f"no sample has class {missing[0]}")
    return np.flatnonzero(np.isin(labels, wanted)).astype(np.int64)


def capped(
    labels: np.ndarray, max_per_class: int, seed: int, *, members: ArrayLike | None = None
) -> np.ndarray:
    """At most `max_per_class` ids of every class, chosen by the seed: ascending int64.

    An id is chosen by a random word of its own, smallest first. So the choice of a smaller cap is part of
    that of a larger one: a curve over label fractions is nested.

    Args:
        labels: (num_ids,) the class of every sample of the data set.
        max_per_class: of each class; a class that has fewer gives all of them.
        seed: 0 to 2**64 - 1.
        members: ids to choose from; None: all.

    Raises:
        ValueError: a cap below 1, or a sample to choose from that has no class.
    """
    if max_per_class < 1:
        raise ValueError(f"max_per_class must be >= 1, got {max_per_class}")
    ids = np.arange(len(labels)) if members is None else checked_members(members, len(labels))
    own = labels[ids]
    if (own < 0).any():
        raise ValueError(
            f"{int((own < 0).sum())} samples have no class (the first is id {ids[own < 0][0]}), so "
            "max_per_class cannot count them; name the classes to leave them out"
        )
    high, low = keyed_words(seed, Stream.CAPS, 0, ids, 0)[:2]
    words = high << np.uint64(32) | low
    by_class = np.lexsort((ids, words, own))
    starts = np.searchsorted(own[by_class], own[by_class], side="left")
    chosen = by_class[np.arange(len(ids)) - starts < max_per_class]
    return np.sort(ids[chosen]).astype(np.int64)


def hash_of_numbers(numbers: np.ndarray) -> str:
    """SHA-256 of the numbers as little-endian int64."""
    digest = hashlib.sha256()
    for start in range(0, len(numbers), _HASHED_AT_ONCE):
        digest.update(np.ascontiguousarray(numbers[start : start + _HASHED_AT_ONCE], dtype="<i8").data)
    return digest.hexdigest()
