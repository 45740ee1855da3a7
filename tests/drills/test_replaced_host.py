"""A drill: torchrun goes on with another host in the place of a lost one, which is looked at once."""

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


def agent(folder: Path, name: str, endpoint: str) -> "subprocess.Popen[bytes]":
    """torchrun on a host of its own, with a rank."""
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
    words += ["-m", "tests.drills.elastic_worker", str(folder), name]
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(words, env=shell(GLOO_SOCKET_IFNAME="lo"), stdout=log, stderr=log)


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


def test_a_host_in_the_place_of_a_lost_one_is_looked_at_once(tmp_path: Path) -> None:
    endpoint, hosts = f"127.0.0.1:{port()}", {}
    try:
        # The first one numbers the ranks and keeps the store: it has the lowest process id.
        hosts["stays"] = agent(tmp_path, "stays", endpoint)
        hosts["lost"] = agent(tmp_path, "lost", endpoint)
        first = [told(tmp_path, name, 0) for name in ("stays", "lost")]
        lose(hosts["lost"], first[1])
        (tmp_path / "stays-0.fails").touch()
        hosts["new"] = agent(tmp_path, "new", endpoint)
        second = [told(tmp_path, "stays", 1), told(tmp_path, "new", 0)]
        (tmp_path / "stays-1.fails").touch()
        third = [told(tmp_path, "stays", 2), told(tmp_path, "new", 1)]
        (tmp_path / "end").touch()
        assert [hosts[name].wait(PATIENCE_S) for name in ("stays", "new")] == [0, 0]
    finally:
        for host in hosts.values():
            host.terminate()
    starts = (first, second, third)
    assert all(rank["is_fit"] and rank["sum"] == 3.0 for start in starts for rank in start)
    # A report of the first two, one of the two that are now, and none as these start again.
    assert [sum(rank["reports"] for rank in start) for start in starts] == [1, 1, 0]
    assert [len({rank["round"] for rank in start}) for start in starts] == [1, 1, 1]
    # That by which starts cannot be told apart: torchrun's counts, which differ between the hosts.
    assert [rank["restarts"] for rank in second] == ["1", "0"]
