"""The plan of a conversion: which input goes to which shard, in which order, as which class.

It is a pure function of the inputs' names and sizes and of the options, so neither the number of workers nor
the moment of a crash can change what is written.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import xxhash
from viewmill.shards.errors import ConvertError
from viewmill.shards.images import MAX_BYTES
from viewmill.shards.info import FORMAT_VERSION, ORDER_VERSION
from viewmill.shards.keys import key_of_source, printable
from viewmill.shards.source import SourceFile, begins_like_an_image, scan

CHECKS = ("decode", "header")
MEBIBYTE = 1 << 20
# Without a wish: about 16 shards, so that small data sets too keep several workers busy.
_DEFAULT_SHARDS, _LEAST_SHARD, _LARGEST_SHARD = 16, 4 * MEBIBYTE, 256 * MEBIBYTE
_TAR_OVERHEAD = 2048  # two headers, a label and padding
_IMAGE_SUFFIXES = frozenset(
    (
        ".jpg",
        ".jpeg",
        ".png",
        ".webp",
        ".gif",
        ".bmp",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".jp2",
        ".j2k",
    )
)


@dataclass(frozen=True)
class Options:
    """What a caller may choose of the result; kept in dataset.json.

    shuffle_seed: None keeps the order of the paths. shard_bytes: aimed at, of source bytes.
    class_level: the class is the folder at this depth (1: just below the source; 0: no classes); None: the
    whole path of the folder that holds the image.
    """

    shuffle_seed: int | None
    check: str
    shard_bytes: int | None
    class_level: int | None

    def __post_init__(self) -> None:
        if self.check not in CHECKS:
            raise ValueError(f"check is {' or '.join(CHECKS)}, got '{self.check}'")
        if self.shuffle_seed is not None and not 0 <= self.shuffle_seed < 2**64:
            raise ValueError(f"the shuffle seed lies in [0, 2^64), got {self.shuffle_seed}")
        if self.shard_bytes is not None and self.shard_bytes < 1:
            raise ValueError(f"shards have at least 1 byte, got {self.shard_bytes}")
        if self.class_level is not None and self.class_level < 0:
            raise ValueError(f"the class level is 0 (no classes) or a folder's depth, got {self.class_level}")


class PlannedImage(NamedTuple):
    """An input with its place in the plan."""

    source: str
    key: str
    label: int
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Plan:
    """Shards of inputs in the order of their ids, inputs that are unusable already, and class names."""

    options: Options
    shards: tuple[tuple[PlannedImage, ...], ...]
    unusable: tuple[SourceFile, ...]
    classes: tuple[str, ...]
    fingerprint: str

    @property
    def num_inputs(self) -> int:
        return sum(map(len, self.shards)) + len(self.unusable)

    @property
    def num_bytes(self) -> int:
        return sum(image.size for shard in self.shards for image in shard)


def make_plan(source: Path, options: Options) -> Plan:
    """Scans the source and lays it out.

    Raises:
        ConvertError: no usable source, or two images with one key; both are named.
    """
    files = scan(source)
    usable = [file for file in files if not file.fault]
    _refuse_equal_keys(source, usable)
    classes = _classes(source, usable, options.class_level)
    images = _ordered(usable, {name: label for label, name in enumerate(classes)}, options)
    return Plan(
        options,
        _cut(images, options.shard_bytes),
        tuple(file for file in files if file.fault),
        tuple(printable(name) for name in classes),
        _fingerprint(files, options),
    )


def _refuse_equal_keys(source: Path, files: list[SourceFile]) -> None:
    """Two images may not share a key; an image and its notes (a.jpg, a.json) may: notes are no sample."""
    first_of: dict[str, list[SourceFile]] = {}
    for file in files:
        first_of.setdefault(key_of_source(file.path), []).append(file)
    for key, group in first_of.items():
        images = [file.path for file in group if len(group) > 1 and _may_be_an_image(source, file)]
        if len(images) > 1:
            raise ConvertError(
                f"{source}: '{printable(images[0])}' and '{printable(images[1])}' have the same key '{key}'; "
                "rename or move one of them"
            )


def _may_be_an_image(source: Path, file: SourceFile) -> bool:
    suffix = os.path.splitext(file.path)[1].lower()  # noqa: PTH122 - the same rule as key_of_source
    return suffix in _IMAGE_SUFFIXES or begins_like_an_image(source, file)


def _class_of(path: str, class_level: int | None) -> str | None:
    folders = path.split("/")[:-1]
    if class_level is None:
        return "/".join(folders) or None
    return folders[class_level - 1] if 1 <= class_level <= len(folders) else None


def _classes(source: Path, files: list[SourceFile], class_level: int | None) -> list[str]:
    """Names of the classes, sorted. A folder without any image (documents beside the data) is none."""
    found: set[str] = set()
    for file in files:
        name = _class_of(file.path, class_level)
        if name is not None and name not in found and begins_like_an_image(source, file):
            found.add(name)
    return sorted(found, key=os.fsencode)


def _ordered(files: list[SourceFile], labels: dict[str, int], options: Options) -> list[PlannedImage]:
    images = []
    for path, size, mtime_ns, _ in files:
        name = _class_of(path, options.class_level)
        label = -1 if name is None else labels.get(name, -1)
        images.append(PlannedImage(path, key_of_source(path), label, size, mtime_ns))
    if options.shuffle_seed is None:
        return images
    seed = options.shuffle_seed
    # The key and the path break ties, so that even equal hashes have one order.
    return sorted(
        images, key=lambda image: (xxhash.xxh64_intdigest(image.key.encode(), seed), image.key, image.source)
    )


def _cut(images: list[PlannedImage], shard_bytes: int | None) -> tuple[tuple[PlannedImage, ...], ...]:
    """Runs of images of about equal source bytes: the first byte of an image decides its shard."""
    # Files over the limit will be quarantined: they take no room in a shard.
    costs = [_TAR_OVERHEAD + (image.size if image.size <= MAX_BYTES else 0) for image in images]
    total = sum(costs)
    wished = shard_bytes or min(max(total // _DEFAULT_SHARDS, _LEAST_SHARD), _LARGEST_SHARD)
    num_shards = -(-total // wished)
    shards: list[list[PlannedImage]] = [[] for _ in range(num_shards)]
    before = 0
    for image, cost in zip(images, costs, strict=True):
        shards[before * num_shards // total].append(image)
        before += cost
    return tuple(tuple(shard) for shard in shards if shard)


def _fingerprint(files: list[SourceFile], options: Options) -> str:
    """Identifies inputs and options, so that an unfinished conversion goes on with nothing else."""
    digest = hashlib.sha256(json.dumps([FORMAT_VERSION, ORDER_VERSION, asdict(options)]).encode())
    for path, size, mtime_ns, fault in files:
        digest.update(json.dumps([printable(path), size, mtime_ns, fault]).encode())
    return digest.hexdigest()
