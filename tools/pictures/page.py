"""The pictures of a folder as one HTML file that needs no network."""

from collections.abc import Sequence
from pathlib import Path

from viewmill.tools.html_page import environment, write_page
from viewmill.tools.pictures.album import PAGE_FILE, read_album

TEMPLATE = "pictures/page.html.j2"


def write_pictures_page(
    folder: Path, name: str, about: str, command: str, left_out: Sequence[str] = ()
) -> Path:
    """FOLDER/pictures.html of the album that FOLDER holds; texts are escaped.

    Raises:
        RuntimeError: see `read_album`. OSError: the page cannot be written.
    """
    template = environment().get_template(TEMPLATE)
    html = template.render(
        pictures=read_album(folder), name=name, about=about, command=command, left_out=left_out
    )
    write_page(folder / PAGE_FILE, html)
    return folder / PAGE_FILE
