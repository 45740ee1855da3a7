"""How commands speak: results on stdout, all else on stderr, an exception as one line and an exit code."""

import contextlib
import errno
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import typer
from viewmill.engine.preemption import REQUEUE_EXIT_CODE, Requeue
from viewmill.shards.errors import ImageError

SUCCESS, FAILED, USAGE, FAULTS, INTERRUPTED = 0, 1, 2, 3, 130
# The extra that brings a package which not every installation has.
EXTRAS = {"lightly": "baselines", "nvidia": "dali-cuda13"}
MAX_LINE = 2000  # characters of an error: a library's message may hold a page
_PROTOCOL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")  # how a URL begins as a path
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_typed: ContextVar[tuple[str, ...]] = ContextVar("typed", default=())
# First match counts. ImageError is a ValueError, but of bytes and not of a setting.
EXIT_CODES: tuple[tuple[tuple[type[BaseException], ...], int], ...] = (
    ((Requeue,), REQUEUE_EXIT_CODE),
    ((ImageError,), FAILED),
    ((ValueError, FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError), USAGE),
    ((RuntimeError, OSError, ImportError, MemoryError), FAILED),
)


def run_app(app: typer.Typer, arguments: list[str] | None = None) -> int:
    """Runs a Typer app; every exception becomes one line on stderr. Returns the exit code.

    `--debug`, anywhere on the line, or VIEWMILL_DEBUG=1 shows the traceback instead of the line.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _typed.set(tuple(arguments))
    debug = "--debug" in arguments or os.environ.get("VIEWMILL_DEBUG", "0") not in ("", "0")
    try:
        code = app([word for word in arguments if word != "--debug"], standalone_mode=False)
        if code == INTERRUPTED:  # Typer turns Ctrl-C into this number
            print("interrupted", file=sys.stderr)
        return code if isinstance(code, int) else SUCCESS
    except Exception as error:
        if debug:
            raise
        code, line = describe(error)
        print(rank_prefix() + line, file=sys.stderr)
        return code


def typed_words() -> tuple[str, ...]:
    """What stands on the command's line behind the program's name."""
    return _typed.get()


def describe(error: BaseException) -> tuple[int, str]:
    """Exit code and one line of an exception."""
    # Typer's own errors (an unknown option, a missing argument) carry a text and a code.
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        # Typer repeats what its checker calls the kind of an error: of no use to who typed the value.
        text = one_line(error.format_message()).rstrip(".").replace(": Value error, ", ": ")
        return error.exit_code, f"error: {text}; see --help"
    for kinds, code in EXIT_CODES:
        if isinstance(error, kinds):
            return code, ("" if code == REQUEUE_EXIT_CODE else "error: ") + one_line(text_of(error))
    name = type(error).__name__
    return FAILED, f"error: {name}: {one_line(str(error))}; a defect: run again with --debug and report it"


def text_of(error: BaseException) -> str:
    """What an exception says; the operating system's names the file."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        remedy = "free some space and run it again" if error.errno in NO_SPACE else "check the path"
        return f"{error.filename}: {error.strerror}; {remedy}"
    if isinstance(error, ModuleNotFoundError) and (extra := EXTRAS.get((error.name or "").split(".")[0])):
        return f"{error.name} is not installed; run: pip install 'viewmill[{extra}]'"
    if isinstance(error, MemoryError):
        return "out of memory; take a smaller batch_size or fewer workers"
    return str(error) or type(error).__name__


def one_line(text: str) -> str:
    """The text without line breaks or control characters (paths are untrusted), cut at MAX_LINE."""
    flat = " ".join(text.split())
    flat = "".join(char if char.isprintable() else repr(char)[1:-1] for char in flat)
    return flat if len(flat) <= MAX_LINE else f"{flat[:MAX_LINE]} ..."


def rank_prefix() -> str:
    """'[rank 1] ' in a job of several ranks, so that their lines can be told apart."""
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    return f"[rank {os.environ.get('RANK', '?')}] " if several else ""


def refuse_url(path: Path, remedy: str) -> None:
    """Refuses a URL where a path of this machine is wanted: as a path it would name a folder `s3:`.

    Raises:
        ValueError: the path begins like a URL; the message ends in the remedy.
    """
    first, *others = path.parts or ("",)
    if _PROTOCOL.fullmatch(first):
        raise ValueError(f"{first}//{'/'.join(others)}: a URL, and no folder of this machine; {remedy}")


def print_json(result: Any) -> None:
    """The result of a command, for other programs."""
    print(json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False))


def print_line(text: str) -> None:
    """The result of a command, for people."""
    print(text)


@contextlib.contextmanager
def written_aside(target: Path) -> Iterator[Path]:
    """Gives what is to be written, a file or folder; it then takes the target's name. A failure removes it.

    Raises:
        OSError: with the target's name, where the system's error has none: a full disk is told at a write.
    """
    aside = target.with_name(target.name + ".partial")
    shutil.rmtree(aside, ignore_errors=True)  # of a command that was killed
    try:
        yield aside
        aside.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            shutil.rmtree(aside) if aside.is_dir() else aside.unlink()
        raise OSError(error.errno, error.strerror or str(error), str(target)) from error


@contextlib.contextmanager
def progress_bar(what: str, *, of_bytes: bool = False) -> Iterator[Callable[..., None]]:
    """A bar on stderr with the time left, quiet where stderr is no terminal.

    Gives `show(done, total, what)`; a new `what`, which may be left out, names the bar anew.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    amount = DownloadColumn() if of_bytes else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total, now=what: bar.update(task, description=now, completed=done, total=total)


def new_app(help_text: str, *, example: str, footer: str = "") -> typer.Typer:
    """A Typer app in the house's style: errors are ours to print, help ends in an example."""
    return typer.Typer(
        name="viewmill",
        help=help_text,
        epilog=f"Example: {example}" + (f"\n\n{footer}" if footer else ""),
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",  # line breaks of a docstring are not those of the terminal
    )
