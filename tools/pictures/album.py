"""The pictures of a backbone as files: PNGs for both themes, and a list of them that pages are made from."""

import base64
import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viewmill.tools.console import written_aside
from viewmill.tools.pictures.plate import Plate
from viewmill.tools.pictures.theme import DARK, LIGHT, THEMES

if TYPE_CHECKING:
    from PIL.Image import Image

FOLDER, LIST_FILE, PAGE_FILE = "pictures", "pictures.json", "pictures.html"
MAX_PICTURES, MAX_BYTES = 64, 1 << 26  # of a list that is read; of a PNG
MAX_PIXELS = 64_000_000
_NAME = re.compile(r"[a-z0-9][a-z0-9@.=_-]*")
QUALITY = 88


@dataclass(frozen=True)
class Entry:
    """A picture in the list."""

    name: str
    title: str
    caption: str
    photographs: bool

    def file(self, folder: Path, suffix: str) -> Path:
        """Of the theme with this suffix."""
        return folder / f"{self.name}{suffix}.png"


@dataclass(frozen=True)
class Hung:
    """A picture on a page: its words, and its two themes as data URIs."""

    title: str
    caption: str
    light: str
    dark: str


def write_album(plates: Sequence[Plate], folder: Path) -> list[Path]:
    """Draws every picture in both themes; what an earlier album had under other names goes.

    The list comes last: it names files that are whole.

    Raises:
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries = [Entry(plate.name, plate.title, plate.caption, plate.photographs) for plate in plates]
    before = entries_in(folder) if (folder / LIST_FILE).is_file() else []
    (folder / LIST_FILE).unlink(missing_ok=True)
    for old in before:
        for theme in THEMES:
            old.file(folder, theme.suffix).unlink(missing_ok=True)
    written = []
    for plate, entry in zip(plates, entries, strict=True):
        for theme in THEMES:
            target = entry.file(folder, theme.suffix)
            with written_aside(target) as aside:
                plate.draw(theme).save(aside, "PNG", optimize=False)
            written.append(target)
    with written_aside(folder / LIST_FILE) as aside:
        text = json.dumps([asdict(entry) for entry in entries], indent=2, ensure_ascii=False)
        aside.write_text(text + "\n", encoding="utf-8")
    return [*written, folder / LIST_FILE]


def read_album(folder: Path) -> list[Hung]:
    """The pictures of a folder, for a page; none where there is no list.

    Raises:
        RuntimeError: the list or a PNG is damaged or not there; names the file.
    """
    if not (folder / LIST_FILE).is_file():
        return []
    return [
        Hung(
            entry.title,
            entry.caption,
            *(data_uri(entry.file(folder, theme.suffix), entry.photographs) for theme in (LIGHT, DARK)),
        )
        for entry in entries_in(folder)
    ]


def entries_in(folder: Path) -> list[Entry]:
    """The list of a folder. A name is never a path: the list may come from anywhere.

    Raises:
        RuntimeError: it is no list of pictures.
    """
    path = folder / LIST_FILE
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        found = [entry_of(one) for one in tree]
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise RuntimeError(f"{path}: no list of pictures ({error}); run viewmill pictures again") from error
    if len(found) > MAX_PICTURES:
        raise RuntimeError(
            f"{path}: {len(found)} pictures, {MAX_PICTURES} are the most; run viewmill pictures again"
        )
    return found


def entry_of(tree: Any) -> Entry:
    """An entry of the list. Raises ValueError, TypeError: it is none."""
    entry = Entry(**tree)
    texts = (entry.name, entry.title, entry.caption)
    if not all(isinstance(text, str) for text in texts) or not _NAME.fullmatch(entry.name):
        raise ValueError(f"an entry that is no picture: {str(tree)[:80]}")
    return entry


def data_uri(path: Path, photographs: bool) -> str:
    """A PNG as an address that holds it; photographs as a JPEG.

    Raises:
        RuntimeError: it is not there, or no PNG of bounded size.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"over {MAX_BYTES:,} bytes")
        with Image.open(path, formats=["PNG"]) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise ValueError(f"{opened.width} x {opened.height} pixels")
            picture = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise RuntimeError(f"{path}: no picture ({error}); run viewmill pictures again") from error
    kind, data = ("jpeg", jpeg(picture)) if photographs else ("png", path.read_bytes())
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def jpeg(picture: "Image") -> bytes:
    """The picture as a JPEG."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
