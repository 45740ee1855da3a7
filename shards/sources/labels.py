"""Classes from a file beside the source, as ImageNet's validation set has them."""

from functools import partial
from pathlib import Path

from viewmill.shards.errors import ConvertError
from viewmill.shards.sources.inputs import Input, Listing, begins_like_an_image, numbered_classes
from viewmill.shards.storage.tree import for_each


def with_labels(listing: Listing, file: Path) -> Listing:
    """The listing with the classes that a text file states, in place of its own.

    Either a line an image, in the order of the images' paths (ImageNet's ground truth), or a name and a class
    a line, between them a tab, a comma or a space; a name is a path in the source or the last part of one.
    Inputs that are no image need no line. Classes that are all numbers keep them as labels.

    Raises:
        ConvertError: no such file, or lines and images that do not match; the first one is named.
    """
    if not file.is_file():
        raise ConvertError(f"{file}: no such file; give the classes of the images, a line each")
    lines = [line.strip() for line in _text_of(file).splitlines() if line.strip()]
    shown = for_each(listing.tree, partial(begins_like_an_image, listing.tree), listing.inputs)
    images = [found for found, is_image in zip(listing.inputs, shown, strict=True) if is_image]
    named = [_split(line) for line in lines]
    if all(len(parts) == 2 for parts in named):
        classes = _by_name(file, images, {parts[0]: parts[1] for parts in named})
    elif all(len(parts) == 1 for parts in named):
        classes = _by_order(file, images, lines)
    else:
        wrong = next(line for line, parts in zip(lines, named, strict=True) if len(parts) != len(named[0]))
        raise ConvertError(f"{file}: '{wrong}' has another number of columns than the first line")
    inputs = [found._replace(class_name=classes.get(found.path)) for found in listing.inputs]
    return listing._replace(inputs=inputs, classes=numbered_classes(set(classes.values())))


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConvertError(f"{file}: not UTF-8 at byte {error.start}; save it as UTF-8") from error


def _split(line: str) -> list[str]:
    """Name and class, the class being what follows the last tab, comma or space; or the class alone."""
    for separator in ("\t", ",", " "):
        if separator in line:
            name, _, label = line.rpartition(separator)
            return [name.strip(), label.strip()]
    return [line]


def _by_order(file: Path, images: list[Input], lines: list[str]) -> dict[str, str]:
    if len(lines) != len(images):
        raise ConvertError(
            f"{file}: {len(lines)} lines for {len(images)} images; one line an image is needed"
        )
    ordered = sorted(images, key=lambda found: found.path)
    return {found.path: line for found, line in zip(ordered, lines, strict=True)}


def _by_name(file: Path, images: list[Input], class_of: dict[str, str]) -> dict[str, str]:
    classes = {}
    for found in images:
        name = found.path if found.path in class_of else found.path.rpartition("/")[2]
        if name not in class_of:
            raise ConvertError(f"{file}: no line for '{found.path}', nor for '{name}'; every image needs one")
        classes[found.path] = class_of[name]
    return classes
