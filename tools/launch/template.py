"""Templates of the scripts that a launch writes."""

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def render(name: str, **values: Any) -> str:
    """The text of a template of this folder; `quoted` and `words` are its ways to write values as shell."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # shell, and no page: every value passes `quoted` or `words`
    )
    templates.filters.update(quoted=lambda value: shlex.quote(str(value)), words=words, printable=printable)
    return templates.get_template(name).render(**values)


def words(values: Iterable[str]) -> str:
    """Words of a command line, each quoted where it must be."""
    return shlex.join(values)


def printable(text: str) -> str:
    """The text for a comment, which must not end at a line break in it."""
    return "".join(char if char.isprintable() else "?" for char in text)
