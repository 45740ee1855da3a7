"""What every bench command does with its figures: stores, shows and compares them, and tells progress."""

import functools
import inspect
import json as json_text
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from viewmill.tools.console import print_json, print_line, typed_words

if TYPE_CHECKING:
    from rich.console import RenderableType
    from viewmill.tools.bench.result import Result


class Wanted(NamedTuple):
    """What the options that all bench commands share ask of `keep`."""

    compare: Path | None = None
    old: "Result | None" = None
    plots: Path | None = None


_NOTHING = Wanted()
_wanted: ContextVar[Wanted] = ContextVar("wanted", default=_NOTHING)
_COMPARE = Annotated[
    Path | None,
    typer.Option(metavar="OLD.json", help="An earlier result: show what moved, and what else differs."),
]
_PLOTS = Annotated[Path | None, typer.Option(metavar="DIR", help="Plots of the figures, as PNGs.")]


def with_shared_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with --compare and --plots, which `keep` carries out."""

    @functools.wraps(command)
    def wrapped(*, compare: Path | None = None, plots: Path | None = None, **options: Any) -> None:
        from viewmill.tools.bench.result import read_result

        # Read before the work: a wrong path costs no hours, and --out may be the same file.
        old = None if compare is None else read_result(compare)
        if old is not None and old.bench.split()[-1] != command.__name__:
            raise ValueError(
                f"--compare {compare}: a result of bench {old.bench}; give one of bench {command.__name__}"
            )
        if plots is not None:
            check_folder(plots)
        token = _wanted.set(Wanted(compare, old, plots))
        try:
            command(**options)
        finally:
            _wanted.reset(token)

    signature, keyword = inspect.signature(command), inspect.Parameter.KEYWORD_ONLY
    shared = [
        inspect.Parameter(name, keyword, default=None, annotation=kind)
        for name, kind in (("compare", _COMPARE), ("plots", _PLOTS))
    ]
    own = [parameter.replace(kind=keyword) for parameter in signature.parameters.values()]
    wrapped.__signature__ = signature.replace(parameters=[*own, *shared])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {**command.__annotations__, "compare": _COMPARE, "plots": _PLOTS}
    return wrapped


def check_folder(out: Path) -> None:
    """Before the work, not after it."""
    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(f"{out}: there is no folder {out.parent}; make it first")


def keep(
    figures: dict[str, Any], out: Path, table: Callable[[dict[str, Any]], "RenderableType"], json: bool
) -> None:
    """Writes the figures in the form that all benchmarks share, and shows them.

    Raises:
        ValueError: they are to be compared with those of another benchmark.
    """
    from rich.console import Console
    from viewmill.tools.bench.comparison import compare, shown
    from viewmill.tools.bench.provenance import provenance
    from viewmill.tools.bench.result import result_of

    result, wanted = result_of(figures | {"made": provenance(typed_words())}), _wanted.get()
    out.write_text(json_text.dumps(result.tree(), indent=2) + "\n", encoding="utf-8")
    found = None if wanted.old is None else compare(wanted.old, result)
    if wanted.plots is not None:
        from viewmill.tools.bench.charts import charts_of
        from viewmill.tools.inspection.plots import write_plots

        write_plots(charts_of(result, result.bench), wanted.plots, f"viewmill bench {result.bench}")
    if json:
        print_json(result.tree() | ({} if found is None else {"comparison": found.tree()}))
        return
    Console().print(table(figures))
    if found is not None:
        Console().print(shown(found, old=str(wanted.compare)))
    print_line(f"figures: {out}" + (f"; plots: {wanted.plots}" if wanted.plots is not None else ""))


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
