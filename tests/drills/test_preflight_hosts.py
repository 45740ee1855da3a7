"""Long drill: a preflight over ssh on three hosts, namespaces of this machine, with faults between them."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from viewmill.shards.convert import convert

from tests.tools.preflight.ranks import bad_hosts, lines_of
from tests.tools.test_launchers import write_images

NEEDED = ("ip", "tc", "unshare", "nsenter", "ssh", "ssh-keygen", "/usr/sbin/sshd")
pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
    pytest.mark.skipif(
        any(shutil.which(name) is None for name in NEEDED),
        reason="needs iproute2, util-linux, openssh-client and openssh-server",
    ),
]
COUNT, PREFIX, BRIDGE = 3, "vmpf", "vmpfbr"
NETWORK = "10.83.7"
SLOW_MBIT = 10


def run(*words: str, check: bool = True) -> None:
    subprocess.run(words, check=check, capture_output=True, timeout=60)


class Hosts:
    """Namespaces pf1 to pf3 on a bridge, each with its own name, addresses, processes, mounts and sshd."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        for name in ("host", "user"):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
        names = "".join(f"{NETWORK}.{10 + number} pf{number}\n" for number in range(1, COUNT + 1))
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
        lines = [f"IdentityFile {folder}/user", "StrictHostKeyChecking accept-new", "User root"]
        lines += [f"UserKnownHostsFile {folder}/known", "LogLevel ERROR"]
        aliases = [f"Host pf{n}\n  HostName {NETWORK}.{10 + n}" for n in range(1, COUNT + 1)]
        (folder / "config").write_text("\n".join([*aliases, "Host *", *lines]) + "\n")

    def start(self) -> None:
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "address", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        for number in range(1, COUNT + 1):
            self._start_host(number)
        for number in range(1, COUNT + 1):
            self._await(number)

    def _start_host(self, number: int) -> None:
        space, link = f"{PREFIX}{number}", f"{PREFIX}v{number}"
        run("ip", "netns", "add", space)
        run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
        run("ip", "link", "set", link, "master", BRIDGE, "up")
        for words in (
            ("address", "add", f"{NETWORK}.{10 + number}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
        ):
            run("ip", "-n", space, *words)
        sshd = f"exec /usr/sbin/sshd -D -e -f /dev/null -h {self.folder}/host -o PidFile=none -o UsePAM=no"
        sshd += f" -o StrictModes=no -o AuthorizedKeysFile={self.folder}/user.pub"
        script = f"hostname pf{number} && mount --bind {self.folder}/hosts /etc/hosts"
        script += f" && mount -t tmpfs tmpfs /run && mkdir -p /run/sshd && {sshd}"
        inside = ["unshare", "--uts", "--pid", "--mount", "--fork", "--mount-proc", "--kill-child"]
        words = ["ip", "netns", "exec", space, *inside, "sh", "-c", script]
        with (self.folder / f"sshd{number}.log").open("wb") as log:
            self.processes.append(subprocess.Popen(words, stdout=log, stderr=log))

    def _await(self, number: int) -> None:
        until_s = time.monotonic() + 30
        while subprocess.run([*self.ssh, f"pf{number}", "true"], capture_output=True, check=False).returncode:
            assert time.monotonic() < until_s, (self.folder / f"sshd{number}.log").read_text()
            time.sleep(0.2)

    @property
    def ssh(self) -> list[str]:
        return ["ssh", "-F", str(self.folder / "config"), "-o", "ConnectTimeout=5"]

    def on(self, number: int, command: str) -> None:
        run(*self.ssh, f"pf{number}", command)

    def slow_down(self, number: int) -> None:
        """What leaves the host and what arrives there, to the rate of an old card."""
        shape = ["root", "tbf", "rate", f"{SLOW_MBIT}mbit", "burst", "64kb", "latency", "400ms"]
        run("tc", "qdisc", "add", "dev", f"{PREFIX}v{number}", *shape)
        run("tc", "-n", f"{PREFIX}{number}", "qdisc", "add", "dev", "eth0", *shape)

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        for number in range(1, COUNT + 1):
            run("ip", "link", "del", f"{PREFIX}v{number}", check=False)
            run("ip", "netns", "del", f"{PREFIX}{number}", check=False)
        run("ip", "link", "del", BRIDGE, check=False)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    made = Hosts(tmp_path_factory.mktemp("hosts"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_images(root / "source", count=8, seed=0)
    convert(root / "source", root / "ds")
    return root / "ds"


def preflight(hosts: Hosts, data: Path, run_folder: Path, *names: str) -> tuple[int, dict[str, Any]]:
    """Exit code and report of `viewmill preflight --hosts`, one rank a host."""
    (hosts.folder / "hostfile").write_text("".join(f"{name} slots=1\n" for name in names))
    words = [sys.executable, "-m", "viewmill.tools.cli", "preflight", "--json", "--threads", "1"]
    words += ["--data", str(data), "--out", str(run_folder), "--hosts", str(hosts.folder / "hostfile")]
    words += ["--ssh", f"ssh -F {hosts.folder}/config", "--port", "29611"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, report


def test_three_hosts_agree_and_every_link_is_measured(hosts: Hosts, data: Path, tmp_path: Path) -> None:
    code, report = preflight(hosts, data, tmp_path, "pf1", "pf2", "pf3")
    assert code == 0, report["verdicts"]
    assert report["hosts"] == {"0": "pf1", "1": "pf2", "2": "pf3"}
    for check in ("ssh", "versions", "host name", "one RUN", "data set", "clock"):
        assert [line["status"] for line in lines_of(report, check)] == ["pass"], check
    assert sum(len(of["links"]["links"]) for of in report["facts"].values()) == 3


def test_a_slow_host_one_with_another_disk_and_one_that_is_off_are_named(
    hosts: Hosts, data: Path, tmp_path: Path
) -> None:
    hosts.slow_down(3)
    # What is mounted over RUN on one host alone: it writes there, and nobody else sees it.
    hosts.on(2, f"mount -t tmpfs tmpfs {tmp_path}")
    code, report = preflight(hosts, data, tmp_path, "pf1", "pf2", "pf3", f"{NETWORK}.99")
    assert code == 3
    assert bad_hosts(report, "ssh") == {f"{NETWORK}.99"}
    (line,) = lines_of(report, "links")
    assert (line["status"], line["host"]) == ("fail", "pf3")
    assert line["found"].startswith("all 2 of its links are slow")
    assert bad_hosts(report, "one RUN") == {"pf2"}
    (rate,) = [link["there"] for link in report["facts"]["0"]["links"]["links"] if link["to"] == 2]
    assert rate < 1.5 * SLOW_MBIT * 1e6 / 8  # bytes/s; the shaper lets a burst pass
