"""Pixels without a header: the layouts of CIFAR, STL-10 and raw images in a beton, as (H, W, 3) pictures."""

import numpy as np

# name: (rows, columns, whether columns come first in memory); three planes of red, green, blue.
FORMS = {"cifar": (32, 32, False), "stl": (96, 96, True)}
_RGB = "rgb "


def rgb_form(width: int, height: int) -> str:
    """The form of rows of RGB pixels, from the top left on."""
    return f"{_RGB}{width}x{height}"


def is_rgb(form: str) -> bool:
    """Whether a form is one of `rgb_form`."""
    return form.startswith(_RGB)


def size_of(form: str) -> tuple[int, int]:
    """(width, height) of one picture in this layout."""
    if is_rgb(form):
        width, _, height = form.removeprefix(_RGB).partition("x")
        return int(width), int(height)
    rows, columns, _ = FORMS[form]
    return columns, rows


def bytes_of(form: str) -> int:
    """Bytes of one picture in this layout."""
    width, height = size_of(form)
    return 3 * height * width


def picture(data: bytes | memoryview, form: str) -> np.ndarray:
    """(H, W, 3) uint8, C-contiguous.

    Raises:
        ValueError: not as many bytes as the layout has.
    """
    width, height = size_of(form)
    if is_rgb(form):
        return np.frombuffer(data, np.uint8).reshape((height, width, 3))
    columns_first = FORMS[form][2]
    planes = np.frombuffer(data, np.uint8).reshape(
        (3, width, height) if columns_first else (3, height, width)
    )
    return np.ascontiguousarray(planes.transpose((2, 1, 0) if columns_first else (1, 2, 0)))
