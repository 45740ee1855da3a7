"""A picture that is ready to be drawn in any theme."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from viewmill.tools.pictures.theme import Theme

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Plate:
    """One picture: NAME.png, NAME.dark.png, and its place on a page."""

    name: str  # of its files
    title: str
    caption: str  # what is seen, of which images and checkpoint, by which command
    draw: Callable[[Theme], "Image"]  # everything is computed already
    photographs: bool  # it goes into a page as a JPEG: a PNG would weigh five times as much
