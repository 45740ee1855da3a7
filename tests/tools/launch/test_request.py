"""What a launch fills in where its words leave it open."""

import sys
from pathlib import Path
from typing import Any

import pytest
from viewmill.tools.launch.request import PORT, Launch, Request


def launch(tmp_path: Path, on: str, **words: Any) -> Launch:
    (tmp_path / "hosts").write_text("h1 slots=2\nh2 slots=2\n")
    return Request("hydes_tiny", str(tmp_path / "data"), tmp_path / "run", on, **words).launch()


def test_alone_a_run_takes_a_free_port_and_with_others_one_that_all_know(tmp_path: Path) -> None:
    there = {"options": {"hosts": str(tmp_path / "hosts")}}
    assert launch(tmp_path, "local").job.port != PORT
    assert launch(tmp_path, "mpi").job.port != PORT
    assert {launch(tmp_path, on, **there).job.port for on in ("ssh", "mpi")} == {PORT}
    assert launch(tmp_path, "slurm").job.port == PORT
    assert launch(tmp_path, "local", port=31000).job.port == 31000


def test_hosts_and_slots_are_ranks_that_look_before_they_train(tmp_path: Path) -> None:
    job = launch(tmp_path, "ssh", options={"hosts": str(tmp_path / "hosts")}).job
    assert (job.nodes, job.ranks_per_node, job.preflight) == (2, 2, True)
    assert launch(tmp_path, "slurm", nodes=2, preflight=False).job.preflight is False
    assert launch(tmp_path, "local", overrides=("device=cpu",)).job.preflight is False


def test_an_image_has_an_interpreter_and_variables_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    pods = launch(tmp_path, "k8s", options={"image": "i"}, env=("A=b",)).job
    assert (pods.python, dict(pods.env)) == ("python", {"OMP_NUM_THREADS": "1", "A": "b"})
    here = launch(tmp_path, "slurm").job
    assert (here.python, here.env["NCCL_DEBUG"]) == (sys.executable, "INFO")
