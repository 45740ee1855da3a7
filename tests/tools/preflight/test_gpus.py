"""The GPUs of a preflight: those that the ranks may use, by a program that stands in for nvidia-smi."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from viewmill.tools.preflight import gpus, throttling
from viewmill.tools.preflight.checks import local_tasks
from viewmill.tools.preflight.options import Options
from viewmill.tools.preflight.verdict import Seen

# The first of a host's three GPUs is another job's: full, and slowed by heat. Like the real one it refuses a
# query that it does not know, and a GPU that is none.
PROGRAM = """#!/bin/bash
set -o pipefail
rows() {
    case "$*" in
    *memory.used*) printf 'GPU-a 0, 79000, 80000\nGPU-b 1, 10, 80000\nGPU-c 2, 11, 80000\n' ;;
    *clocks_event*) exit 2 ;;
    *clocks_throttle*) printf 'GPU-%s, 60, 1000, 1980, %s\n' 'a 0' 0x40 'b 1' 0x1 'c 2' 0x1 ;;
    *driver_version*) printf 'GPU-%s 580.1\n' a b c ;;
    esac
}
if [ "$1" = -i ]; then
    [[ $2 == *GPU-[abc]* ]] || exit 6
    rows "$@" | grep -E "^(${2//,/|}) " | cut -d' ' -f2-
else
    rows "$@" | cut -d' ' -f2-
fi
"""


class Properties(NamedTuple):
    """What torch knows of a GPU; its UUID has no prefix."""

    uuid: str


@pytest.fixture
def show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Shows torch these of the host's GPUs."""
    (tmp_path / "nvidia-smi").write_text(PROGRAM)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    def show(names: str) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "H100")
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Properties(names[index]))

    return show


def statuses(root: Path) -> list[str]:
    """Of the two checks, for one rank of a host without thermal zones."""
    verdicts = gpus.judge([Seen(0, "h", gpus.gather(Options()))])
    verdicts += throttling.judge([Seen(0, "h", throttling.gather(Options(), root))])
    return [one.status for one in verdicts]


def test_a_gpu_of_another_job_is_none_of_ours(show: Callable[[str], None], tmp_path: Path) -> None:
    show("cb")
    assert gpus.gather(Options())["memory"] == [[1.0, 10.0, 80000.0], [2.0, 11.0, 80000.0]]
    assert [row["index"] for row in throttling.gather(Options(), tmp_path)["gpus"]] == [1, 2]
    assert statuses(tmp_path) == ["pass", "pass"]
    show("ab")
    assert statuses(tmp_path) == ["fail", "fail"]


def test_where_torch_sees_none_no_gpu_is_asked_for(show: Callable[[str], None], tmp_path: Path) -> None:
    show("")
    assert gpus.gather(Options()) == {"device": "auto", "names": [], "memory": []}
    assert throttling.gather(Options(), tmp_path)["gpus"] == []
    assert gpus.driver_version() == "580.1"  # that of the host


def test_of_a_part_of_a_gpu_nothing_is_known(show: Callable[[str], None]) -> None:
    show("x")
    assert gpus.gather(Options())["memory"] == []


def test_a_recipe_that_computes_on_the_cpu_asks_for_no_gpu(show: Callable[[str], None]) -> None:
    """However full and hot the GPUs are, and fewer than ranks."""
    show("a")
    tasks = local_tasks(Options(device="cpu"))
    assert gpus.NAME not in tasks
    assert tasks[throttling.NAME]()["gpus"] == []
    assert set(local_tasks(Options())) - set(tasks) == {gpus.NAME}
