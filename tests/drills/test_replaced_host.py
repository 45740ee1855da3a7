"""A drill: hosts that torchrun starts again are looked at once, and one in the place of a lost one too."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.tools.launching import PYTHON, port, shell

pytestmark = pytest.mark.soak

PATIENCE_S = 120


def agent(
    folder: Path, name: str, endpoint: str, *, listens: bool = False, shares: bool = True
) -> "subprocess.Popen[bytes]":
    """torchrun on a host of its own, with a rank.

    Args:
        listens: to the other agents; on one machine any of them could. shares: its store with the ranks.
    """
    words = [
        *PYTHON,
        "torch.distributed.run",
        "--nnodes",
        "2",
        "--nproc-per-node",
        "1",
        "--max-restarts",
        "3",
    ]
    words += ["--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint, "--rdzv-id", "drill"]
    words += ["--rdzv-conf", f"is_host={str(listens).lower()}"]
    words += ["-m", "tests.drills.elastic_worker", str(folder), name]
    with (folder / f"{name}.log").open("wb") as log:
        variables = shell(GLOO_SOCKET_IFNAME="lo", TORCH_DISABLE_SHARE_RDZV_TCP_STORE=str(int(not shares)))
        return subprocess.Popen(words, env=variables, stdout=log, stderr=log)


def told(folder: Path, name: str, start: int) -> dict[str, Any]:
    """What the rank of this host left at its so-manieth start, once it has."""
    path, until_s = folder / f"{name}-{start}.json", time.monotonic() + PATIENCE_S
    while not path.exists():
        assert time.monotonic() < until_s, (folder / f"{name}.log").read_text()[-3000:]
        time.sleep(0.05)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def lose(host: "subprocess.Popen[bytes]", rank: dict[str, Any]) -> None:
    """Its agent and its rank are gone at once."""
    host.kill()
    host.wait()
    os.kill(rank["pid"], signal.SIGKILL)


def test_hosts_that_are_started_again_are_not_looked_at_again(tmp_path: Path) -> None:
    endpoint, hosts = f"127.0.0.1:{port()}", {}
    try:
        hosts["fails"] = agent(tmp_path, "fails", endpoint, listens=True)
        hosts["waits"] = agent(tmp_path, "waits", endpoint)
        first = [told(tmp_path, name, 0) for name in hosts]
        (tmp_path / "fails-0.fails").touch()
        second = [told(tmp_path, name, 1) for name in hosts]
        (tmp_path / "end").touch()
        assert [host.wait(PATIENCE_S) for host in hosts.values()] == [0, 0]
    finally:
        for host in hosts.values():
            host.terminate()
    check_starts(first, second)
    assert [sum(rank["reports"] for rank in start) for start in (first, second)] == [1, 0]
    # That by which starts cannot be told apart: torchrun's counts, which differ between the hosts.
    assert [rank["restarts"] for rank in second] == ["1", "0"]


def test_a_host_in_the_place_of_a_lost_one_is_looked_at(tmp_path: Path) -> None:
    """An agent that shares its store tells new agents of it in its first round alone, so none may come later.

    Where it does not, rank 0 keeps the store, which ends with it: all are looked at as at the beginning.
    """
    endpoint, hosts = f"127.0.0.1:{port()}", {}
    try:
        hosts["stays"] = agent(tmp_path, "stays", endpoint, listens=True, shares=False)
        hosts["lost"] = agent(tmp_path, "lost", endpoint, shares=False)
        first = [told(tmp_path, name, 0) for name in ("stays", "lost")]
        lose(hosts["lost"], first[1])
        (tmp_path / "stays-0.fails").touch()
        hosts["new"] = agent(tmp_path, "new", endpoint, shares=False)
        second = [told(tmp_path, "stays", 1), told(tmp_path, "new", 0)]
        (tmp_path / "end").touch()
        assert [hosts[name].wait(PATIENCE_S) for name in ("stays", "new")] == [0, 0]
    finally:
        for host in hosts.values():
            host.terminate()
    check_starts(first, second)
    assert [sum(rank["reports"] for rank in start) for start in (first, second)] == [1, 1]


def check_starts(*starts: list[dict[str, Any]]) -> None:
    """All ranks are fit, train together, and have one name for their start."""
    assert all(rank["is_fit"] and rank["sum"] == 3.0 for start in starts for rank in start)
    assert [len({rank["round"] for rank in start}) for start in starts] == [1] * len(starts)
