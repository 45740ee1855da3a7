"""The ranks of a preflight, started by ssh on the hosts of a host file."""

import contextlib
import json
import re
import shlex
import subprocess
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from viewmill.tools.launch.hosts import Host
from viewmill.tools.launch.process import Process
from viewmill.tools.launch.scripts import script
from viewmill.tools.launch.supervisor import LOOK_S, WORD_S, end
from viewmill.tools.launch.written import Command
from viewmill.tools.preflight.verdict import EVERYWHERE, FAIL, PASS, Verdict

NAME = "ssh"
SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5")
REACH_S = 20.0
SILENCE_S = 15  # as ssh, with three probes: a host that hears nothing for so long ends its ranks
KEPT_LINES = 500  # of what the ranks of a host say, for where rank 0 makes no report
_AT_ONCE = 64  # hosts that are called at a time
# Reads two scripts of so many bytes, and leaves what follows to the first, which starts the second.
_READ = (
    "LC_ALL=C IFS= read -rN {} lease && LC_ALL=C IFS= read -rN {} ranks && "
    'set -- bash -c "$ranks" && eval "$lease"'
)


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


class Start(NamedTuple):
    """What starts the ranks of a host: an ssh there, and what it reads before the words of a lease."""

    command: Command
    text: str


def starts(
    hosts: Sequence[Host],
    words: Sequence[str],
    *,
    ssh: Sequence[str],
    python: str,
    port: int,
    env: Mapping[str, str],
) -> list[Start]:
    """One ssh a host, whose ranks end with it: sshd refuses logins that come many at a time.

    No disk may be shared yet, so the scripts go through ssh's stdin: a shell there, whichever it is, splits
    one plain line.

    Args:
        words: what follows `-m viewmill.tools.preflight_command`. env: of each rank.
    """
    name, found, first = f"preflight-{uuid.uuid4().hex}", [], 0
    lease = script("lease", run=name, patience_s=SILENCE_S, log="/dev/null")
    for host in hosts:
        ranks = script(
            "preflight",
            env=env,
            run=name,
            folder=None,
            first=first,
            slots=host.slots,
            world_size=sum(one.slots for one in hosts),
            address=hosts[0].name,
            port=port,
            command=[python, "-m", "viewmill.tools.preflight_command", *words],
        )
        sizes = [len(text.encode()) for text in (lease, ranks)]
        line = shlex.join(["bash", "-c", _READ.format(*sizes)])
        command = Command([*ssh, host.name, line], host=host.name, leased=True)
        found.append(Start(command, lease + ranks))
        first += host.slots
    return found


def run_all(wanted: Sequence[Start], limit_s: float) -> dict[str, Any]:
    """Starts the ranks of all hosts; rank 0's report, which it prints as JSON. No rank is left anywhere.

    Raises:
        RuntimeError: rank 0 made no report; the message has the last lines of ranks and hosts.
    """
    processes: list[Process] = []
    with tempfile.TemporaryFile() as printed:
        try:
            for start in wanted:
                stdout = printed.fileno()
                process = Process(start.command, stdout=stdout, first=start.text, kept_lines=KEPT_LINES)
                processes.append(process)
            _attend(processes, time.monotonic() + limit_s)
        finally:
            end(processes)
        printed.seek(0)
        report = report_in(printed.read().decode(errors="replace"))
    if report is None:
        told = [line for process in processes for line in last_of_ranks(process)]
        raise RuntimeError(f"rank 0 made no report; {'; '.join(told[:4]) or 'no rank printed an error'}")
    return report


def _attend(processes: Sequence[Process], until_s: float) -> None:
    """Until all have ended, or it is too late; the hosts are told that somebody waits."""
    next_word_s = 0.0
    while any(process.code is None for process in processes) and time.monotonic() < until_s:
        if time.monotonic() >= next_word_s:
            next_word_s = time.monotonic() + WORD_S
            for process in processes:
                process.say("on")
        time.sleep(LOOK_S)


def report_in(text: str) -> dict[str, Any] | None:
    """The report among what rank 0 printed; None: there is none. NCCL_DEBUG has NCCL speak there as well."""
    for match in re.finditer(r"^\{", text, re.MULTILINE):
        with contextlib.suppress(ValueError):
            found, _ = json.JSONDecoder().raw_decode(text, match.start())
            if "verdicts" in found:
                report: dict[str, Any] = found
                return report
    return None


def last_of_ranks(process: Process) -> list[str]:
    """The last line of each rank of a host, and of what started them there."""
    last: dict[str, str] = {}
    for line in process.last_lines:
        rank, colon, text = line.partition(": ")
        is_rank = bool(colon) and re.fullmatch(r"rank \d+", rank) is not None
        last[rank if is_rank else str(process.command.host)] = text if is_rank else line
    return [f"{who}: {text[:300]}" for who, text in last.items()]
