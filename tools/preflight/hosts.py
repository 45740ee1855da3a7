"""A host file, and the ranks of a preflight started on its hosts by ssh."""

import json
import re
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from viewmill.tools.preflight.verdict import EVERYWHERE, FAIL, PASS, Verdict

NAME = "ssh"
# A name or address, never an option of ssh: it does not begin with a dash.
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:%-]*(@[A-Za-z0-9_][A-Za-z0-9_.:%-]*)?")
_LINE = re.compile(r"(?P<host>\S+)(\s+slots=(?P<slots>\d{1,4}))?")
SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5")
REACH_S = 20.0
_AT_ONCE = 64  # connections that are opened at a time


class Host(NamedTuple):
    """One line of a host file."""

    name: str
    slots: int


def read_hosts(path: Path) -> list[Host]:
    """Lines of `NAME slots=N`, as DeepSpeed reads them; without slots: one. `#` begins a comment.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line that is none of this, a name twice, or no host at all.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give lines of `NAME slots=N`, one a host")
    found: list[Host] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = _LINE.fullmatch(text)
        if match is None or not _HOST.fullmatch(match["host"]) or match["slots"] == "0":
            raise ValueError(f"{path}, line {number}: {line.strip()!r:.100}; expected `NAME slots=N`")
        if match["host"] in (host.name for host in found):
            raise ValueError(f"{path}, line {number}: host {match['host']} a second time; leave one out")
        found.append(Host(match["host"], int(match["slots"] or 1)))
    if not found:
        raise ValueError(f"{path}: names no host; give lines of `NAME slots=N`")
    return found


def reach(hosts: Sequence[Host], ssh: Sequence[str]) -> list[Verdict]:
    """One verdict a host: whether ssh gets there and may run a command."""
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        return list(threads.map(lambda host: _reach(host.name, ssh), hosts))


def _reach(host: str, ssh: Sequence[str]) -> Verdict:
    remedy = f"ssh {host} true must work without a question: keys, known_hosts, firewall"
    try:
        done = subprocess.run(
            [*ssh, host, "true"],
            capture_output=True,
            text=True,
            check=False,
            timeout=REACH_S,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return Verdict(NAME, FAIL, host, f"no answer within {REACH_S:.0f} s", remedy)
    except OSError as error:
        return Verdict(NAME, FAIL, host, f"{ssh[0]}: {error.strerror}", "install openssh-client on this host")
    if done.returncode:
        told = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        return Verdict(NAME, FAIL, host, told[:300], remedy)
    return Verdict(NAME, PASS, EVERYWHERE, "reached")


def commands(
    hosts: Sequence[Host],
    words: Sequence[str],
    *,
    ssh: Sequence[str],
    python: str,
    port: int,
    variables: Mapping[str, str],
) -> list[list[str]]:
    """The ssh command of each rank, rank 0 on the first host.

    Args:
        words: what follows `-m viewmill.tools.preflight_command`. variables: of each rank.
    """
    address = hosts[0].name.rpartition("@")[2]
    places = list(_places(hosts))
    found = []
    for rank, (host, local_rank) in enumerate(places):
        place = {"RANK": str(rank), "WORLD_SIZE": str(len(places)), "LOCAL_RANK": str(local_rank)}
        place |= {"MASTER_ADDR": address, "MASTER_PORT": str(port), **variables}
        line = ["env", *(f"{name}={value}" for name, value in place.items())]
        line += [python, "-m", "viewmill.tools.preflight_command", *words]
        found.append([*ssh, host, shlex.join(line)])
    return found


def _places(hosts: Sequence[Host]) -> Iterator[tuple[str, int]]:
    for host in hosts:
        for local_rank in range(host.slots):
            yield host.name, local_rank


def run_all(lines: Sequence[Sequence[str]], limit_s: float) -> dict[str, Any]:
    """Starts all commands at once; rank 0's report, which it prints as JSON. Nothing is left running here.

    Raises:
        RuntimeError: rank 0 made no report; the message has the last lines of the ranks that failed.
    """
    until_s = time.monotonic() + limit_s
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(line, stdin=subprocess.DEVNULL, **pipes) for line in lines]
    try:
        with ThreadPoolExecutor(len(started)) as threads:
            printed = list(threads.map(lambda process: _printed(process, until_s), started))
    finally:
        for process in started:
            process.kill()
    try:
        report: dict[str, Any] = json.loads(printed[0][0])
    except ValueError:
        told = [f"rank {rank}: {last}" for rank, (_, err) in enumerate(printed) if (last := _last(err))]
        raise RuntimeError(
            f"rank 0 made no report; {'; '.join(told[:4]) or 'no rank printed an error'}"
        ) from None
    return report


def _printed(process: "subprocess.Popen[str]", until_s: float) -> tuple[str, str]:
    try:
        return process.communicate(timeout=max(0.1, until_s - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
