"""The ranks of a preflight, started by ssh on the hosts of a host file."""

import json
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from viewmill.tools.launch.hosts import Host
from viewmill.tools.preflight.verdict import EVERYWHERE, FAIL, PASS, Verdict

NAME = "ssh"
SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5")
REACH_S = 20.0
_AT_ONCE = 64  # connections that are opened at a time


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
    places = list(_places(hosts))
    found = []
    for rank, (host, local_rank) in enumerate(places):
        place = {"RANK": str(rank), "WORLD_SIZE": str(len(places)), "LOCAL_RANK": str(local_rank)}
        place |= {"MASTER_ADDR": hosts[0].name, "MASTER_PORT": str(port), **variables}
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
