"""Two results of one benchmark beside each other: which figures moved, and what else differs."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from viewmill.tools.bench.goals import goals_of
from viewmill.tools.bench.result import Result

if TYPE_CHECKING:
    from rich.console import RenderableType

# What stands beside a figure and says how far its repeats lie apart.
SPREADS = ("_range", "_quartiles")
BESIDE = (*SPREADS, "_worst")
SHOWN = 40  # figures in a terminal
# Of a fingerprint: where one of these differs, so would the figures of one commit.
HARDWARE = ("cpu", "cpu_count", "cpus_allowed", "cpu_quota", "gpus")


@dataclass(frozen=True)
class Moved:
    """A figure before and now; overlap: whether the spreads of both share a value, None: unknown."""

    name: str
    old: float
    new: float
    overlap: bool | None

    @property
    def change(self) -> float:
        """Of the old one: 0.1 is a tenth more; infinite where that is zero."""
        return self.new / self.old - 1 if self.old else math.inf


@dataclass(frozen=True)
class Comparison:
    """What differs: settings and fingerprint as {name: [old, new]}; figures that both have, and have not."""

    settings: dict[str, list[Any]]
    fingerprint: dict[str, list[Any]]
    figures: list[Moved]
    only_old: list[str]
    only_new: list[str]
    goals: dict[str, list[bool]]

    @property
    def not_comparable(self) -> str:
        """Why no change says anything of the code: the hardware that differs; empty where none does."""
        told = [f"{name} was {_words(old)}, is {_words(new)}" for name, (old, new) in self.hardware.items()]
        return "; ".join(told)

    @property
    def hardware(self) -> dict[str, list[Any]]:
        return {name: self.fingerprint[name] for name in HARDWARE if name in self.fingerprint}

    def tree(self) -> dict[str, Any]:
        """JSON-able."""
        return {"not_comparable": self.not_comparable or None, **asdict(self)}


def compare(old: Result, new: Result) -> Comparison:
    """The differences of two results.

    Raises:
        ValueError: they are of different benchmarks.
    """
    if old.bench != new.bench:
        raise ValueError(
            f"--compare: a result of bench {old.bench}, this is bench {new.bench}; give one of the same"
        )
    before, now = dict(leaves(old.figures)), dict(leaves(new.figures))
    spreads = (dict(leaves(old.figures, spreads=True)), dict(leaves(new.figures, spreads=True)))
    figures = [
        Moved(name, before[name], now[name], overlap(spreads[0].get(name), spreads[1].get(name)))
        for name in before
        if name in now and before[name] != now[name]
    ]
    met = [_met(old), _met(new)]
    return Comparison(
        differences(old.settings, new.settings),
        differences(*_known(old.fingerprint, new.fingerprint)),
        sorted(figures, key=_size, reverse=True),
        [name for name in before if name not in now],
        [name for name in now if name not in before],
        {name: [was, met[1][name]] for name, was in met[0].items() if met[1].get(name, was) != was},
    )


def _known(old: dict[str, Any], new: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both without what an older version has not looked at."""
    both = [name for name in old if name in new]
    return {name: old[name] for name in both}, {name: new[name] for name in both}


def _words(value: Any) -> str:
    """Of hardware: a list as its members."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _met(result: Result) -> dict[str, bool]:
    goals = goals_of(result.bench, result.figures, result.settings)
    return {goal.name: goal.met for goal in goals}


def leaves(tree: Any, name: str = "", *, spreads: bool = False) -> Iterator[tuple[str, Any]]:
    """Numbers of a tree by their dotted path; with `spreads`, [low, high] by that of the figure beside it."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            inner = f"{name}.{key}" if name else str(key)
            ending = next((ending for ending in BESIDE if str(key).endswith(ending)), None)
            if ending is None:
                yield from leaves(value, inner, spreads=spreads)
            elif spreads and ending in SPREADS:
                yield inner.removesuffix(ending), value
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            yield from leaves(value, f"{name}[{label(value) or number}]", spreads=spreads)
    elif isinstance(tree, (int, float)) and not isinstance(tree, bool) and not spreads:
        yield name, tree


def label(row: Any) -> str:
    """How a row of a list is told from others: by its texts."""
    return (
        ", ".join(value for value in row.values() if isinstance(value, str)) if isinstance(row, dict) else ""
    )


def overlap(old: Any, new: Any) -> bool | None:
    """Whether two spreads [low, high] share a value; None: one is not known."""
    if old is None or new is None:
        return None
    return bool(old[0] <= new[1] and new[0] <= old[1])


def differences(old: Any, new: Any, name: str = "") -> dict[str, list[Any]]:
    """{path: [old, new]} of what is not equal."""
    if isinstance(old, dict) and isinstance(new, dict):
        found: dict[str, list[Any]] = {}
        for key in dict.fromkeys([*old, *new]):
            found |= differences(old.get(key), new.get(key), f"{name}.{key}" if name else str(key))
        return found
    return {} if old == new else {name: [old, new]}


def _size(moved: Moved) -> float:
    """The same for twice and half."""
    if moved.old <= 0 or moved.new <= 0:
        return math.inf
    return abs(math.log(moved.new / moved.old))


def shown(found: Comparison, *, old: str) -> "RenderableType":
    """For the terminal: first what is not the same beside the code, then the figures that moved most."""
    from rich.console import Group
    from rich.text import Text
    from viewmill.tools.html_page import figure
    from viewmill.tools.tables import new_table

    rows = [
        (
            moved.name,
            figure(moved.old),
            figure(moved.new),
            f"{moved.change:+.1%}" if math.isfinite(moved.change) else "",
            {True: "spreads overlap", False: "", None: "no spread"}[moved.overlap],
        )
        for moved in found.figures[:SHOWN]
    ]
    left = f", the {SHOWN} that moved most of {len(found.figures)}" if len(found.figures) > SHOWN else ""
    headings = ("figure", "before", "now", "change", "")
    lines = [Text(line) for line in notes(found)]
    head = "not comparable: " if found.hardware else ""
    return Group(*lines, new_table(f"{head}beside {old}{left}", headings, rows))


def notes(found: Comparison) -> list[str]:
    """Lines that say why figures may differ, whatever the code does."""
    lines = [f"not comparable: {found.not_comparable}"] if found.hardware else []
    lines += [f"other setting: {name} was {old}, is {new}" for name, (old, new) in found.settings.items()]
    lines += [
        f"other machine or packages: {name} was {old}, is {new}"
        for name, (old, new) in found.fingerprint.items()
        if name not in found.hardware
    ]
    lines += [f"not in the other result: {name}" for name in found.only_new[:SHOWN]]
    lines += [f"no longer in the result: {name}" for name in found.only_old[:SHOWN]]
    return lines + [
        f"goal {'reached' if now else 'no longer reached'}: {name}" for name, (_, now) in found.goals.items()
    ]
