"""What a source consists of: inputs, each a range of some file's bytes."""

from pathlib import Path
from typing import NamedTuple, Protocol

from viewmill.shards.errors import ConvertError
from viewmill.shards.images import MAX_BYTES, MAX_RAW_BYTES, format_of
from viewmill.shards.storage.faults import is_of_the_machine
from viewmill.shards.storage.tree import FileState, NoRegularFile, Tree

ENCODED = "encoded"  # the form of bytes that are an image file


class Place(NamedTuple):
    """Where an input's bytes lie, and what must not have changed when they are read.

    file: below the source's root. offset, size: its range, bytes. file_size, stamp: of the whole file when
    the plan was made, see `FileState`. form: `ENCODED`, or the name of a layout in `raw.py`. xxh64: of the
    range, where known.
    """

    file: str
    offset: int
    size: int
    file_size: int
    stamp: int | str
    form: str = ENCODED
    xxh64: int | None = None

    @property
    def state(self) -> FileState:
        """The whole file's, when the plan was made."""
        return FileState(self.file_size, self.stamp)

    @property
    def limit(self) -> int:
        """Most bytes that an input of this form may have."""
        return MAX_BYTES if self.form == ENCODED else MAX_RAW_BYTES


class Input(NamedTuple):
    """One input of a conversion.

    path: its name in the source, the manifest's `source`. class_name: None where it has no class.
    fault: why it is quarantined unread, or None.
    """

    path: str
    key: str
    class_name: str | None
    place: Place
    fault: str | None = None


class Spill(Protocol):
    """Makes plain files out of a source that cannot be read by ranges."""

    def write(self, tree: Tree, folder: Path) -> None:
        """Writes the files into `folder`, each whole or absent; those that are there stay."""


class Listing(NamedTuple):
    """All inputs of a source in an order of its own, in one tree.

    classes: the names by label, where the source numbers them; None: the names that images have, sorted.
    spill: writes the files that the inputs' places name, where the source has no byte ranges of its own;
    None: they lie in the tree.
    """

    tree: Tree
    inputs: list[Input]
    classes: tuple[str, ...] | None = None
    spill: "Spill | None" = None


def whole_file(tree: Tree, file: str) -> tuple[Place, str | None]:
    """The place of a whole file of a tree, and why it cannot be an input, or None."""
    try:
        state = tree.state(file)
    except NoRegularFile:
        return Place(file, 0, 0, 0, 0), "not a regular file: a folder, pipe, socket or device"
    except OSError as error:
        if is_of_the_machine(error):
            raise
        return Place(file, 0, 0, 0, 0), f"unreadable: {error.strerror}"
    return Place(file, 0, state.size, *state), None


def begins_like_an_image(tree: Tree, found: Input) -> bool:
    """Whether the first bytes of an input are those of a known image format."""
    if found.fault:
        return False
    place = found.place
    if place.form != ENCODED:
        return True
    try:
        return format_of(tree.peek(place.file, place.offset, min(16, place.size))) is not None
    except OSError as error:
        if is_of_the_machine(error):
            raise
        return False  # the conversion will meet it again, and record it


def numbered_classes(names: set[str]) -> tuple[str, ...] | None:
    """Class names by label where all of them are numbers (0, 1, ...): a number keeps its meaning.

    Raises:
        ConvertError: a number beyond a million.
    """
    if not names or not all(name.isascii() and name.isdigit() and name == str(int(name)) for name in names):
        return None
    largest = max(map(int, names))
    if largest >= 1_000_000:
        raise ConvertError(f"class number {largest}: numbers up to 999999 are labels; give names otherwise")
    return tuple(str(number) for number in range(largest + 1))
