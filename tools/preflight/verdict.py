"""What a check found: pass, warn or fail, of whom, and what to do. The words that every judgement uses."""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

PASS, WARN, FAIL = "pass", "warn", "fail"
SEVERITY = {PASS: 0, WARN: 1, FAIL: 2}
EVERYWHERE = "all"
Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value", bound=Hashable)


@dataclass(frozen=True)
class Verdict:
    """One line of the table. host: one, two with ' - ' between, or 'all'; remedy: empty where it passes."""

    check: str
    status: str
    host: str
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Seen:
    """What one rank found out for one check: JSON-able facts."""

    rank: int
    host: str
    facts: dict[str, Any]


def passed(check: str, found: str) -> Verdict:
    """All is well, on all hosts."""
    return Verdict(check, PASS, EVERYWHERE, found)


def worst(verdicts: Iterable[Verdict]) -> str:
    """The gravest status; pass where there are none."""
    return max((verdict.status for verdict in verdicts), key=SEVERITY.__getitem__, default=PASS)


def of_hosts(seen: Sequence[Seen]) -> list[Seen]:
    """The first rank of each host: for facts that its ranks share."""
    found: dict[str, Seen] = {}
    for one in seen:
        found.setdefault(one.host, one)
    return list(found.values())


def ranks_of(seen: Sequence[Seen], host: str) -> list[Seen]:
    """All ranks of a host."""
    return [one for one in seen if one.host == host]


def usual(values: Mapping[Key, Value]) -> Value:
    """The value that most have; of equally frequent ones the first."""
    return Counter(values.values()).most_common(1)[0][0]


def odd_ones(values: Mapping[Key, Value]) -> dict[Key, Value]:
    """Those whose value is not the usual one."""
    expected = usual(values)
    return {key: value for key, value in values.items() if value != expected}


def graded(value: float, *, warn: float, fail: float) -> str:
    """Status of a figure that is the better the larger: below `fail` it fails, below `warn` it warns."""
    return FAIL if value < fail else WARN if value < warn else PASS


def bytes_text(count: float) -> str:
    """Bytes for people: 12.3 MB, 4.5 GB."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(count) >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"
