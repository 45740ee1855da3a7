"""HTML pages of one file that need no network: the template engine, numbers as text, data inside <script>."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viewmill.tools.console import written_aside

if TYPE_CHECKING:
    from jinja2 import Environment


def environment() -> "Environment":
    """The templates of this room: every text is escaped, a name that is not there is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    made.filters.update(figure=figure, percent=percent, clock=clock, megabytes=megabytes)
    return made


def plotly_script() -> str:
    """plotly.js, to stand in a page once."""
    from plotly.offline import get_plotlyjs

    script: str = get_plotlyjs()
    return script


def check_target(target: Path) -> None:
    """Before the work, not after it.

    Raises:
        FileNotFoundError: the folder of the page is not there.
    """
    if not target.absolute().parent.is_dir():
        raise FileNotFoundError(f"{target}: there is no folder {target.parent}; make it first")


def write_page(target: Path, html: str) -> int:
    """Writes the page whole or not at all; returns its bytes."""
    data = html.encode()
    with written_aside(target) as aside:
        aside.write_bytes(data)
    return len(data)


def script_json(tree: Any) -> str:
    """JSON that can stand inside <script>: no text ends the element or begins a comment."""
    text = json.dumps(tree, allow_nan=False)
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def shown(text: str, limit: int = 200) -> str:
    """A text from file names for people: control characters as escapes, the middle of a long one left out."""
    plain = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
    half = (limit - 1) // 2
    return plain if len(plain) <= limit else f"{plain[:half]}…{plain[-half:]}"


def figure(value: float | None) -> str:
    """A number for people: 12,345 or 0.01234."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.4g}"


def percent(value: float | None) -> str:
    """0.4321 as 43.2 %."""
    return "–" if value is None else f"{100 * value:.1f} %"


def clock(seconds: float | None) -> str:
    """Seconds as h:mm:ss."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def megabytes(count: int) -> str:
    """Bytes as MB."""
    return f"{count / 1e6:,.1f} MB"
