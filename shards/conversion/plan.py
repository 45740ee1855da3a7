"""The plan of a conversion: which input goes to which shard, in which order, as which class.

It is a pure function of the inputs' names and sizes and of the options, so neither the number of workers nor
the moment of a crash can change what is written.
"""

import gc
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import xxhash
from viewmill.shards.conversion.label_map import renamed
from viewmill.shards.conversion.options import Options
from viewmill.shards.conversion.planned_image import PlannedImage
from viewmill.shards.conversion.splits import Split
from viewmill.shards.errors import ConvertError
from viewmill.shards.info import FORMAT_VERSION, ORDER_VERSION
from viewmill.shards.keys import printable
from viewmill.shards.sources.inputs import Input, Listing, Spill, begins_like_an_image
from viewmill.shards.sources.open import SourceOptions, kind_of, list_source
from viewmill.shards.sources.suffixes import IMAGE_SUFFIXES
from viewmill.shards.storage.tree import Tree, for_each

DEFAULT_SOURCE = SourceOptions()
MEBIBYTE = 1 << 20
# Without a wish: about 16 shards, so that small data sets too keep several workers busy.
# A beton has 16 MiB at least, most of it padding in a small one.
_DEFAULT_SHARDS, _LARGEST_SHARD = 16, 256 * MEBIBYTE
_LEAST_SHARD = {"webdataset": 4 * MEBIBYTE, "ffcv": 64 * MEBIBYTE}
_TAR_OVERHEAD = 2048  # two headers, a label and padding
_INPUTS_AT_ONCE = 1024  # of the fingerprint: as JSON, one by one they take three times as long


@dataclass(frozen=True)
class Plan:
    """Shards of inputs in the order of their ids, inputs that are unusable already, and class names."""

    tree: Tree
    options: Options
    source_options: SourceOptions
    shards: tuple[tuple[PlannedImage, ...], ...]
    unusable: tuple[Input, ...]
    classes: tuple[str, ...]
    fingerprint: str
    spill: Spill | None

    @property
    def num_inputs(self) -> int:
        return sum(map(len, self.shards)) + len(self.unusable)

    @property
    def num_bytes(self) -> int:
        return sum(image.size for shard in self.shards for image in shard)

    def recorded_options(self) -> dict[str, Any]:
        """What dataset.json says of the options: nothing that names a path of a machine."""
        found = asdict(self.options) | self.source_options.without_paths()
        recorded: dict[str, Any] = json.loads(json.dumps(found))  # as it is read back
        return recorded


def make_plan(source: str | Path, options: Options, source_options: SourceOptions = DEFAULT_SOURCE) -> Plan:
    """Lists the source and lays it out.

    Raises:
        ConvertError: no usable source, or two images with one key; both are named.
    """
    source_options = replace(source_options, kind=source_options.kind or kind_of(source))
    with _collector_paused():
        return _planned(source, options, source_options)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Some tuples an input, which hold no cycles, would make it walk all that is imported: 13 us an input."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _planned(source: str | Path, options: Options, source_options: SourceOptions) -> Plan:
    listing = list_source(source, source_options)
    usable = [found for found in listing.inputs if not found.fault]
    _refuse_equal_keys(source, listing.tree, usable)
    used = {found.class_name for found in usable}
    classes, labels = _labelled(_classes(listing, usable), used, options)
    images = [image for image in _ordered(usable, labels, options) if _is_in(options.split, image.key)]
    if not images and options.split is not None:
        raise ConvertError(
            f"{source}: split '{options.split.name}' gets none of {len(usable)} inputs; make it larger"
        )
    return Plan(
        listing.tree,
        options,
        source_options,
        _cut(images[: options.limit], options),
        tuple(found for found in listing.inputs if found.fault and _is_in(options.split, found.key)),
        tuple(printable(name) for name in classes),
        _fingerprint(listing, options, source_options),
        listing.spill,
    )


def _refuse_equal_keys(source: str | Path, tree: Tree, inputs: list[Input]) -> None:
    """Two images may not share a key; an image and its notes (a.jpg, a.json) may: notes are no sample."""
    if len({found.key for found in inputs}) == len(inputs):
        return
    groups: dict[str, list[Input]] = {}
    for found in inputs:
        groups.setdefault(found.key, []).append(found)
    for key, group in groups.items():
        images = [found.path for found in group if len(group) > 1 and _may_be_an_image(tree, found)]
        if len(images) > 1:
            raise ConvertError(
                f"{source}: '{printable(images[0])}' and '{printable(images[1])}' have the same key '{key}'; "
                "rename or move one of them"
            )


def _may_be_an_image(tree: Tree, found: Input) -> bool:
    return found.path.lower().endswith(IMAGE_SUFFIXES) or begins_like_an_image(tree, found)


def _classes(listing: Listing, usable: list[Input]) -> list[str]:
    """Class names by label: those of the source, or those that images have, sorted (documents name none)."""
    if listing.classes is not None:
        return list(listing.classes)
    members: dict[str, list[Input]] = {}
    for one in reversed(usable):  # so that the first one is taken off first
        if one.class_name is not None:
            members.setdefault(one.class_name, []).append(one)
    found: set[str] = set()
    while members:
        # One of each class at a time: a remote source is asked for all of them at once.
        tried = [(name, inputs.pop()) for name, inputs in members.items()]
        are_images = for_each(listing.tree, lambda one: begins_like_an_image(listing.tree, one[1]), tried)
        found |= {name for (name, _), is_image in zip(tried, are_images, strict=True) if is_image}
        members = {name: inputs for name, inputs in members.items() if inputs and name not in found}
    return sorted(found, key=os.fsencode)


def _labelled(
    names: list[str], used: set[str | None], options: Options
) -> tuple[list[str], Mapping[str | None, int]]:
    """Class names by label, and the label of each of the source's names; a map names those that are used."""
    if options.label_map:
        return renamed([name for name in names if name in used], options.label_map)
    return names, {name: label for label, name in enumerate(names)}


def _is_in(split: Split | None, key: str) -> bool:
    return split is None or split.holds(key)


def _ordered(inputs: list[Input], labels: Mapping[str | None, int], options: Options) -> list[PlannedImage]:
    images = [PlannedImage(one.path, one.key, labels.get(one.class_name, -1), one.place) for one in inputs]
    if options.shuffle_seed is None:
        return images
    seed = options.shuffle_seed
    # The key and the path break ties, so that even equal hashes have one order.
    return sorted(
        images, key=lambda image: (xxhash.xxh64_intdigest(image.key.encode(), seed), image.key, image.source)
    )


def _cut(images: list[PlannedImage], options: Options) -> tuple[tuple[PlannedImage, ...], ...]:
    """Runs of images of about equal source bytes: the first byte of an image decides its shard."""
    # Files over the limit will be quarantined: they take no room in a shard.
    costs = [_TAR_OVERHEAD + (image.size if image.size <= image.place.limit else 0) for image in images]
    total = sum(costs)
    least = _LEAST_SHARD[options.format]
    wished = options.shard_bytes or min(max(total // _DEFAULT_SHARDS, least), _LARGEST_SHARD)
    num_shards = -(-total // wished)
    shards: list[list[PlannedImage]] = [[] for _ in range(num_shards)]
    before = 0
    for image, cost in zip(images, costs, strict=True):
        shards[before * num_shards // total].append(image)
        before += cost
    return tuple(tuple(shard) for shard in shards if shard)


def _fingerprint(listing: Listing, options: Options, source_options: SourceOptions) -> str:
    """Identifies inputs and options, so that an unfinished conversion goes on with nothing else."""
    settings = [asdict(options), source_options.without_paths(), listing.classes]
    digest = hashlib.sha256(json.dumps([FORMAT_VERSION, ORDER_VERSION, *settings]).encode())
    for start in range(0, len(listing.inputs), _INPUTS_AT_ONCE):
        paths, keys, class_names, places, faults = zip(
            *listing.inputs[start : start + _INPUTS_AT_ONCE], strict=True
        )
        # Not the files: they may be paths of this machine. JSON spells bytes that are no UTF-8 as well.
        _, *numbers = zip(*places, strict=True)
        digest.update(json.dumps([paths, keys, class_names, faults, *numbers]).encode())
    return digest.hexdigest()
