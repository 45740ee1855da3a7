"""What a source's files are read through: a folder of this machine, or a prefix of URLs."""

from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, NamedTuple, Protocol, TypeVar

NOT_STATED = -1  # the stamp of a file that the conversion itself writes

T = TypeVar("T")
R = TypeVar("R")


class FileState(NamedTuple):
    """What a file is recognised by: its bytes, and a stamp that changes when its content does.

    stamp: the time of the last change in ns of a local file; of a remote one its ETag or time as text, empty
    where the store states neither.
    """

    size: int
    stamp: int | str


class File(NamedTuple):
    """A file below a tree; fault: why it cannot be read, or None."""

    path: str
    state: FileState
    fault: str | None = None


class Changed(Exception):
    """A file is no longer what it was when the plan was made."""


class NoRegularFile(OSError):
    """A folder, pipe, socket or device stands where a file is expected."""


class Readable(Protocol):
    """Files whose ranges can be read."""

    @property
    def waits(self) -> bool:
        """Whether a call waits for a network, so that several are better made at once."""

    def read(self, file: str, offset: int, size: int, planned: FileState) -> bytes:
        """Exactly this range of a file that is what it was.

        Raises:
            Changed: it is not; OSError, StorageError: as `Tree.state`.
        """

    def read_into(self, file: str, offset: int, room: memoryview, planned: FileState) -> None:
        """As `read`, into as many bytes as there is room for."""

    def is_there(self) -> bool:
        """Whether the root can be seen: of a lost mount an empty folder is left, or nothing."""


class Tree(Readable, Protocol):
    """Files by their paths below a root, '/' between folders; it can be sent to a spawned process."""

    def shown(self, file: str) -> str:
        """The file's path or URL, for people."""

    def state(self, file: str) -> FileState:
        """Its size and stamp now.

        Raises:
            NoRegularFile, or another OSError: the file is not there; StorageError: the store does not answer.
        """

    def peek(self, file: str, offset: int, size: int) -> bytes:
        """These bytes, whatever the file has become, fewer at a local one's end; errors: as `state`."""

    def open(self, file: str) -> BinaryIO:
        """The file, to be read from any byte; errors as those of `state`, at any read too."""

    def files(self) -> list[File]:
        """All files below the root, in no order; what cannot be read has a fault."""

    def names(self) -> set[str]:
        """What lies directly in the root: the names of its files and folders."""


def has_file(tree: Tree, file: str) -> bool:
    """Whether there is such a file."""
    try:
        tree.state(file)
    except (FileNotFoundError, NotADirectoryError, NoRegularFile):
        return False
    return True


def files_ending(tree: Tree, ending: str) -> list[str]:
    """Paths of the files below the root that end so, sorted; none where a remote root is not there."""
    try:
        files = tree.files()
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(file.path for file in files if file.path.endswith(ending))


def for_each(tree: Tree, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`function` of each item, in order; many at a time where each waits for a network."""
    if not tree.waits:
        yield from map(function, items)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="viewmill-ask") as threads:
        yield from threads.map(function, items)


_AT_ONCE = 16
