"""Check `disk`: room, inodes and the right to write where the run and temporary files go; one RUN for all."""

import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from viewmill.tools.preflight.options import Options
from viewmill.tools.preflight.verdict import (
    FAIL,
    PASS,
    Seen,
    Verdict,
    bytes_text,
    graded,
    odd_ones,
    of_hosts,
    passed,
    usual,
)

NAME, ONE_RUN = "disk", "one RUN"
# Two checkpoints of a ViT-B with AdamW are 2 GB; TMPDIR takes sockets and what libraries unpack.
WARN_RUN_BYTES, FAIL_RUN_BYTES = 20 << 30, 2 << 30
WARN_TEMPORARY_BYTES, FAIL_TEMPORARY_BYTES = 2 << 30, 64 << 20
WARN_INODES, FAIL_INODES = 10_000, 500
LIMITS = {
    "RUN": (WARN_RUN_BYTES, FAIL_RUN_BYTES),
    "TMPDIR": (WARN_TEMPORARY_BYTES, FAIL_TEMPORARY_BYTES),
}


def gather(options: Options) -> dict[str, Any]:
    """For RUN and TMPDIR: the folder that is there, free bytes, free inodes (None: unlimited), writable."""
    folders = {"TMPDIR": Path(tempfile.gettempdir())}
    if options.out is not None:
        folders["RUN"] = existing(options.out)
    return {name: room(folder) for name, folder in folders.items()}


def judge(seen: Sequence[Seen]) -> list[Verdict]:
    """A folder that cannot be written, or is nearly full, by bytes or by inodes."""
    verdicts = [
        verdict
        for one in of_hosts(seen)
        for name, facts in one.facts.items()
        for verdict in _of_folder(one.host, name, facts)
    ]
    told = ", ".join(
        f"{name} has {bytes_text(min(one.facts[name]['free'] for one in seen))} free"
        for name in seen[0].facts
    )
    return verdicts or [passed(NAME, told)]


def _of_folder(host: str, name: str, facts: dict[str, Any]) -> Iterator[Verdict]:
    where = f"{name} ({facts['folder']})"
    if not facts["writable"]:
        yield Verdict(NAME, FAIL, host, f"{where} cannot be written", "mount it for writing, or take another")
    warn, fail = LIMITS[name]
    status = graded(facts["free"], warn=warn, fail=fail)
    if status != PASS:
        found = f"{where} has {bytes_text(facts['free'])} free; {bytes_text(warn)} are wanted"
        yield Verdict(NAME, status, host, found, f"free some space, or set another {name}")
    inodes = facts["inodes"]
    status = PASS if inodes is None else graded(inodes, warn=WARN_INODES, fail=FAIL_INODES)
    if status != PASS:
        found = f"{where} has {inodes} inodes free; {WARN_INODES} are wanted"
        yield Verdict(NAME, status, host, found, f"remove files there, or set another {name}")


def judge_shared(seen: Sequence[Seen]) -> list[Verdict]:
    """Whether all hosts see one RUN: each left a token in it and looked for those of the others.

    Hosts that see the same tokens write to the same place: those that do not see what most do are named.
    """
    hosts = of_hosts(seen)
    names = {one.host for one in hosts}
    views = {one.host: frozenset(names - set(one.facts["missing"])) for one in hosts}
    verdicts = []
    for host, view in odd_ones(views).items():
        missing = ", ".join(sorted(usual(views) - view)[:4])
        found = (
            f"does not see in RUN what {missing} wrote there" if missing else "writes what others do not see"
        )
        remedy = "put RUN on a file system that all hosts mount at the same path"
        verdicts.append(Verdict(ONE_RUN, FAIL, host, found, remedy))
    return verdicts or [passed(ONE_RUN, f"hosts that see it: {len(hosts)}")]


def leave_token(options: Options) -> dict[str, Any]:
    """An empty file in RUN, or in the folder above it that is there: {"token": its path}.

    None: there is no RUN, or it cannot be written, which `judge` tells.
    """
    if options.out is None or not os.access(existing(options.out), os.W_OK):
        return {"token": None}
    path = existing(options.out) / f".viewmill-preflight-{socket.gethostname()}-{os.getpid()}"
    path.touch()
    return {"token": str(path)}


def look_for(tokens: dict[str, str]) -> dict[str, Any]:
    """The hosts whose token is not there: {"missing": [...]}; tokens: paths by host."""
    return {"missing": [host for host, path in tokens.items() if not Path(path).exists()]}


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    found = folder.absolute()
    while not found.is_dir() and found != found.parent:
        found = found.parent
    return found


def room(folder: Path) -> dict[str, Any]:
    """What is free for this user."""
    found = os.statvfs(folder)
    return {
        "folder": str(folder),
        "free": found.f_bavail * found.f_frsize,
        "inodes": found.f_favail if found.f_files else None,  # btrfs and others make them as they go
        "writable": os.access(folder, os.W_OK | os.X_OK) and not found.f_flag & os.ST_RDONLY,
    }
