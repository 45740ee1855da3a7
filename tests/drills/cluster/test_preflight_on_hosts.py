"""A preflight on hosts that are namespaces: a login a host, no rank that outlives it, a host that is off."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.drills.cluster.namespaces import END_S, Cluster, why_not
from tests.tools.launching import PYTHON, shell
from tests.tools.preflight.ranks import bad_hosts, lines_of

LACKING = why_not()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(LACKING is not None, reason=str(LACKING)),
]
RANKS = 8  # of a host; sshd begins to refuse logins at ten at a time, unless it is told otherwise
# A rank that has work to do when its host is left alone, in a session of its own as well.
STAYS = """#!/bin/sh
touch "{folder}/$(hostname)-$RANK"
setsid sleep 900 &
sleep 900
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster") / "hosts", size=2)
    try:
        yield made
    finally:
        made.close()


def words_for(cluster: Cluster, hosts: Path, *words: str) -> list[str]:
    command = [*PYTHON, "viewmill.tools.cli", "preflight", "--json", "--hosts", str(hosts)]
    return [*command, "--ssh", f"ssh -F {cluster.ssh_config}", "--threads", "1", "--device", "cpu", *words]


def ranks_on(cluster: Cluster, name: str) -> list[str]:
    """Numbers of the processes of any preflight on a host."""
    told = cluster.inside(name, "sh", "-c", "grep -lsaF VIEWMILL_RUN=preflight- /proc/[0-9]*/environ")
    return told.split()


def until(condition: Callable[[], object]) -> None:
    end_s = time.monotonic() + END_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.1)


@pytest.fixture
def started(cluster: Cluster, tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A preflight whose ranks are there and stay."""
    python = tmp_path / "python"
    python.write_text(STAYS.format(folder=tmp_path))
    python.chmod(0o755)
    words = words_for(cluster, cluster.hosts("h1", "h2", slots=RANKS), "--python", str(python))
    with (tmp_path / "told").open("wb") as told:
        process = subprocess.Popen(words, env=shell(), stdout=told, stderr=told)
    try:
        until(lambda: len(list(tmp_path.glob("h[12]-*"))) == 2 * RANKS)
        assert all(len(ranks_on(cluster, name)) >= 2 * RANKS for name in cluster.names)
        yield process
    finally:
        process.kill()
        process.wait()


def ssh_of(process: "subprocess.Popen[bytes]") -> list[int]:
    """The logins that a preflight holds."""
    children = Path(f"/proc/{process.pid}/task").glob("*/children")
    return [int(pid) for path in children for pid in path.read_text().split()]


def test_the_ranks_of_a_host_end_with_the_ssh_that_started_them(
    cluster: Cluster, started: "subprocess.Popen[bytes]"
) -> None:
    logins = ssh_of(started)
    assert len(logins) == len(cluster.names)
    for pid in logins:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not any(ranks_on(cluster, name) for name in cluster.names))
    assert started.wait(END_S) == 1


def test_no_rank_outlives_a_preflight_that_is_killed(
    cluster: Cluster, started: "subprocess.Popen[bytes]"
) -> None:
    started.kill()
    until(lambda: not any(ranks_on(cluster, name) for name in cluster.names))


def test_a_host_that_is_cut_off_ends_its_ranks_itself(
    cluster: Cluster, started: "subprocess.Popen[bytes]"
) -> None:
    cluster.cut("h2")
    try:
        until(lambda: not ranks_on(cluster, "h2"))
    finally:
        cluster.mend("h2")


@pytest.mark.soak
def test_many_ranks_of_two_hosts_come_by_one_login_each_and_a_host_that_is_off_is_named(
    cluster: Cluster, tmp_path: Path
) -> None:
    def logins() -> list[int]:
        logs = [(cluster.folder / f"{name}.log").read_text() for name in cluster.names]
        return [log.count("Accepted publickey") for log in logs]

    before = logins()
    hosts = tmp_path / "hosts"
    hosts.write_text(f"h1 slots={RANKS}\n{cluster.address('h2')[:-2]}99 slots={RANKS}\nh2 slots={RANKS}\n")
    words = words_for(cluster, hosts, "--no-network", "--patience", "300", "--env", "GLOO_SOCKET_IFNAME=eth0")
    done = subprocess.run(words, env=shell(), capture_output=True, text=True, check=False, timeout=550)
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    assert done.returncode == 3
    assert bad_hosts(report, "ssh") == {f"{cluster.address('h2')[:-2]}99"}
    assert not lines_of(report, "ranks")
    placed = [*[("h1", "eth0")] * RANKS, *[("h2", "eth0")] * RANKS]
    facts = [report["facts"][str(rank)]["host name"] for rank in range(2 * RANKS)]
    assert [(one["name"], one["interface"]) for one in facts] == placed
    # One to see whether it can be reached, one for its ranks.
    assert [after - first for first, after in zip(before, logins(), strict=True)] == [2, 2]
