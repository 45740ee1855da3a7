"""A number, and under which conditions it was measured: what may stand in one column, and what differs."""

from dataclasses import dataclass, field

PROTOCOL, TEST_DATA, TRAIN_DATA = "†", "‡", "§"
MARKS = {
    PROTOCOL: "by another protocol than the first number of its column",
    TEST_DATA: "on other test images",
    TRAIN_DATA: "learnt from other training images",
}
UNKNOWN = "not recorded"
SHARES = ("top1", "top5", "pixel_accuracy", "class_accuracy", "mean_iou", "mean_average_precision")


@dataclass(frozen=True)
class Conditions:
    """What a number depends on beside the backbone."""

    protocol: str
    test: str  # the hash of the test images, or a paper's data set
    train: (
        str | None
    )  # the hash of what was learnt from; None: nothing was, or a paper's, which goes with `test`
    size: tuple[int, int] | None = None  # classes and images of the test set
    is_papers: bool = False  # papers give no hashes: a data set is taken for theirs by its size
    same_as: str | None = None  # the id of the protocol here that does what a paper says of its own

    def marks_against(self, first: "Conditions") -> str:
        """The marks of a number of these conditions in a column that `first` heads."""
        by_name = self.is_papers or first.is_papers
        found = [
            (PROTOCOL, not self.same_protocol(first)),
            (TEST_DATA, not self.same_test(first)),
            (TRAIN_DATA, not by_name and self.train != first.train),
        ]
        return "".join(mark for mark, differs in found if differs)

    def same_protocol(self, other: "Conditions") -> bool:
        """Whether both were measured alike, as far as a paper tells how."""
        ids = {other.protocol, other.same_as} - {None, UNKNOWN}
        return bool({self.protocol, self.same_as} & ids)

    def same_test(self, other: "Conditions") -> bool:
        """Whether both are over the same test images; of a paper's, as far as their number tells."""
        by_size = (self.is_papers or other.is_papers) and self.size is not None
        return (self.test == other.test and self.test != UNKNOWN) or (by_size and self.size == other.size)


@dataclass(frozen=True)
class Figure:
    """One number of one subject; accuracies are shares of 1."""

    value: float
    conditions: Conditions
    error: float | None = None  # standard error of the value over the test images, where it is known


@dataclass(frozen=True)
class Subject:
    """A row of the comparison: a run, its untrained backbone, or a row of a paper's table."""

    name: str
    kind: str  # "run", "untrained" or "paper"
    figures: dict[str, Figure] = field(default_factory=dict)  # by "task.measure"
    source: str | None = None  # paper, table and data set


def task_of(key: str) -> str:
    """knn@20 of knn@20.top1; a measure's name may have points of its own."""
    return key.partition(".")[0]


def measure_of(key: str) -> str:
    """top1 of knn@20.top1."""
    return key.partition(".")[2]


def is_share(key: str) -> bool:
    """Whether it is told in percent."""
    return measure_of(key) in SHARES
