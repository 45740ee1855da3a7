"""A data position: where a run stands in its data, as a few integers that any world size can go on from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class DataPosition:
    """What decides the samples and views that follow, and how far the run has come."""

    data_set_hash: str
    order_version: int
    plan_version: int
    seed: int  # of the views
    order: Mapping[str, Any]  # what `Order.describe` says
    epoch: int
    position: int  # samples of the epoch that all ranks together have been given

    def as_dict(self) -> dict[str, Any]:
        """Plain data, fit for JSON."""
        return asdict(self)

    def moved_to(self, state: Mapping[str, Any]) -> "DataPosition":
        """The position that `state` describes, if it is one of this very order and plan.

        Raises:
            ValueError: a field is missing, is no whole number, or differs from this run's; both values shown.
        """
        names = [field.name for field in fields(self)]
        if missing := [name for name in names if name not in state]:
            raise ValueError(f"the loader's state lacks {', '.join(missing)}; it has {', '.join(state)}")
        for name in names[:-2]:
            if differing := _difference(name, state[name], getattr(self, name)):
                where, theirs, ours = differing
                raise ValueError(
                    f"the loader's state has {where} {theirs!r}, this run has {ours!r}: "
                    "it would go on with other samples or views; use the data set and settings of the state"
                )
        for name in ("epoch", "position"):
            if type(state[name]) is not int or state[name] < 0:
                raise ValueError(
                    f"the loader's state has {name} {state[name]!r}, expected a whole number >= 0"
                )
        return DataPosition(**{name: state[name] for name in names})


def _difference(name: str, theirs: Any, ours: Any) -> tuple[str, Any, Any] | None:
    """The first value in which two states differ, below mappings too: its dotted name and both values."""
    if theirs == ours:
        return None
    if not isinstance(theirs, Mapping) or not isinstance(ours, Mapping) or set(theirs) != set(ours):
        return name, theirs, ours
    found = (_difference(f"{name}.{key}", theirs[key], ours[key]) for key in ours)
    return next(filter(None, found))
