"""What every `viewmill bench` does with its figures: checks their place, tells of progress, shows, keeps."""

import json as json_text
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viewmill.tools.console import print_json, print_line

if TYPE_CHECKING:
    from rich.console import RenderableType


def check_folder(out: Path) -> None:
    """Before the work, not after it."""
    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(f"{out}: there is no folder {out.parent}; make it first")


def keep(
    figures: dict[str, Any], out: Path, table: Callable[[dict[str, Any]], "RenderableType"], json: bool
) -> None:
    """Writes the figures, and shows them."""
    from rich.console import Console

    out.write_text(json_text.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if json:
        print_json(figures)
    else:
        Console().print(table(figures))
        print_line(f"figures: {out}")


@contextmanager
def told() -> Iterator[Callable[[str], None]]:
    """A line on stderr that says what is measured, quiet where stderr is no terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda text: None
        return
    with console.status("") as status:
        yield status.update
