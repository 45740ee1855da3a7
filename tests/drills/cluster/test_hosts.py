"""`viewmill launch` on hosts that are namespaces: the weights of one host, and what a lost host leaves."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from torch import Tensor
from viewmill.engine.config import load_config
from viewmill.shards.convert import convert

from tests.drills.cluster.namespaces import Cluster, why_not
from tests.drills.job import Job, result_of
from tests.engine.small_training import equal
from tests.tools.test_launchers import JOB, PYTHON, write_images

LACKING = why_not("pdsh", "mpirun")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(LACKING is not None, reason=str(LACKING)),
]
WAIT_S = 400.0  # on a machine that does much else
SILENCE_S = 6
# Until the launcher has told of a lost host and has ended: ssh's probes, lease.sh on the others, one look.
STATED_S = 30.0

SETTINGS = {
    "epochs": 1,
    "batch_size": 8,
    "device": "cpu",
    "torch_threads": 1,
    "model": {"backbone": "test_resnet"},
    "method": {"projector": {"hidden": 16, "dim": 8}},
    "views": {"preset": "hydes@32", "executor": "host", "num_threads": 1},
    "log": {"tensorboard": False},
}


class Site(NamedTuple):
    """Hosts, a data set that all see, and a folder for runs."""

    cluster: Cluster
    data: Path
    folder: Path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("cluster")
    write_images(folder / "source", count=20, seed=0)
    convert(folder / "source", folder / "ds")
    cluster = Cluster(folder / "hosts", size=4)
    try:
        yield Site(cluster, folder / "ds", folder)
    finally:
        cluster.close()


@pytest.fixture(scope="module")
def on_one_host(site: Site) -> dict[str, Tensor]:
    """The checkpoint of four ranks of this machine, without any launcher."""
    config = load_config("hydes_tiny", words_of(SETTINGS))
    ended = Job(config, site.data, site.folder / "one", world_size=4).end()
    assert ended.codes == [0, 0, 0, 0], ended.told
    return result_of(site.folder / "one")


def words_of(tree: dict[str, object], prefix: str = "") -> list[str]:
    """Settings as overrides."""
    words = []
    for name, value in tree.items():
        if isinstance(value, dict):
            words += words_of(value, f"{prefix}{name}.")
        else:
            words.append(f"{prefix}{name}={json.dumps(value)}")
    return words


def command_of(site: Site, run: Path, hosts: Path, *words: str) -> list[str]:
    reached = ["--hosts", str(hosts), "--option", f"ssh_config={site.cluster.ssh_config}"]
    reached += ["--option", f"silence_s={SILENCE_S}"]
    launch = [*PYTHON, "viewmill.tools.cli", "launch", "hydes_tiny", "--data", str(site.data)]
    return [*launch, "--out", str(run), *reached, *words_of(SETTINGS), *words]


def variables() -> dict[str, str]:
    """Of a shell without a job."""
    clean = {name: value for name, value in os.environ.items() if name not in JOB}
    return {**clean, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}


def launch(site: Site, run: Path, hosts: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = command_of(site, run, hosts, *words)
    return subprocess.run(
        command, env=variables(), capture_output=True, text=True, check=False, timeout=WAIT_S
    )


class Launched:
    """A launch that goes on, until something happens to it."""

    def __init__(self, site: Site, run: Path, hosts: Path, *words: str) -> None:
        self.site, self.run = site, run
        self._told = run.with_suffix(".err").open("w+", encoding="utf-8")
        command = command_of(site, run, hosts, *words)
        self.process = subprocess.Popen(
            command, env=variables(), stdout=subprocess.DEVNULL, stderr=self._told
        )

    def wait_for_a_checkpoint(self) -> None:
        until_s = time.monotonic() + WAIT_S
        while not (self.run / "checkpoints" / "latest").exists():
            assert self.process.poll() is None, f"it has ended: {self.told()}"
            assert time.monotonic() < until_s, self.told()
            time.sleep(0.1)

    def end(self) -> int:
        try:
            return self.process.wait(timeout=WAIT_S)
        finally:
            self.process.kill()

    def told(self) -> str:
        """All that it has written on stderr."""
        return self.run.with_suffix(".err").read_text(encoding="utf-8")


def nothing_is_left(launched: Launched, *hosts: str, within_s: float = SILENCE_S * 4) -> None:
    """No process of the run is on any host, and none in a while."""
    until_s = time.monotonic() + within_s
    while left := {host: launched.site.cluster.processes_of(host, launched.run) for host in hosts}:
        if not any(left.values()):
            return
        assert time.monotonic() < until_s, left
        time.sleep(0.2)


LONG = ("epochs=200", "checkpoint.every_steps=1", "checkpoint.every_epochs=null")


def test_torchrun_on_two_hosts_gives_the_weights_of_one(site: Site, on_one_host: dict[str, Tensor]) -> None:
    run = site.folder / "two"
    done = launch(site, run, site.cluster.hosts("h1", "h2", slots=2), "--on", "ssh")
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "environment.json").read_text())["world_size"] == 4
    # Collectives go by rank, whatever host it is on: the same sums in the same order.
    assert equal(result_of(run), on_one_host)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("launcher", "names"),
    [
        ("torchrun", ("h1", "h2", "h3", "h4")),
        ("deepspeed", ("h1", "h2")),
        ("deepspeed", ("h1", "h2", "h3", "h4")),
    ],
    ids=lambda value: value if isinstance(value, str) else str(len(value)),
)
def test_every_launcher_gives_the_weights_of_one_host(
    site: Site, on_one_host: dict[str, Tensor], launcher: str, names: tuple[str, ...]
) -> None:
    run = site.folder / f"{launcher}-{len(names)}"
    hosts = site.cluster.hosts(*names, slots=4 // len(names))
    done = launch(site, run, hosts, "--on", "ssh", "--launcher", launcher)
    assert done.returncode == 0, done.stderr
    assert equal(result_of(run), on_one_host)


@pytest.mark.soak
def test_mpirun_on_two_hosts_gives_the_weights_of_one(site: Site, on_one_host: dict[str, Tensor]) -> None:
    run = site.folder / "mpi"
    done = launch(site, run, site.cluster.hosts("h1", "h2", slots=2), "--on", "mpi")
    assert done.returncode == 0, done.stderr
    assert equal(result_of(run), on_one_host)


@pytest.mark.soak
@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed"])
def test_a_host_that_is_cut_off_is_named_and_the_run_goes_on_without_it(site: Site, launcher: str) -> None:
    run, cluster = site.folder / f"cut-{launcher}", site.cluster
    hosts = cluster.hosts("h1", "h2", slots=1)
    launched = Launched(site, run, hosts, "--on", "ssh", "--launcher", launcher, *LONG)
    launched.wait_for_a_checkpoint()
    try:
        cluster.cut("h2")
        cut_s = time.monotonic()
        assert launched.end() == 1
        # Not how fast this machine is: the launcher's own clock has to have run out, and no other one.
        assert time.monotonic() - cut_s < STATED_S + 60, "it waited for something else than ssh's probes"
        last = launched.told().splitlines()[-1]
        assert last.startswith("error: host h2 is lost: "), launched.told()
        nothing_is_left(launched, "h1", "h2")
    finally:
        cluster.mend("h2")
    assert "no word from the launcher" in (run / "launch" / "ended.log").read_text()
    steps = len((run / "metrics.jsonl").read_text().splitlines())
    hosts = cluster.hosts("h1", slots=1)
    goes_on = launch(site, run, hosts, "--on", "ssh", "--launcher", launcher, "--resume", *LONG, "epochs=201")
    assert goes_on.returncode == 0, goes_on.stderr
    assert len((run / "metrics.jsonl").read_text().splitlines()) > steps
