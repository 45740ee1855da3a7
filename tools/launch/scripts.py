"""Shell scripts out of templates: every value is quoted for the shell, by `quote` in the template."""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WIDTH = 80  # of a line in a script, where words allow it
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def script(template: str, **values: Any) -> str:
    """The text of NAME.sh.j2 in this folder.

    Raises:
        ValueError: the name of a variable in `env` is none.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    check_env(values.get("env", {}))
    # Not HTML: what is escaped here is escaped for the shell, where the templates say so.
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    templates.filters |= {"quote": lambda value: shlex.quote(str(value)), "wrapped": wrapped}
    return templates.get_template(f"{template}.sh.j2").render(**values)


def check_env(env: Mapping[str, str]) -> None:
    """Raises ValueError where a variable cannot be set by a shell."""
    for name, value in env.items():
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"{name!r} is no name of a variable; pass --env NAME=VALUE")
        if "\0" in value:
            raise ValueError(f"{name} holds a zero byte, which no variable can")


def wrapped(words: Sequence[str]) -> str:
    """A quoted command: an option begins a line, and so does what would make one too long."""
    lines = [""]
    for word in map(shlex.quote, words):
        if lines[-1] and (word.startswith("-") or len(lines[-1]) + len(word) >= WIDTH):
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return " \\\n    ".join(lines)
