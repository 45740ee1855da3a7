"""Each judgement of a preflight alone: facts in, verdicts out."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from viewmill.tools.launch.hosts import read_hosts
from viewmill.tools.preflight import (
    all_reduce,
    clock,
    dataset,
    disk,
    gpus,
    limits,
    links,
    names,
    pace,
    processors,
    reading,
    throttling,
)
from viewmill.tools.preflight.gathering import gathered
from viewmill.tools.preflight.options import Options
from viewmill.tools.preflight.verdict import Seen, Verdict, odd_ones

GIB = 1 << 30


def seen(*facts: dict[str, Any], hosts: Sequence[str] = ()) -> list[Seen]:
    """A host of its own for each, unless hosts are named."""
    return [Seen(rank, hosts[rank] if hosts else f"h{rank}", one) for rank, one in enumerate(facts)]


def told(verdicts: Sequence[Verdict]) -> list[tuple[str, str]]:
    return [(one.status, one.host) for one in verdicts]


ALL = ("pass", "all")


def shm(free: int) -> dict[str, Any]:
    return {"total": 2 * free, "free": free}


def may(**facts: Any) -> dict[str, Any]:
    usual = {"nofile": 65536, "memlock": None, "nproc": None, "threads_now": 0, "shards": 100}
    return usual | {"threads": 4, "infiniband": False} | facts


def cores(count: int, threads: int = 4, quota: float | None = None, first: int = 0) -> dict[str, Any]:
    return {"cores": list(range(first, first + count)), "quota": quota, "threads": threads}


def room(**facts: Any) -> dict[str, Any]:
    return {"RUN": {"folder": "r", "free": 900 * GIB, "inodes": 10**6, "writable": True} | facts}


def data(**facts: Any) -> dict[str, Any]:
    usual = {"description": "d", "hash": "h", "manifest": "m", "manifest_stated": "m", "wrong": []}
    return usual | {"samples": 9, "shards": 2} | facts


def read(rate: float, count: int = GIB) -> dict[str, Any]:
    return {"bytes": count, "seconds": count / rate}


def card(*kinds: str, used: float = 10.0, device: str = "auto") -> dict[str, Any]:
    return {
        "device": device,
        "names": list(kinds),
        "memory": [[number, used, 80000.0] for number in range(len(kinds))],
    }


def heat(reasons: int = 0, zone: float = 40.0) -> dict[str, Any]:
    gpu = {"index": 0, "celsius": 60.0, "mhz": 1000.0, "max_mhz": 1980.0, "reasons": reasons}
    return {"gpus": [gpu], "zones": [{"name": "cpu", "celsius": zone, "trip_celsius": 90.0}]}


def named(*addresses: str, interface: str | None = None) -> dict[str, Any]:
    return {"name": "node", "addresses": list(addresses), "interface": interface}


def reduced(rate: float, backend: str = "gloo", latency_s: float = 1e-4, ranks: int = 4) -> dict[str, Any]:
    return {"backend": backend, "ranks": ranks, "latency_s": latency_s, "bus_rate": rate}


@pytest.mark.parametrize(
    ("judge", "facts", "expected"),
    [
        (limits.judge_shared, [shm(8 * GIB), shm(8 * GIB)], [ALL]),
        (limits.judge_shared, [shm(8 * GIB), shm(64 << 20)], [("fail", "h1")]),  # a container's default
        (limits.judge_shared, [shm(8 * GIB), shm(256 << 20)], [("warn", "h1")]),
        (limits.judge_limits, [may(), may(nofile=None)], [ALL]),
        (limits.judge_limits, [may(), may(nofile=600)], [("fail", "h1")]),
        (limits.judge_limits, [may(), may(nofile=1024)], [("warn", "h1")]),
        (limits.judge_limits, [may(), may(memlock=8 << 20, infiniband=True)], [("fail", "h1")]),
        (limits.judge_limits, [may(), may(memlock=8 << 20)], [ALL]),
        (limits.judge_limits, [may(), may(nproc=4096, threads_now=4090)], [("fail", "h1")]),
        (processors.judge, [cores(4), cores(4)], [ALL]),
        (processors.judge, [cores(4), cores(3)], [("warn", "h1")]),
        (processors.judge, [cores(4), cores(64, quota=0.5)], [("fail", "h1")]),
        (processors.judge, [cores(4), cores(64, quota=65.0)], [ALL]),
        (disk.judge, [room(), room()], [ALL]),
        (disk.judge, [room(), room(free=3 * GIB)], [("warn", "h1")]),
        (disk.judge, [room(), room(free=0, writable=False)], [("fail", "h1"), ("fail", "h1")]),
        (disk.judge, [room(), room(inodes=3)], [("fail", "h1")]),
        (disk.judge, [room(), room(inodes=None)], [ALL]),
        (disk.judge_shared, [{"missing": []}, {"missing": []}], [ALL]),
        (disk.judge_shared, [{"missing": ["h1"]}, {"missing": ["h0"]}], [("fail", "h1")]),
        (
            disk.judge_shared,
            [{"missing": ["h1"]}, {"missing": ["h0", "h2"]}, {"missing": ["h1"]}],
            [("fail", "h1")],
        ),
        (dataset.judge, [data(), data()], [ALL]),
        (dataset.judge, [data(), data(), data(hash="x", description="y")], [("fail", "h2")]),
        (dataset.judge, [data(), data(), data(description="y")], [("fail", "h2")]),
        (dataset.judge, [data(), data(manifest="x")], [("fail", "h1")]),
        (dataset.judge, [data(), data(wrong=[["train-000000.tar", 9, None]])], [("fail", "h1")]),
        (reading.judge, [read(1e9), read(1e9)], [ALL]),
        (reading.judge, [read(1e9), read(1e9), read(4e8)], [("warn", "h2")]),
        (reading.judge, [read(1e9), read(4e8)], [ALL]),  # of two neither is the odd one
        (reading.judge, [read(1e9), read(1e6)], [("fail", "h1")]),
        (reading.judge, [read(1e6, count=1000)], [ALL]),  # too few bytes to tell
        (gpus.judge, [card("H100"), card("H100")], [ALL]),
        (gpus.judge, [card("H100"), card("H100"), card("V100")], [("warn", "h2")]),
        (gpus.judge, [card("H100"), card("H100"), card()], [("fail", "h2")]),
        (gpus.judge, [card("H100"), card("H100", used=60000.0)], [("fail", "h1")]),
        (gpus.judge, [card(), card()], [ALL]),
        (gpus.judge, [card(device="cuda"), card(device="cuda")], [("fail", "h0"), ("fail", "h1")]),
        (throttling.judge, [heat(), heat(0x1)], [ALL]),  # idle
        (throttling.judge, [heat(), heat(0x40)], [("fail", "h1")]),
        (throttling.judge, [heat(), heat(0x4)], [("warn", "h1")]),
        (throttling.judge, [heat(), heat(zone=88.0)], [("warn", "h1")]),
        (throttling.judge, [heat(), heat(zone=91.0)], [("fail", "h1")]),
        (names.judge, [named("10.0.0.1"), named("127.0.1.1")], [("fail", "h1")]),
        (names.judge, [named("10.0.0.1"), named()], [("warn", "h1")]),
        (names.judge, [named("127.0.1.1")], [ALL]),
        (names.judge, [named("10.0.0.1"), named("127.0.1.1", interface="eth0")], [ALL]),
        (names.judge, [named("10.0.0.1"), named("127.0.1.1", interface="lo")], [("fail", "h1")]),
        (all_reduce.judge, [reduced(1e9)], [ALL]),
        (all_reduce.judge, [reduced(1e7)], [("warn", "all")]),
        (all_reduce.judge, [reduced(1e9, "nccl")], [("warn", "all")]),
        (all_reduce.judge, [reduced(1e8, "nccl")], [("fail", "all")]),
        (all_reduce.judge, [reduced(1e9, latency_s=0.1)], [("warn", "all")]),
        (all_reduce.judge, [reduced(0.0, ranks=1)], [ALL]),
    ],
)
def test_facts_lead_to_verdicts(
    judge: Callable[[list[Seen]], list[Verdict]],
    facts: list[dict[str, Any]],
    expected: list[tuple[str, str]],
) -> None:
    verdicts = judge(seen(*facts))
    assert told(verdicts) == expected
    assert all(one.remedy for one in verdicts if one.status != "pass")


def test_ranks_of_a_host_share_its_memory_cores_and_cards() -> None:
    pair = ("a", "a")
    assert told(limits.judge_shared(seen(shm(100 << 20), shm(100 << 20), hosts=pair))) == [("fail", "a")]
    assert told(processors.judge(seen(cores(4), cores(4), hosts=pair))) == [("warn", "a")]
    # Launchers bind ranks to cores: then each has its own.
    assert told(processors.judge(seen(cores(4), cores(4, first=4), hosts=pair))) == [ALL]
    assert told(gpus.judge(seen(card("H100"), card("H100"), hosts=pair))) == [("fail", "a")]


@pytest.mark.parametrize(
    ("offset_s", "uncertainty_s", "expected"),
    [
        (0.05, 0.001, "pass"),
        (-0.5, 0.001, "warn"),
        (3.0, 0.001, "fail"),
        (3.0, 2.5, "warn"),  # certain to be half a second off, no more
        (0.7, 0.8, "warn"),  # it might be right, but nobody knows
    ],
)
def test_a_clock_is_judged_by_what_is_certain(offset_s: float, uncertainty_s: float, expected: str) -> None:
    facts = {"offset_s": offset_s, "uncertainty_s": uncertainty_s}
    (verdict,) = clock.judge(seen({"offset_s": 0.0, "uncertainty_s": 0.0}, facts, {}))
    assert verdict.status == expected


def link(to: int, rate: float = 1e9, trip_s: float = 1e-4) -> dict[str, float]:
    return {"to": to, "there": 2 * rate, "back": rate, "round_trip_s": trip_s}


HOSTS = {0: "h0", 1: "h1", 2: "h2"}


@pytest.mark.parametrize(
    ("of_h0", "of_h1", "expected"),
    [
        ([link(1), link(2)], [link(2)], [ALL]),
        ([link(1), link(2)], [link(2, rate=1e8)], [("warn", "h1 - h2")]),
        ([link(1), link(2)], [link(2, rate=1e6)], [("fail", "h1 - h2")]),
        ([link(1), link(2)], [link(2, trip_s=0.003)], [("warn", "h1 - h2")]),
        ([link(1), link(2, rate=1e6)], [link(2, rate=1e6)], [("fail", "h2")]),  # all that the host has
    ],
)
def test_slow_links_are_named_or_the_host_that_they_share(
    of_h0: list[dict[str, float]], of_h1: list[dict[str, float]], expected: list[tuple[str, str]]
) -> None:
    verdicts = links.judge(seen({"links": of_h0}, {"links": of_h1}, {"links": []}), HOSTS)
    assert told(verdicts) == expected


@pytest.mark.parametrize("count", range(1, 12))
def test_each_two_hosts_meet_once_and_nobody_twice_in_a_round(count: int) -> None:
    found = links.rounds(count)
    pairs = [pair for one in found for pair in one]
    assert sorted(pairs) == [(a, b) for a in range(count) for b in range(a + 1, count)]
    for one in found:
        assert len({seat for pair in one for seat in pair}) == 2 * len(one)


def test_sizes_follow_the_speed_of_the_link() -> None:
    slow, fast = 1e6, 1e9  # bytes/s
    assert pace.sized(lambda count: count / slow, 0.2, GIB) == pace.PROBE_BYTES  # 0.26 s, and no more
    assert pace.sized(lambda count: 0.001 + count / fast, 0.2, GIB) == pytest.approx(0.2 * fast, rel=0.2)


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/a/b\n", {"a/cpu.max": "150000 100000", "a/b/cpu.max": "max 100000"}, 1.5),
        ("0::/a\n", {"a/cpu.max": "max 100000"}, None),
        ("0::/\n", {"cpu.max": "400000 100000"}, 4.0),  # a container sees its own group as the root
        ("0::/../x\n", {}, None),
        (
            "4:cpu,cpuacct:/a\n0::/\n",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "50000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"},
            0.5,
        ),
        ("1:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, None),
    ],
)
def test_the_quota_of_either_version_of_control_groups(
    groups: str, files: dict[str, str], expected: float | None, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert processors.quota(groups, tmp_path) == expected


@pytest.mark.parametrize(
    ("device", "variables", "expected"),
    [
        ("auto", {}, True),
        ("cuda", {"NCCL_IB_DISABLE": "0", "NCCL_NET": "IB"}, True),
        ("cuda", {"NCCL_IB_DISABLE": "1"}, False),
        ("cuda", {"NCCL_NET": "Socket"}, False),
        ("cpu", {}, False),  # gloo
    ],
)
def test_locked_memory_counts_where_nccl_uses_infiniband(
    device: str, variables: dict[str, str], expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert not limits.uses_infiniband(device, variables, tmp_path)
    (tmp_path / "class/infiniband/mlx5_0").mkdir(parents=True)
    assert limits.uses_infiniband(device, variables, tmp_path) == expected
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not limits.uses_infiniband(device, variables, tmp_path)


def test_thermal_zones_are_read_with_their_lowest_trip_point(tmp_path: Path) -> None:
    zone = tmp_path / "class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    points = {"0_type": "passive", "0_temp": "95000", "1_type": "critical", "1_temp": "105000"}
    files = {"type": "x86_pkg_temp", "temp": "61000", **{f"trip_point_{k}": v for k, v in points.items()}}
    for name, text in files.items():
        (zone / name).write_text(text + "\n")
    assert throttling.zones_of(tmp_path / "class/thermal") == [
        {"name": "x86_pkg_temp", "celsius": 61.0, "trip_celsius": 95.0}
    ]


def test_a_line_of_nvidia_smi_is_read_also_where_a_figure_is_missing() -> None:
    row = throttling.parse_clocks("3, 45, 1410, [N/A], 0x0000000000000044\n")
    assert row == {"index": 3, "celsius": 45.0, "mhz": 1410.0, "max_mhz": None, "reasons": 0x44}


def test_a_task_that_raises_or_hangs_becomes_an_error() -> None:
    import threading

    def fails() -> dict[str, Any]:
        raise OSError("no such device")

    end = threading.Event()
    found = gathered({"a": lambda: {"x": 1}, "b": fails, "c": lambda: {"x": end.wait(60)}}, limit_s=0.2)
    end.set()
    expected = {"a": {"x": 1}, "b": {"error": "OSError: no such device"}}
    assert found == expected | {"c": {"error": "no answer within 0.2 s"}}


def test_a_token_lies_in_the_folder_that_is_there_and_is_seen(tmp_path: Path) -> None:
    path = disk.leave_token(Options(out=tmp_path / "not" / "there"))["token"]
    assert Path(path).parent == tmp_path
    assert disk.look_for({"a": path, "b": str(tmp_path / "gone")}) == {"missing": ["b"]}
    assert disk.leave_token(Options()) == {"token": None}


def test_of_equally_frequent_values_the_first_is_the_usual_one() -> None:
    assert odd_ones({"a": 1, "b": 2}) == {"b": 2}


@pytest.mark.parametrize(
    "text",
    ["-oProxyCommand=x slots=1", "h slots=x", "h slots=0", "h\nh", "a b", "# none", "h;reboot", "root@h"],
)
def test_a_host_file_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text(text)
    with pytest.raises(ValueError, match="hosts"):
        read_hosts(tmp_path / "hosts")
