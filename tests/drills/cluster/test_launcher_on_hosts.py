"""What the launcher does with hosts, whatever ranks do: a program that takes no time stands in for them."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from viewmill.shards.convert import convert

from tests.drills.cluster.namespaces import Cluster, why_not
from tests.launched import Launched
from tests.tools.launch.stand_in import stand_in
from tests.tools.test_cli import write_image

LACKING = why_not("pdsh")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(LACKING is not None, reason=str(LACKING))]
SILENCE_S = 6


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster") / "hosts", size=2)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for number in range(2):
        write_image(folder / "source" / f"{number}.png", number)
    convert(folder / "source", folder / "ds", workers=1)
    return folder / "ds"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture(params=["torchrun", "deepspeed"])
def launched(request: pytest.FixtureRequest, cluster: Cluster, data: Path, run: Path) -> Launched:
    """A launch on both hosts, whose ranks are there."""
    words = ["launch", "hydes_tiny", "--data", str(data), "--out", str(run), "batch_size=8"]
    words += ["--on", "ssh", "--launcher", request.param, "--hosts", str(cluster.hosts("h1", "h2", slots=1))]
    words += ["--option", f"ssh_config={cluster.ssh_config}", "--option", f"silence_s={SILENCE_S}"]
    launch = Launched([*words, "--python", str(stand_in(run))], run.with_suffix(".told"))
    launch.wait_for(lambda: len(list(run.glob("ready-*"))) == 2)
    return launch


def test_a_host_that_is_cut_off_is_named_and_both_sides_end(
    cluster: Cluster, launched: Launched, run: Path
) -> None:
    cluster.cut("h2")
    try:
        assert launched.end() == 1
        assert launched.told().splitlines()[-1].startswith("error: host h2 is lost: Timeout, server")
        cluster.wait_until_none_is_left(run)
    finally:
        cluster.mend("h2")
    assert f"h2: no word from the launcher for {SILENCE_S} s" in (run / "launch" / "ended.log").read_text()


def test_a_signal_reaches_the_ranks_of_all_hosts(cluster: Cluster, launched: Launched, run: Path) -> None:
    launched.process.send_signal(signal.SIGTERM)
    assert launched.end() == 85, launched.told()
    assert {path.name for path in run.glob("saved-*")} == {"saved-h1", "saved-h2"}
    cluster.wait_until_none_is_left(run)


def test_no_process_outlives_a_launcher_that_is_killed(
    cluster: Cluster, launched: Launched, run: Path
) -> None:
    assert all(cluster.processes_of(name, run) for name in cluster.names)
    launched.process.kill()
    launched.process.wait()
    cluster.wait_until_none_is_left(run)
