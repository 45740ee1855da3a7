"""How a result was made: the command that was typed, when, and at which commit."""

import shlex
import subprocess
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any


def provenance(words: Sequence[str]) -> dict[str, Any]:
    """JSON-able: command, date (UTC), commit (None: not run from a repository).

    Args:
        words: as typed behind `viewmill`; of a path or URL the last part alone is kept.
    """
    command = shlex.join(["viewmill", *map(without_folders, words)])
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"command": command, "date": date, "commit": commit_of(Path(__file__).resolve())}


def without_folders(word: str) -> str:
    """The word with the last part of the path that it is, or that stands behind its `=`."""
    key, equals, value = word.rpartition("=")
    if "/" in key:  # an equals sign inside a path
        key, equals, value = "", "", word
    return key + equals + (value.rstrip("/").rpartition("/")[2] if "/" in value else value)


def commit_of(file: Path) -> str | None:
    """The commit that this file is of, with `-dirty` where tracked files differ; None: git does not track it.

    A package that is installed inside some other repository has no commit of its own.
    """
    if _git(file.parent, "ls-files", "--error-unmatch", file.name) is None:
        return None
    commit = _git(file.parent, "rev-parse", "HEAD")
    changed = _git(file.parent, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None else commit + ("-dirty" if changed else "")


def _git(folder: Path, *words: str) -> str | None:
    """What it prints; None: it failed, or there is no git."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
