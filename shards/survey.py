"""What is in a data set: counts, sizes, duplicates and refusals, read from the manifest alone."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from viewmill.shards.errors import ShardError
from viewmill.shards.manifest import Dataset
from viewmill.shards.manifest_table import QUARANTINE_SCHEMA, SCHEMA, checked_parquet, damage_named

SHOWN_KEYS = 5
_BLOCK = 1 << 20  # rows at a time, where the whole would be copied otherwise


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
    `SHOWN_KEYS` of them. times: how many groups have 2, 3, ... samples.
    """

    groups: int
    extra: int
    conflicting: int
    largest: tuple[str, ...]
    times: dict[int, int]


@dataclass(frozen=True)
class DuplicateGroup:
    """Samples that hold the same bytes: how many, and keys and labels (-1: none) of the first of them."""

    count: int
    keys: tuple[str, ...]
    labels: tuple[int, ...]
    conflicting: bool


@dataclass(frozen=True)
class Refusal:
    """A quarantined input; xxh64 and size are 0 where it could not be read."""

    source: str
    reason: str
    xxh64: int
    size: int


@dataclass(frozen=True)
class Mixing:
    """How unevenly the classes lie in the shards: a number a shard, (num_shards,) float64 in [0, 1].

    It is the total variation distance between the shares of the classes in the shard and in the data set: 0
    if they are equal, near 1 if the shard holds one class of many. shuffled: the same of labels in random
    order, so what chance alone gives shards of these sizes. Unlabelled samples count as a class.
    """

    measured: np.ndarray
    shuffled: np.ndarray


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
    shard_bytes: Spread
    shard_samples: Spread
    duplicates: Duplicates
    quarantined: int
    reasons: dict[str, int]


def survey(dataset: Dataset) -> Survey:
    """Counts and statistics of an open data set; no image is read.

    Raises:
        ShardError: the manifest is damaged; the message names the file.
    """
    rows = dataset.manifest
    check_rows(dataset)
    formats, transcoded = _formats(dataset.path / "manifest.parquet")
    width, height = rows["width"].astype(np.int64), rows["height"].astype(np.int64)
    return Survey(
        num_samples=dataset.num_samples,
        num_shards=len(dataset.info.shards),
        image_bytes=int(rows["size"].sum(dtype=np.int64)),
        per_class=_per_class(dataset),
        formats=formats,
        transcoded=transcoded,
        width=_spread(width),
        height=_spread(height),
        pixels=_spread(width * height),
        aspect=_spread(1000 * width // height),
        bytes=_spread(rows["size"].astype(np.int64)),
        shard_bytes=_spread(np.array([shard.bytes for shard in dataset.info.shards])),
        shard_samples=_spread(np.array([shard.samples for shard in dataset.info.shards])),
        duplicates=find_duplicates(dataset),
        quarantined=dataset.info.num_quarantined,
        reasons=quarantine_reasons(dataset.path),
    )


def check_rows(dataset: Dataset) -> None:
    """Statistics divide by sizes and count by shard: manifest.bin is untrusted.

    Raises:
        ShardError: a sample without pixels or bytes, or in a shard that is not there.
    """
    rows = dataset.manifest
    sound = (rows["width"] > 0) & (rows["height"] > 0) & (rows["size"] > 0)
    sound &= (rows["shard"] >= 0) & (rows["shard"] < len(dataset.info.shards))
    if not sound.all():
        sample = int(np.argmin(sound))
        raise ShardError(
            f"{dataset.path / 'manifest.bin'}: sample {sample} has an impossible size or shard "
            f"({rows[sample].item()}); run: viewmill verify {dataset.path} --repair"
        )


def labels_of_all(dataset: Dataset) -> np.ndarray:
    """The label of every sample, checked: (num_samples,) int64."""
    blocks = range(0, dataset.num_samples, _BLOCK)
    ends = [min(start + _BLOCK, dataset.num_samples) for start in blocks]
    return np.concatenate([dataset.labels(np.arange(*span)) for span in zip(blocks, ends, strict=True)])


def find_duplicates(dataset: Dataset) -> Duplicates:
    """Samples that hold the same bytes; no image is read."""
    order, starts, counts = _same_bytes(dataset.manifest)
    times = {int(n): int(groups) for n, groups in enumerate(np.bincount(counts)) if n > 1 and groups}
    if not times:
        return Duplicates(0, 0, 0, (), {})
    labels = dataset.manifest["label"][order]
    mixed = np.minimum.reduceat(labels, starts) != np.maximum.reduceat(labels, starts)
    first = starts[counts.argmax()]
    members = order[first : first + min(int(counts.max()), SHOWN_KEYS)]
    return Duplicates(
        groups=sum(times.values()),
        extra=len(order) - len(starts),
        conflicting=int(mixed.sum()),
        largest=tuple(dataset.keys(members)),
        times=times,
    )


def duplicate_groups(dataset: Dataset, limit: int) -> list[DuplicateGroup]:
    """The `limit` largest groups of samples with the same bytes, `SHOWN_KEYS` keys of each."""
    order, starts, counts = _same_bytes(dataset.manifest)
    largest = [group for group in np.argsort(-counts, kind="stable")[:limit].tolist() if counts[group] > 1]
    members = [order[starts[group] : starts[group] + counts[group]] for group in largest]
    # All keys at once and in order, so that each part of the parquet file is read once.
    shown = sorted({int(sample) for group in members for sample in group[:SHOWN_KEYS]})
    key_of = dict(zip(shown, dataset.keys(shown), strict=True))
    found = []
    for group in members:
        labels = dataset.labels(group)
        first = group[:SHOWN_KEYS].tolist()
        found.append(
            DuplicateGroup(
                count=len(group),
                keys=tuple(key_of[sample] for sample in first),
                labels=tuple(labels[:SHOWN_KEYS].tolist()),
                conflicting=bool((labels != labels[0]).any()),
            )
        )
    return found


def class_mixing(dataset: Dataset) -> Mixing | None:
    """How the classes are spread over the shards; None where there is one shard or one class."""
    check_rows(dataset)
    labels, shards = labels_of_all(dataset) + 1, dataset.manifest["shard"].astype(np.int64)
    share = np.bincount(labels) / len(labels)
    if len(dataset.info.shards) < 2 or share.max() == 1:
        return None
    shuffled = np.random.Generator(np.random.Philox(key=0)).permutation(labels)
    return Mixing(_distances(shards, labels, share), _distances(shards, shuffled, share))


def quarantine_reasons(path: Path) -> dict[str, int]:
    """Quarantined inputs of the data set at `path` by kind of fault, the most frequent first."""
    file, kinds = path / "quarantine.parquet", Counter[str]()
    with damage_named(file, "the table"), checked_parquet(file, QUARANTINE_SCHEMA) as parquet:
        for batch in parquet.iter_batches(columns=["reason"]):
            kinds.update(reason.partition(":")[0] for reason in batch.column("reason").to_pylist())
    return dict(kinds.most_common())


def quarantined_inputs(path: Path, limit: int) -> list[Refusal]:
    """The first `limit` quarantined inputs of the data set at `path`."""
    file, found = path / "quarantine.parquet", list[Refusal]()
    with damage_named(file, "the table"), checked_parquet(file, QUARANTINE_SCHEMA) as parquet:
        for batch in parquet.iter_batches(batch_size=limit):
            columns = [batch.column(name).to_pylist() for name in ("source", "reason", "xxh64", "size")]
            found += [
                Refusal(source, reason, xxh64 or 0, size or 0)
                for source, reason, xxh64, size in zip(*columns, strict=True)
            ]
            if len(found) >= limit:
                break
    return found[:limit]


def _formats(path: Path) -> tuple[dict[str, int], int]:
    """Samples by extension, and how many were re-encoded."""
    formats, transcoded = Counter[str](), 0
    with damage_named(path, "the table"), checked_parquet(path, SCHEMA) as parquet:
        for batch in parquet.iter_batches(columns=["ext", "transcoded"]):
            for entry in pc.value_counts(batch.column("ext")).to_pylist():
                formats[entry["values"]] += entry["counts"]
            transcoded += pc.sum(batch.column("transcoded")).as_py() or 0
    return dict(formats.most_common()), transcoded


def _same_bytes(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(ids with equal bytes side by side, where each group starts, how many it has)."""
    order = np.lexsort((np.arange(len(rows)), rows["size"], rows["xxh64"]))
    hashes, sizes = rows["xxh64"][order], rows["size"][order]
    starts = np.flatnonzero(np.r_[True, (hashes[1:] != hashes[:-1]) | (sizes[1:] != sizes[:-1])])
    return order, starts, np.diff(np.r_[starts, len(rows)])


def _distances(shards: np.ndarray, labels: np.ndarray, share: np.ndarray) -> np.ndarray:
    """1/2 sum_c |share of class c in the shard - share[c]| for each shard."""
    cells, counts = np.unique(shards * len(share) + labels, return_counts=True)
    shard, label = cells // len(share), cells % len(share)
    num_shards = int(shards.max()) + 1
    in_shard = counts / np.bincount(shards, minlength=num_shards)[shard]
    # A class that the shard lacks differs by its whole share: 1 minus the shares of those that it has.
    present = np.bincount(shard, weights=np.abs(in_shard - share[label]), minlength=num_shards)
    missing = 1 - np.bincount(shard, weights=share[label], minlength=num_shards)
    return (present + missing) / 2


def _per_class(dataset: Dataset) -> dict[str | None, int]:
    counts = np.bincount(labels_of_all(dataset) + 1, minlength=len(dataset.classes) + 1).tolist()
    per_class: dict[str | None, int] = dict(zip(dataset.classes, counts[1:], strict=True))
    return {**per_class, None: counts[0]} if counts[0] else per_class


def _spread(values: np.ndarray) -> Spread:
    least, quarter, median, upper, largest = np.percentile(
        values, [0, 25, 50, 75, 100], method="lower"
    ).tolist()
    return Spread(int(least), int(quarter), int(median), int(upper), int(largest), float(values.mean()))
