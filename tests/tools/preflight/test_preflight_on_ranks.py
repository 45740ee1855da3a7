"""A preflight of several ranks finds what was made different, names its host, and hangs for nobody."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from viewmill.shards.convert import convert
from viewmill.tools.preflight import all_reduce, clock, links, names, run, versions
from viewmill.tools.preflight.options import Options

from tests.tools.preflight.ranks import bad_hosts, lines_of, run_preflight

AHEAD_S = 5.0
DELAY_S = 1.5 * links.FAIL_ROUND_TRIP_S


def make_dataset(root: Path, seed: int) -> None:
    (root / "source" / "a").mkdir(parents=True)
    for number in range(4):
        pixels = np.random.default_rng([seed, number]).integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "source" / "a" / f"{seed}-{number}.png")
    convert(root / "source", root / "ds")


def different(rank: int, folder: Path) -> Options:
    """Four hosts: another torch on the second, another data set on the third, a fast clock on the fourth.

    And a delay on the way from the second to the fourth.
    """
    if rank == 1:
        found = versions._version
        versions._version = lambda name: "2.0.0" if name == "torch" else found(name)
        send = links.send

        def slowly(tensor: torch.Tensor, peer: int) -> None:
            time.sleep(DELAY_S if peer == 3 else 0)
            send(tensor, peer)

        links.send = slowly
    if rank == 3:
        clock.now_ns = lambda: time.time_ns() + int(AHEAD_S * 1e9)
    data = folder.parent / ("other" if rank == 2 else "same") / "ds"
    return Options(data=str(data), out=folder / "run", threads=1, patience_s=60, collective_s=30)


def equal(rank: int, folder: Path) -> Options:
    """Ranks that compute on the CPU, as their recipe says, beside a GPU that is none of theirs."""
    torch.cuda.device_count = lambda: 1
    return Options(device="cpu", data=str(folder.parent / "same" / "ds"), out=folder / "run", threads=1)


def failing(rank: int, folder: Path) -> Options | None:
    """The fourth never comes; the third ends in the middle of an all-reduce; the second's resolver hangs."""
    if rank == 3:
        return None
    if rank == 2:
        all_reduce.measure = lambda device, backend: os._exit(1)
    if rank == 1:
        names.gather = lambda: time.sleep(60) or {}
    return Options(threads=1, gather_s=3, patience_s=20, collective_s=10)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("preflight")
    make_dataset(root / "same", seed=0)
    make_dataset(root / "other", seed=1)
    return root


@pytest.fixture(scope="module")
def faulty(root: Path) -> dict[str, Any]:
    return run_preflight(4, different, root / "faulty")


@pytest.fixture(scope="module")
def lonely(root: Path) -> dict[str, Any]:
    return run_preflight(4, failing, root / "lonely")


def test_another_version_is_named_with_its_host_and_the_usual_one(faulty: dict[str, Any]) -> None:
    (line,) = lines_of(faulty, versions.NAME)
    assert (line["status"], line["host"]) == ("fail", "host1")
    assert line["found"].startswith("torch 2.0.0 on rank 1, ")
    assert line["remedy"].startswith("pip install torch==")


def test_another_data_set_is_named_with_its_host(faulty: dict[str, Any]) -> None:
    assert bad_hosts(faulty, "data set") == {"host2"}
    (line,) = lines_of(faulty, "data set")
    assert "rank 2 has data set hash" in line["found"]


def test_a_clock_that_is_ahead_is_measured(faulty: dict[str, Any]) -> None:
    assert bad_hosts(faulty, "clock") == {"host3"}
    facts = faulty["facts"]["3"]["clock"]
    assert abs(facts["offset_s"] - AHEAD_S) <= facts["uncertainty_s"]
    assert abs(faulty["facts"]["1"]["clock"]["offset_s"]) <= faulty["facts"]["1"]["clock"]["uncertainty_s"]


def test_the_slow_link_is_named_by_its_two_hosts(faulty: dict[str, Any]) -> None:
    assert bad_hosts(faulty, "links") == {"host1 - host3"}


def test_every_pair_of_hosts_was_measured(faulty: dict[str, Any]) -> None:
    pairs = {(int(rank), link["to"]) for rank, of in faulty["facts"].items() for link in of["links"]["links"]}
    assert pairs == {(a, b) for a in range(4) for b in range(a + 1, 4)}


def test_all_ranks_saw_one_run_folder_and_left_nothing_in_it(faulty: dict[str, Any], root: Path) -> None:
    (line,) = lines_of(faulty, "one RUN")
    assert (line["status"], line["found"]) == ("pass", "hosts that see it: 4")
    assert not list((root / "faulty").glob(".viewmill-preflight-*"))


def test_equal_ranks_pass_what_was_found_faulty_before(root: Path) -> None:
    report = run_preflight(2, equal, root / "equal")
    for check in ("versions", "data set", "clock", "one RUN"):
        assert [line["status"] for line in lines_of(report, check)] == ["pass"], check
    assert report["facts"]["0"]["all-reduce"]["ranks"] == 2
    assert not bad_hosts(report, "all-reduce")
    assert report["facts"]["0"]["all-reduce"]["backend"] == "gloo"
    assert not lines_of(report, "gpus")


@pytest.mark.slow  # rank 0 waits for the silent one as long as a network check may take
def test_missing_silent_and_hanging_ranks_are_told_apart(lonely: dict[str, Any]) -> None:
    found = {line["found"] for line in lines_of(lonely, run.RANKS)}
    assert found == {"rank 3 of 4 did not come", "rank 2 came and went silent"}
    (hanging,) = [line for line in lines_of(lonely, names.NAME) if line["host"] == "host1"]
    assert hanging["status"] == "fail"
    assert "no answer within 3 s" in hanging["found"]


@pytest.mark.slow
def test_the_ranks_that_lost_one_say_so_and_go_on(lonely: dict[str, Any]) -> None:
    assert bad_hosts(lonely, "all-reduce") == {"host0", "host1"}
    assert {line["found"].partition(": ")[2] for line in lines_of(lonely, "links")} == {
        "not measured, as all-reduce failed"
    }
    assert not bad_hosts(lonely, "versions")
