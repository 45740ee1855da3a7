"""Pixels without a header: the layouts of CIFAR and STL-10, as (H, W, 3) pictures."""

import numpy as np

# name: (rows, columns, whether columns come first in memory); three planes of red, green, blue.
FORMS = {"cifar": (32, 32, False), "stl": (96, 96, True)}


def bytes_of(form: str) -> int:
    """Bytes of one picture in this layout."""
    height, width, _ = FORMS[form]
    return 3 * height * width


def picture(data: bytes, form: str) -> np.ndarray:
    """(H, W, 3) uint8, C-contiguous.

    Raises:
        ValueError: not as many bytes as the layout has.
    """
    height, width, columns_first = FORMS[form]
    planes = np.frombuffer(data, np.uint8).reshape(
        (3, width, height) if columns_first else (3, height, width)
    )
    return np.ascontiguousarray(planes.transpose((2, 1, 0) if columns_first else (1, 2, 0)))
