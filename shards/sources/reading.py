"""An input's bytes, read when its shard is written: as they were in the plan, or not at all."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import xxhash
from viewmill.shards.containers.slabs import SLAB_BYTES
from viewmill.shards.errors import StorageError
from viewmill.shards.sources.inputs import Place
from viewmill.shards.storage.faults import is_of_the_machine
from viewmill.shards.storage.tree import Changed, Readable

_BLOCK = 8 << 20
_TAR_OVERHEAD = 2048  # of a member and its label
_MOST_AT_ONCE = 64  # of small inputs: a caller that is told of each shall not wait for many


class Unusable(Exception):
    """An input that cannot be had; xxh64: of its bytes, None where they could not be read."""

    def __init__(self, reason: str, xxh64: int | None = None) -> None:
        super().__init__(reason)
        self.xxh64 = xxh64


class Read(NamedTuple):
    """An input's bytes and their hash."""

    data: memoryview
    xxh64: int


Rooms = Callable[[list[int]], list[memoryview]]  # memory for so many bytes each


def read_inputs(tree: Readable, places: Sequence[Place], rooms: Rooms) -> Iterator[Read | Exception]:
    """The bytes of each input, which are what they were when the plan was made, or why they cannot be had.

    Several are read at a time: the work on an image runs twice as fast where it does not alternate with
    reading, which drives what it needs out of the cache.

    Returns:
        Of each input its bytes, which are the caller's until those of all that were read with it are taken,
        or an exception: `Unusable`, or what is to be raised, as the last one: an OSError where the machine
        is at fault or the whole source is gone, a StorageError where the remote store is.
    """
    for begin, end in _batches(places):
        yield from _read_batch(tree, places[begin:end], rooms)


def _batches(places: Sequence[Place]) -> Iterator[tuple[int, int]]:
    """Runs [begin, end) of inputs that fit a slab together, or one."""
    begin, size = 0, 0
    for number, place in enumerate(places):
        added = _TAR_OVERHEAD + (place.size if place.size <= place.limit else 0)
        if number > begin and (size + added > SLAB_BYTES or number - begin == _MOST_AT_ONCE):
            yield begin, number
            begin, size = number, 0
        size += added
    if places:
        yield begin, len(places)


def _read_batch(tree: Readable, places: Sequence[Place], rooms: Rooms) -> list[Read | Exception]:
    free = iter(rooms([place.size for place in places if place.size <= place.limit]))
    found: list[Read | Exception] = []
    for place in places:
        try:
            found.append(_read(tree, place, free))
        except Unusable as unusable:
            found.append(unusable)
        except (OSError, StorageError) as error:
            found.append(error)
            break
    return found


def _read(tree: Readable, place: Place, free: Iterator[memoryview]) -> Read:
    try:
        if place.size > place.limit:
            reason = f"too large: {place.size} bytes, the limit is {place.limit // 10**6} MB"
            raise Unusable(reason, _hash_of(tree, place))
        data = next(free)
        tree.read_into(place.file, place.offset, data, place.state)
    except Changed as changed:
        raise Unusable("changed: the file was changed while the conversion ran") from changed
    except OSError as error:
        if is_of_the_machine(error) or not tree.is_there():
            raise
        raise Unusable(f"unreadable: {error.strerror}") from error
    xxh64 = xxhash.xxh64_intdigest(data)
    if place.xxh64 is not None and xxh64 != place.xxh64:
        raise Unusable("damaged: the bytes are not those of the source's manifest, or of its first reading")
    return Read(data, xxh64)


def _hash_of(tree: Readable, place: Place) -> int:
    digest = xxhash.xxh64()
    end = place.offset + place.size
    for at in range(place.offset, end, _BLOCK):
        digest.update(tree.read(place.file, at, min(end - at, _BLOCK), place.state))
    return digest.intdigest()
