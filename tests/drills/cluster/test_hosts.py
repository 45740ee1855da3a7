"""`viewmill launch` on hosts that are namespaces: the weights of one host, and what a lost host leaves."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from torch import Tensor
from viewmill.engine.config import load_config
from viewmill.engine.faults.record import recorded
from viewmill.engine.telemetry import read_lines
from viewmill.shards.convert import convert

from tests.drills.cluster.namespaces import Cluster, why_not
from tests.drills.job import Job, result_of
from tests.engine.small_training import equal
from tests.launched import Launched
from tests.tools.test_launchers import write_images

LACKING = why_not("pdsh", "mpirun")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(LACKING is not None, reason=str(LACKING)),
]
SILENCE_S = 6

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


def words_for(site: Site, run: Path, hosts: Path, *words: str) -> list[str]:
    reached = ["--hosts", str(hosts), "--option", f"ssh_config={site.cluster.ssh_config}"]
    reached += ["--option", f"silence_s={SILENCE_S}"]
    launch = ["launch", "hydes_tiny", "--data", str(site.data), "--out", str(run)]
    return [*launch, *reached, *words_of(SETTINGS), *words]


def started(site: Site, run: Path, hosts: Path, *words: str) -> Launched:
    return Launched(words_for(site, run, hosts, *words), run.with_suffix(".told"))


def launch(site: Site, run: Path, hosts: Path, *words: str) -> tuple[int, str]:
    """Exit code, and all that was said."""
    launched = started(site, run, hosts, *words)
    return launched.end(), launched.told()


LONG = ("epochs=200", "checkpoint.every_steps=1", "checkpoint.every_epochs=null")


def test_torchrun_on_two_hosts_gives_the_weights_of_one(site: Site, on_one_host: dict[str, Tensor]) -> None:
    run = site.folder / "two"
    code, told = launch(site, run, site.cluster.hosts("h1", "h2", slots=2), "--on", "ssh")
    assert code == 0, told
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
    code, told = launch(site, run, hosts, "--on", "ssh", "--launcher", launcher)
    assert code == 0, told
    assert equal(result_of(run), on_one_host)


@pytest.mark.soak
def test_mpirun_on_two_hosts_gives_the_weights_of_one(site: Site, on_one_host: dict[str, Tensor]) -> None:
    run = site.folder / "mpi"
    code, told = launch(site, run, site.cluster.hosts("h1", "h2", slots=2), "--on", "mpi")
    assert code == 0, told
    assert equal(result_of(run), on_one_host)


@pytest.mark.soak
@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed"])
def test_a_host_that_is_cut_off_is_named_and_the_run_goes_on_without_it(site: Site, launcher: str) -> None:
    run, cluster = site.folder / f"cut-{launcher}", site.cluster
    hosts = cluster.hosts("h1", "h2", slots=1)
    launched = started(site, run, hosts, "--on", "ssh", "--launcher", launcher, *LONG)
    launched.wait_for_steps(run, 1)
    try:
        cluster.cut("h2")
        cut_s = time.monotonic()
        # Sooner than the engine's own watchdog, which waits five minutes: it is the launcher that noticed.
        assert launched.end(within_s=150) == 1
        print(f"{launcher}: ended {time.monotonic() - cut_s:.1f} s after the cut, silence_s={SILENCE_S}")
        last = launched.told().splitlines()[-1]
        assert last.startswith("error: host h2 is lost: "), launched.told()
        site.cluster.wait_until_none_is_left(run)
    finally:
        cluster.mend("h2")
    assert [(fault["kind"], fault["rank"], fault["host"]) for fault in recorded(run)] == [
        ("lost host", 1, "h2")
    ]
    assert "no word from the launcher" in (run / "launch" / "ended.log").read_text()
    hosts = cluster.hosts("h1", slots=1)
    goes_on = started(site, run, hosts, "--on", "ssh", "--launcher", launcher, "--resume", *LONG)
    goes_on.wait_for_steps(run, len(read_lines(run / "metrics.jsonl")) + 1)
    goes_on.process.send_signal(signal.SIGTERM)
    assert goes_on.end() == 85, goes_on.told()
    (told,) = (line for line in read_lines(run / "events.jsonl") if line["event"] == "fault")
    assert (told["what"], told["host"]) == ("lost host", "h2")


@pytest.mark.soak
@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed"])
def test_a_launch_that_is_told_to_stop_saves_on_all_hosts(site: Site, launcher: str) -> None:
    run, hosts = site.folder / f"stop-{launcher}", site.cluster.hosts("h1", "h2", slots=1)
    launched = started(site, run, hosts, "--on", "ssh", "--launcher", launcher, *LONG)
    launched.wait_for_steps(run, 1)
    launched.process.send_signal(signal.SIGTERM)
    assert launched.end() == 85, launched.told()
    assert json.loads((run / "requeue.json").read_text())["signal"] == "SIGUSR1"
    site.cluster.wait_until_none_is_left(run)


@pytest.mark.soak
def test_no_process_outlives_a_launcher_that_is_killed(site: Site) -> None:
    run, hosts = site.folder / "killed", site.cluster.hosts("h3", "h4", slots=1)
    launched = started(site, run, hosts, "--on", "ssh", *LONG)
    launched.wait_for_steps(run, 1)
    assert all(site.cluster.processes_of(name, run) for name in ("h3", "h4"))
    launched.process.kill()
    site.cluster.wait_until_none_is_left(run)


def test_hosts_that_cannot_take_part_are_named_and_nothing_starts(site: Site) -> None:
    run, cluster = site.folder / "none", site.cluster
    hosts = cluster.hosts("h1", "h3", "h4", slots=1)
    cluster.cut("h3")
    # A disk that this host alone has, where the others see the run.
    run.mkdir()
    cluster.inside("h4", "mount", "-t", "tmpfs", "tmpfs", str(run))
    try:
        code, told = launch(site, run, hosts, "--on", "ssh", "--python", "/no/python", "batch_size=9")
    finally:
        cluster.mend("h3")
        cluster.inside("h4", "umount", str(run))
    assert code == 1
    last = told.splitlines()[-1]
    assert last.startswith("error: h1 cannot take part: no program /no/python; "), told
    assert "h3 cannot be reached: " in last
    assert f"h4 cannot take part: no {run}/launch/check.sh: RUN must be on a disk" in last
    assert last.endswith("nothing was started")
    assert not (run / "checkpoints").exists()


@pytest.mark.soak
def test_a_host_with_another_data_set_is_found_before_it_trains(site: Site) -> None:
    run, hosts = site.folder / "other", site.cluster.hosts("h1", "h2", slots=1)
    write_images(site.folder / "other_source", count=20, seed=1)
    convert(site.folder / "other_source", site.folder / "other_ds")
    site.cluster.inside("h2", "mount", "--bind", str(site.folder / "other_ds"), str(site.data))
    try:
        code, told = launch(site, run, hosts, "--on", "ssh")
    finally:
        site.cluster.inside("h2", "umount", str(site.data))
    assert code == 1
    (line,) = (line for line in told.splitlines() if " fail " in line)
    assert line.split()[:4] == ["h1:", "data", "set", "fail"], told  # as rank 0's host tells it
    assert not (run / "checkpoints").exists()
    code, told = launch(site, run, hosts, "--on", "ssh")
    assert code == 0, told


@pytest.mark.soak
def test_hosts_that_know_themselves_as_loopback_are_refused_or_told_their_interface(site: Site) -> None:
    run, hosts = site.folder / "debian", site.cluster.hosts("h1", "h2", slots=1)
    with site.cluster.as_debian_names("h1"), site.cluster.as_debian_names("h2"):
        code, told = launch(site, run, hosts, "--on", "ssh")
        assert code == 1
        assert "h1 cannot take part: its own name means 127.0.1.1 there" in told
        code, told = launch(site, run, hosts, "--on", "ssh", "--env", "GLOO_SOCKET_IFNAME=eth0")
    assert code == 0, told
