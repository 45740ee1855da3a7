"""Host files: `name slots=N`, a line each, as DeepSpeed and OpenMPI read them; OpenMPI's max_slots= too."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MAX_BYTES = 1 << 20
# A name that ssh, a shell and a command line all take as one word, and none of them as an option.
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252}[A-Za-z0-9])?")
_LINE = re.compile(r"(?P<name>\S+)(\s+slots=(?P<slots>[0-9]{1,4}))?(\s+max[_-]slots=(?P<most>[0-9]{1,4}))?")


@dataclass(frozen=True)
class Host:
    """A machine, by the name or address that the others reach it by, and its number of ranks."""

    name: str
    slots: int


def read_hosts(path: Path | str) -> list[Host]:
    """The hosts of a file, in its order; `#` begins a comment, and without slots= a host has one slot.

    Raises:
        ValueError: a line is no host, a host stands there twice, or there is none.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no host file here; write one with a line 'NAME slots=N' a host")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path}: {path.stat().st_size} bytes; no host file is so long")
    hosts: dict[str, Host] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        host = host_of(text, where=f"{path}:{number}")
        if host.name in hosts:
            raise ValueError(f"{path}:{number}: {host.name} stands there twice; give it one line")
        hosts[host.name] = host
    if not hosts:
        raise ValueError(f"{path}: no host; write a line 'NAME slots=N' for each")
    return list(hosts.values())


def host_of(text: str, where: str) -> Host:
    """One line without its comment.

    Raises:
        ValueError: it is no host.
    """
    match = _LINE.fullmatch(text)
    if match is None:
        raise ValueError(f"{where}: {text!r} is no host; expected 'NAME slots=N'")
    name, slots = match["name"], int(match["slots"] or 1)
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{where}: {name!r} is no name of a host; users and ports go into an ssh config")
    if slots < 1:
        raise ValueError(f"{where}: {name} has slots={slots}; leave the line out, or give it a slot")
    # No host is given more ranks than slots: what OpenMPI may give it at most binds only where it is less.
    if match["most"] is not None and int(match["most"]) < slots:
        raise ValueError(f"{where}: {name} has slots={slots}, above max_slots={match['most']}; mend one")
    return Host(name, slots)


def same_slots(hosts: Sequence[Host]) -> int:
    """The number of ranks that every host has.

    Raises:
        ValueError: hosts differ.
    """
    fewest = min(hosts, key=lambda host: host.slots)
    most = max(hosts, key=lambda host: host.slots)
    if fewest.slots != most.slots:
        raise ValueError(
            f"{most.name} has slots={most.slots} and {fewest.name} has slots={fewest.slots}; pass "
            f"--ranks-per-node N for as many on each, {fewest.slots} at most"
        )
    return fewest.slots


def host_file(names: Sequence[str], slots: int) -> str:
    """The text of a host file."""
    return "".join(f"{name} slots={slots}\n" for name in names)
