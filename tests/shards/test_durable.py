"""A file is on its way to the disk while it grows: every byte once, in order, never more than was given."""

import ctypes
import io
from pathlib import Path
from typing import Any

import pytest
from viewmill.shards import durable
from viewmill.shards.containers.slabs import SlabFile
from viewmill.shards.durable import Writeback

STEP = 4 << 20


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """(descriptor, start, end) of what the system is asked to begin with."""
    calls: list[tuple[int, int, int]] = []

    def taken(file: int, start: Any, size: Any, flags: int) -> int:
        assert flags == 2
        calls.append((file, start.value, start.value + size.value))
        return 0

    monkeypatch.setattr(durable, "_sync_file_range", taken)
    return calls


def test_ranges_follow_each_other_up_to_the_last_that_is_large_enough(
    tmp_path: Path, begun: list[tuple[int, int, int]]
) -> None:
    with (tmp_path / "file").open("x+b") as file:
        writeback = Writeback(file)
        for end in (1, STEP - 1, STEP, STEP + 1, 5 * STEP + 7, 5 * STEP + 8):
            writeback.reaches(end)
        number = file.fileno()
    assert begun == [(number, 0, STEP), (number, STEP, 5 * STEP + 7)]


def test_a_slab_file_says_how_far_it_is(tmp_path: Path, begun: list[tuple[int, int, int]]) -> None:
    with (tmp_path / "file").open("x+b") as file:
        slabs = SlabFile(file)
        for _ in range(20):
            slabs.append(bytes(1 << 20))
            size = (tmp_path / "file").stat().st_size
            assert all(end <= size for _, _, end in begun)
        slabs.finish()
    starts, ends = [start for _, start, _ in begun], [end for _, _, end in begun]
    assert starts == [0, *ends[:-1]]
    assert ends[-1] > 20 * (1 << 20) - STEP


def test_a_file_in_memory_and_a_system_without_the_call_are_left_alone(
    tmp_path: Path, begun: list[tuple[int, int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    Writeback(io.BytesIO()).reaches(STEP)
    monkeypatch.setattr(durable, "_sync_file_range", None)
    with (tmp_path / "file").open("x+b") as file:
        Writeback(file).reaches(STEP)
    assert not begun


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "sync_file_range"), reason="a call of Linux")
def test_the_system_takes_the_call_of_a_file_of_any_length(tmp_path: Path) -> None:
    found = []
    call = durable._sync_file_range
    with (tmp_path / "file").open("x+b") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "_sync_file_range", lambda *given: found.append(call(*given)))
        writeback = Writeback(file)
        file.truncate(6 << 30)
        for end in (STEP, 3 << 30, 6 << 30):  # past what 32 bits hold
            writeback.reaches(end)
    assert found == [0, 0, 0]
