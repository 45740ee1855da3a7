"""Small pictures and folders of them, for the tests of this room."""

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SHARED_DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def picture(seed: int = 0, height: int = 12, width: int = 16) -> np.ndarray:
    """A smooth random picture whose corners all differ: (height, width, 3) uint8."""
    corners = np.random.default_rng(seed).integers(0, 256, (2, 2, 3)).astype(np.uint8)
    return np.array(Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR))


def noise(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def encoded(image: np.ndarray | Image.Image, file_format: str, **options: Any) -> bytes:
    """The bytes of a picture in one of Pillow's formats."""
    buffer = io.BytesIO()
    whole = image if isinstance(image, Image.Image) else Image.fromarray(image)
    whole.save(buffer, file_format, **options)
    return buffer.getvalue()


def exif_with_orientation(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def write_tree(folder: Path, num_classes: int = 3, per_class: int = 4) -> Path:
    """Class folders of JPEGs, one of them a PNG, with one text and one broken JPEG among them."""
    for label in range(num_classes):
        (folder / f"class_{label}").mkdir(parents=True)
        for number in range(per_class):
            data = encoded(picture(100 * label + number, 40 + number, 50), "JPEG")
            (folder / f"class_{label}" / f"{number}.jpg").write_bytes(data)
    (folder / "class_0" / "extra.bmp").write_bytes(encoded(picture(7), "BMP"))
    (folder / "class_1" / "notes.txt").write_text("no image")
    (folder / "class_1" / "cut.jpg").write_bytes(encoded(picture(8, 60, 60), "JPEG")[:400])
    return folder


def tree_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder by its name; a folder in it counts too."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.iterdir())
    }
