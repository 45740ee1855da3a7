"""One form for what any benchmark found: settings, figures, what it ran on. Older files are read into it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FORMAT = 3  # 1: the figures as `run` returns them, settings among them; 2: nothing says how it was made
MAX_BYTES = 64 << 20
# What `run` states beside its settings, of some benchmarks: sizes and counts that were given to it.
SETTINGS = (
    "preset",
    "batch_size",
    "batch",
    "threads",
    "repeats",
    "draws",
    "seed",
    "samples",
    "steps",
    "block",
    "photographs",
)
# As above where it is a number: of others the name stands for figures.
NUMBERS = ("rows", "images", "bytes")


@dataclass(frozen=True)
class Result:
    """bench: its name; load_average: {before, after} over 1, 5 and 15 minutes, where it was measured; made:
    how, see `provenance`, where that is known.
    """

    bench: str
    settings: dict[str, Any]
    figures: dict[str, Any]
    fingerprint: dict[str, Any]
    load_average: dict[str, Any] | None = None
    made: dict[str, Any] | None = None

    def tree(self) -> dict[str, Any]:
        """JSON-able, as it is stored."""
        return {"format": FORMAT, **asdict(self)}


def result_of(tree: dict[str, Any]) -> Result:
    """From what the `run` of a benchmark returns, which is format 1.

    Raises:
        KeyError: no name of a benchmark, or no fingerprint.
    """
    rest = dict(tree)
    bench, fingerprint = rest.pop("bench"), rest.pop("fingerprint")
    load, made = rest.pop("load_average", None), rest.pop("made", None)
    given = {name: rest.pop(name) for name in list(rest) if _is_setting(name, rest[name])}
    return Result(bench, rest.pop("settings", {}) | given, rest, fingerprint, load, made)


def _is_setting(name: str, value: Any) -> bool:
    return name in SETTINGS or (name in NUMBERS and isinstance(value, int))


def read_result(path: Path) -> Result:
    """A stored result of any format.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no result, or one of a newer format; the message names it.
    """
    tree = read_tree(path)
    if not isinstance(tree, dict) or "bench" not in tree or "fingerprint" not in tree:
        raise ValueError(f"{path}: no result of a benchmark; give a file that viewmill bench has written")
    number = tree.get("format", 1)
    if number == 1:
        return result_of(tree)
    if number not in (2, FORMAT):
        raise ValueError(f"{path}: format {number!r}, this version reads 1 to {FORMAT}; install a newer one")
    try:
        return Result(**{name: value for name, value in tree.items() if name != "format"})
    except TypeError as error:
        raise ValueError(f"{path}: not all that a result holds ({error}); run the benchmark again") from None


def read_tree(path: Path) -> Any:
    """The JSON of a file.

    Raises:
        FileNotFoundError: there is none; ValueError: it is no JSON, or too large.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give one that viewmill bench has written")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path}: over {MAX_BYTES} bytes; no benchmark writes so much")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error}); run the benchmark again") from None
