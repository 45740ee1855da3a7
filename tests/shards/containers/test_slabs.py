"""A slab file has the bytes that were appended, whatever was read into its rooms, left out or larger."""

import hashlib
import io
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from viewmill.shards.containers import slabs
from viewmill.shards.containers.slabs import Scratch, SlabFile

SLAB = 4096


@pytest.fixture(autouse=True)
def small_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slabs, "SLAB_BYTES", SLAB)
    monkeypatch.setattr(slabs, "_MOST_PENDING", 3 * SLAB)
    monkeypatch.setattr(slabs, "_COPIED_BYTES", SLAB // 4)
    monkeypatch.setattr(slabs, "_FREE", [])


def pieces(rng: np.random.Generator, most: int, largest: int) -> list[bytes]:
    return [rng.bytes(int(rng.integers(0, largest))) for _ in range(int(rng.integers(1, most)))]


def append_some(file: SlabFile, rng: np.random.Generator, inputs: list[bytes]) -> bytes:
    """Reads inputs into rooms, and appends each, or nothing, or something else; what was appended."""
    before, appended = int(rng.integers(0, 600)), b""
    views = file.rooms([len(one) for one in inputs], before, [int(rng.integers(0, 600)) for _ in inputs])
    for view, one in zip(views, inputs, strict=True):
        view[:] = one
    for view, one in zip(views, inputs, strict=True):
        fate = rng.random()
        if fate < 0.2:
            continue
        head = rng.bytes(before if fate < 0.8 else before + 100)
        other = fate > 0.9
        body: bytes | memoryview = rng.bytes(int(rng.integers(0, 3 * SLAB))) if other else view
        file.append(head)
        file.append(body)
        appended += head + (body if isinstance(body, bytes) else one)
    return appended


@pytest.mark.parametrize("seed", range(40))
def test_any_order_of_pieces_and_rooms_gives_their_bytes_and_hash(seed: int) -> None:
    rng, buffer, expected = np.random.default_rng((21, seed)), io.BytesIO(), b""
    file = SlabFile(buffer, behind=seed % 4 < 2)
    for _ in range(8):
        expected += append_some(file, rng, pieces(rng, most=8, largest=SLAB if seed % 2 else SLAB // 6))
        for one in pieces(rng, most=4, largest=SLAB // 2):
            file.append(one)
            expected += one
        assert file.position == len(expected)
    assert file.finish() == hashlib.sha256(expected).hexdigest()
    assert buffer.getvalue() == expected


def test_pieces_in_their_rooms_are_not_copied() -> None:
    buffer = io.BytesIO()
    file = SlabFile(buffer)
    first, second = file.rooms([10, 20], 2, [3, 0])
    first[:], second[:] = b"1" * 10, b"2" * 20
    for data in (b"ab", first, b"xyz", b"cd", second):
        file.append(data)
    second[:] = b"3" * 20  # seen, for the file has no copy of them yet
    file.finish()
    assert buffer.getvalue() == b"ab" + b"1" * 10 + b"xyzcd" + b"3" * 20


def appended_in_blocks(file: SlabFile, num_blocks: int) -> None:
    for _ in range(num_blocks):
        file.append(bytes(SLAB))


@pytest.mark.parametrize(
    ("num_slabs", "behind", "threads"), [(1, True, 0), (2, True, 1), (9, True, 1), (9, False, 0)]
)
def test_only_what_is_longer_than_a_slab_has_a_thread_if_it_may(
    num_slabs: int, behind: bool, threads: int
) -> None:
    running = threading.active_count()
    buffer = io.BytesIO()
    file = SlabFile(buffer, behind=behind)
    appended_in_blocks(file, num_slabs)
    assert threading.active_count() == running + threads
    file.finish()
    assert threading.active_count() == running
    assert buffer.getvalue() == bytes(num_slabs * SLAB)


@pytest.mark.parametrize("behind", [True, False])
def test_a_full_disk_is_an_error_of_the_writer_and_ends_its_thread(behind: bool) -> None:
    running = threading.active_count()
    with Path("/dev/full").open("wb", buffering=0) as full:
        file = SlabFile(full, behind=behind)
        with pytest.raises(OSError, match="No space left"):
            appended_in_blocks(file, 20)
        file.close()
        assert threading.active_count() == running


def test_after_close_nothing_is_written_any_more(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb", buffering=0) as file:
        writer = SlabFile(file, behind=True)
        for _ in range(3):
            writer.append(bytes(SLAB))
        writer.close()
        written = os.fstat(file.fileno()).st_size
        assert written % SLAB == 0  # slabs are written whole, or not at all
    assert (tmp_path / "file").stat().st_size == written


def test_scratch_gives_rooms_that_do_not_overlap() -> None:
    scratch = Scratch()
    for sizes in ([3, 0, 5], [100], [4, 4]):
        rooms = scratch.rooms(sizes)
        for number, room in enumerate(rooms):
            room[:] = bytes([number]) * len(room)
        assert [bytes(room) for room in rooms] == [bytes([n]) * size for n, size in enumerate(sizes)]
