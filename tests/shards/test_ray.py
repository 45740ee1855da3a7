"""Conversion on a Ray cluster of two nodes, both on this machine: the files of one process."""

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from viewmill.shards.conversion.options import Options
from viewmill.shards.conversion.parts import Part
from viewmill.shards.conversion.ray_workers import NodeState, fault_of_node, state_of_node
from viewmill.shards.conversion.run import Progress
from viewmill.shards.conversion.workers import RayWorkers
from viewmill.shards.convert import convert, convert_part

from tests.shards.pictures import encoded, noise, tree_hashes, write_tree

HERE = NodeState("a", {"Pillow": "11.0", "zlib": "1.3"}, ())
SHARD_BYTES = 200_000


def test_a_node_that_does_not_see_the_source_is_named_with_the_path(tmp_path: Path) -> None:
    state = state_of_node([str(tmp_path), str(tmp_path / "none")])
    assert state.missing == (str(tmp_path / "none"),)
    assert "does not see" in str(fault_of_node(state, state_of_node([])))


def test_a_node_with_another_release_of_an_encoder_is_refused() -> None:
    assert fault_of_node(HERE, HERE) is None
    fault = fault_of_node(HERE._replace(releases={"Pillow": "12.0", "zlib": "1.3"}), HERE)
    assert fault is not None
    assert "Pillow 12.0 (here 11.0)" in fault
    assert "zlib" not in fault


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"viewmill\[ray\]"):
        convert(write_tree(tmp_path / "source"), tmp_path / "dataset", workers=RayWorkers())


def test_an_address_where_nothing_answers_is_named_at_once(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets the port
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(RuntimeError, match=f"nothing answers at {address}.*ray start --head"):
            convert(write_tree(tmp_path / "source"), tmp_path / "dataset", workers=RayWorkers(None, address))


def test_an_address_of_another_form_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    with pytest.raises(ValueError, match="HOST:PORT, got 'head'"):
        convert(write_tree(tmp_path / "source"), tmp_path / "dataset", workers=RayWorkers(address="head"))


class TwoNodes:
    """A cluster whose second node can be lost."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80_000_000}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.second = self.cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
        self.workers = RayWorkers(address=self.cluster.address)

    def lose_the_second(self) -> None:
        if self.second is not None:
            self.cluster.remove_node(self.second, allow_graceful=False)
        self.second = None


@pytest.fixture(scope="module")
def nodes() -> Iterator[TwoNodes]:
    pytest.importorskip("ray", reason="Ray is not installed")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    both = TwoNodes()
    yield both
    both.cluster.shutdown()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ray") / "source"
    for number in range(24):
        (folder / str(number % 3)).mkdir(parents=True, exist_ok=True)
        (folder / str(number % 3) / f"{number}.bmp").write_bytes(encoded(noise(number, 150, 200), "BMP"))
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def expected(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("here") / "dataset"
    assert convert(source, folder, shard_bytes=SHARD_BYTES).shards >= 8
    return tree_hashes(folder)


@pytest.mark.slow
def test_two_nodes_write_the_files_of_one_process(
    source: Path, expected: dict[str, str], tmp_path: Path, nodes: TwoNodes
) -> None:
    seen: list[Progress] = []
    convert(source, tmp_path / "there", shard_bytes=SHARD_BYTES, workers=nodes.workers, progress=seen.append)
    assert tree_hashes(tmp_path / "there") == expected
    assert seen[-1].images == seen[-1].total_images == 25


@pytest.mark.slow
def test_a_failure_on_a_node_ends_in_one_line_and_a_rerun_goes_on(
    source: Path, expected: dict[str, str], tmp_path: Path, nodes: TwoNodes
) -> None:
    convert_part(source, tmp_path / "there", Options(shard_bytes=SHARD_BYTES), Part(0, 2))
    obstacle = tmp_path / "there" / ".convert" / "000001.tar"
    obstacle.mkdir()  # where a node wants to put its shard
    with pytest.raises(RuntimeError, match=r"Is a directory.*run the same command again") as caught:
        convert(source, tmp_path / "there", shard_bytes=SHARD_BYTES, workers=nodes.workers)
    assert "\n" not in str(caught.value)
    obstacle.rmdir()
    convert(source, tmp_path / "there", shard_bytes=SHARD_BYTES, workers=nodes.workers)
    assert tree_hashes(tmp_path / "there") == expected


@pytest.mark.slow
def test_when_a_node_is_lost_the_other_writes_its_shards(
    source: Path, expected: dict[str, str], tmp_path: Path, nodes: TwoNodes
) -> None:
    """The last test of this module: it takes the second node away."""

    def lose_one(now: Progress) -> None:
        if now.images > 1:
            nodes.lose_the_second()

    convert(source, tmp_path / "there", shard_bytes=SHARD_BYTES, workers=nodes.workers, progress=lose_one)
    assert nodes.second is None
    assert tree_hashes(tmp_path / "there") == expected
