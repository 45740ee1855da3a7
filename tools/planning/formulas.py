"""Formulas that say themselves: a value, how it comes about, and with which numbers."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Formula(NamedTuple):
    """One line of `--why`: name = rule, with the numbers put in."""

    name: str
    rule: str  # with the names of `numbers` in it
    numbers: dict[str, float]
    value: float
    unit: str
    source: str = ""

    def line(self) -> str:
        given = ", ".join(f"{name} = {short(number)}" for name, number in self.numbers.items())
        shown = f"{self.name} = {self.rule} = {short(self.value)} {self.unit}".rstrip()
        return f"{shown}   [{given}]" + (f"   ({self.source})" if self.source else "")

    def as_dict(self) -> dict[str, Any]:
        return self._asdict()


class Book:
    """The formulas of one prediction, in the order in which they were asked."""

    def __init__(self) -> None:
        self.formulas: list[Formula] = []

    def put(
        self, name: str, rule: str, numbers: Mapping[str, float], unit: str = "", source: str = ""
    ) -> float:
        """The value of `rule`: its own text is what is computed, so that what is printed is what was done.

        Args:
            rule: arithmetic over the names of `numbers`, min and max; written here and never a user's text.
        """
        names = {**numbers, "min": min, "max": max}
        value = float(eval(rule, {"__builtins__": {}}, names))  # noqa: S307  (our own constants)
        self.formulas.append(Formula(name, rule, dict(numbers), value, unit, source))
        return value


def short(number: float) -> str:
    """Four digits, with an exponent where a number is large or small."""
    if number == int(number) and abs(number) < 1e6:
        return f"{int(number):,}"
    return f"{number:.4g}"
