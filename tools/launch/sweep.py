"""A sweep: every combination of some settings' values, each a run in a folder named by it."""

import dataclasses
import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from viewmill.engine.strict import ConfigError
from viewmill.tools.launch.job import Job

EXPECTED = "expected key=value,value, such as optimizer.lr=1e-3,1e-4"
PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-@=,")
MAX_NAME = 120  # bytes of a folder's name; file systems take 255
_CLOSING = {"[": "]", "{": "}"}


class Combination(NamedTuple):
    """One run of a sweep: its folder's name, and its settings in the order in which they were given."""

    name: str
    settings: dict[str, str]

    def overrides(self) -> tuple[str, ...]:
        """As the command line takes them."""
        return tuple(f"{key}={value}" for key, value in self.settings.items())


def parse_sweep(words: Sequence[str], overrides: Sequence[str] = ()) -> dict[str, list[str]]:
    """The values of each key of `key=value,value` words; a comma in brackets or quotes parts nothing.

    Args:
        overrides: the settings that all runs share.

    Raises:
        ConfigError: a word is none, a key comes twice or is an override too, or a value comes twice.
    """
    shared = {override.partition("=")[0].strip() for override in overrides}
    grid: dict[str, list[str]] = {}
    for word in words:
        key, _, text = word.partition("=")
        key, values = key.strip(), [value.strip() for value in split(text)]
        if not key or not all(values):
            raise ConfigError(f"--sweep {word}: {EXPECTED}")
        if key in grid or key in shared:
            raise ConfigError(f"--sweep {word}: {key} is given twice; leave one of them out")
        if len(set(values)) < len(values):
            raise ConfigError(f"--sweep {word}: a value stands there twice; leave one of them out")
        grid[key] = values
    return grid


def split(text: str) -> list[str]:
    """Parts a YAML text at its outermost commas."""
    parts, waiting = [""], ""  # waiting: the quote or brackets that must close first
    for char in text:
        if waiting and char == waiting[-1]:
            waiting = waiting[:-1]
        elif waiting[-1:] not in ("'", '"') and (char in _CLOSING or char in "'\""):
            waiting += _CLOSING.get(char, char)
        elif char == "," and not waiting:
            parts.append("")
            continue
        parts[-1] += char
    return parts


def combinations(grid: dict[str, list[str]]) -> list[Combination]:
    """All of them; the values of the last key change first."""
    labels = short_names(list(grid))
    found = []
    for values in itertools.product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        found.append(Combination(folder_name(dict(zip(labels, values, strict=True))), settings))
    return found


def short_names(keys: list[str]) -> list[str]:
    """The last part of each dotted key, or all of it where another key ends alike."""
    ends = [key.rpartition(".")[2] for key in keys]
    return [end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)]


def folder_name(settings: dict[str, str]) -> str:
    """'lr=1e-3,kappa=10': other characters as %XX, the end of a long one as a hash."""
    text = ",".join(f"{key}={value}" for key, value in settings.items())
    name = "".join(
        char if char in PLAIN else "".join(f"%{byte:02X}" for byte in char.encode()) for char in text
    )
    if len(name) <= MAX_NAME:
        return name
    return f"{name[: MAX_NAME - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def jobs_of(job: Job, runs: Sequence[Combination]) -> list[Job]:
    """One job for each run, in a folder in that of the sweep.

    All of them resume, and begin where nothing is saved: the same command goes on where a sweep has ended.
    """
    return [
        dataclasses.replace(
            job,
            out=str(Path(job.out) / run.name),
            overrides=(*job.overrides, *run.overrides()),
            env={**job.env, "VIEWMILL_MAY_BEGIN": "1"},
            resume=True,
        )
        for run in runs
    ]
