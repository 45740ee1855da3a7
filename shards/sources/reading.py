"""An input's bytes, read when its shard is written: as they were in the plan, or not at all."""

import xxhash
from viewmill.shards.sources.inputs import Place
from viewmill.shards.storage.faults import is_of_the_machine
from viewmill.shards.storage.tree import Changed, Readable

_BLOCK = 8 << 20


class Unusable(Exception):
    """An input that cannot be had; xxh64: of its bytes, None where they could not be read."""

    def __init__(self, reason: str, xxh64: int | None = None) -> None:
        super().__init__(reason)
        self.xxh64 = xxh64


def read_input(tree: Readable, place: Place) -> bytes:
    """The bytes of an input, which are what they were when the plan was made.

    Raises:
        Unusable: they cannot be read, are too large, or have changed; OSError: the machine is at fault, or
            the whole source is gone; StorageError: the remote store is at fault.
    """
    try:
        if place.size > place.limit:
            reason = f"too large: {place.size} bytes, the limit is {place.limit // 10**6} MB"
            raise Unusable(reason, _hash_of(tree, place))
        data = tree.read(place.file, place.offset, place.size, place.state)
    except Changed as changed:
        raise Unusable("changed: the file was changed while the conversion ran") from changed
    except OSError as error:
        if is_of_the_machine(error) or not tree.is_there():
            raise
        raise Unusable(f"unreadable: {error.strerror}") from error
    if place.xxh64 is not None and xxhash.xxh64_intdigest(data) != place.xxh64:
        raise Unusable("damaged: the bytes are not those of the source's manifest, or of its first reading")
    return data


def _hash_of(tree: Readable, place: Place) -> int:
    digest = xxhash.xxh64()
    end = place.offset + place.size
    for at in range(place.offset, end, _BLOCK):
        digest.update(tree.read(place.file, at, min(end - at, _BLOCK), place.state))
    return digest.intdigest()
