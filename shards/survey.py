"""What is in a data set: counts, sizes and refusals, read from the manifest alone."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from viewmill.shards.manifest import Dataset, damage_named

SHOWN_KEYS = 5


@dataclass(frozen=True)
class Spread:
    """How a quantity is distributed over the samples."""

    least: int
    quarter: int
    median: int
    three_quarters: int
    largest: int
    mean: float


@dataclass(frozen=True)
class Duplicates:
    """Images with the same bytes, by size and xxh64.

    groups: different images that occur more than once. extra: samples beyond the first of each group.
    conflicting: groups whose samples have different labels. largest: keys of the largest group, at most
    `SHOWN_KEYS` of them.
    """

    groups: int
    extra: int
    conflicting: int
    largest: tuple[str, ...]


@dataclass(frozen=True)
class Survey:
    """Counts and statistics of a data set.

    per_class: samples by class name, every class listed, unlabelled ones under None. formats: samples by file
    extension. aspect: width / height in thousandths. reasons: quarantined inputs by kind of fault.
    """

    num_samples: int
    num_shards: int
    image_bytes: int
    per_class: dict[str | None, int]
    formats: dict[str, int]
    transcoded: int
    width: Spread
    height: Spread
    pixels: Spread
    aspect: Spread
    bytes: Spread
    duplicates: Duplicates
    quarantined: int
    reasons: dict[str, int]


def survey(dataset: Dataset) -> Survey:
    """Counts and statistics of an open data set; no image is read."""
    rows = dataset.manifest
    path = dataset.path / "manifest.parquet"
    with damage_named(path, "the table"):
        columns = pq.read_table(path, columns=["ext", "transcoded"]).to_pydict()
    width, height = rows["width"].astype(np.int64), rows["height"].astype(np.int64)
    return Survey(
        num_samples=dataset.num_samples,
        num_shards=len(dataset.info.shards),
        image_bytes=int(rows["size"].sum(dtype=np.int64)),
        per_class=_per_class(dataset),
        formats=dict(Counter(columns["ext"]).most_common()),
        transcoded=sum(columns["transcoded"]),
        width=_spread(width),
        height=_spread(height),
        pixels=_spread(width * height),
        aspect=_spread(1000 * width // height),
        bytes=_spread(rows["size"].astype(np.int64)),
        duplicates=find_duplicates(dataset),
        quarantined=dataset.info.num_quarantined,
        reasons=quarantine_reasons(dataset.path),
    )


def find_duplicates(dataset: Dataset) -> Duplicates:
    """Samples that hold the same bytes; no image is read."""
    rows = dataset.manifest
    order = np.lexsort((np.arange(len(rows)), rows["size"], rows["xxh64"]))
    hashes, sizes, labels = (rows[name][order] for name in ("xxh64", "size", "label"))
    starts = np.flatnonzero(np.r_[True, (hashes[1:] != hashes[:-1]) | (sizes[1:] != sizes[:-1])])
    counts = np.diff(np.r_[starts, len(rows)])
    mixed = np.minimum.reduceat(labels, starts) != np.maximum.reduceat(labels, starts)
    if counts.max() == 1:
        return Duplicates(0, 0, 0, ())
    first = starts[counts.argmax()]
    members = order[first : first + min(int(counts.max()), SHOWN_KEYS)]
    groups = int((counts > 1).sum())
    return Duplicates(groups, int(len(rows) - len(starts)), int(mixed.sum()), tuple(dataset.keys(members)))


def quarantine_reasons(path: Path) -> dict[str, int]:
    """Quarantined inputs of the data set at `path` by kind of fault, the most frequent first."""
    file = path / "quarantine.parquet"
    with damage_named(file, "the table"):
        reasons = pq.read_table(file, columns=["reason"]).column("reason").to_pylist()
    return dict(Counter(reason.partition(":")[0] for reason in reasons).most_common())


def _per_class(dataset: Dataset) -> dict[str | None, int]:
    labels = dataset.labels(np.arange(dataset.num_samples))
    counts = np.bincount(labels + 1, minlength=len(dataset.classes) + 1).tolist()
    per_class: dict[str | None, int] = dict(zip(dataset.classes, counts[1:], strict=True))
    return {**per_class, None: counts[0]} if counts[0] else per_class


def _spread(values: np.ndarray) -> Spread:
    least, quarter, median, upper, largest = np.percentile(
        values, [0, 25, 50, 75, 100], method="lower"
    ).tolist()
    return Spread(int(least), int(quarter), int(median), int(upper), int(largest), float(values.mean()))
