"""Checkpoints that were cut short, flipped, forged or killed while being written: none is ever used."""

import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from viewmill.engine.checkpoints.behind import HostCopies
from viewmill.engine.checkpoints.checkpoint import Checkpoint, CheckpointError, newest
from viewmill.engine.checkpoints.retention import Retention
from viewmill.engine.world import World
from viewmill.engine.zero import ZeroEngine

from tests.engine.small_training import engine_of, equal, everything, save, train

pytestmark = pytest.mark.slow
FILES = ("COMMIT", "MANIFEST.json", "buffers.safetensors", "rank_0.safetensors")


@pytest.fixture(scope="module")
def engine(world: World) -> ZeroEngine:
    engine = engine_of(world, 1)
    train(engine, range(2))
    return engine


@pytest.fixture(scope="module")
def intact(engine: ZeroEngine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's checkpoints of steps 1 and 2."""
    folder = tmp_path_factory.mktemp("intact")
    save(engine, folder, 1)
    save(engine, folder, 2)
    return folder


@pytest.fixture
def folder(intact: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(intact, tmp_path / "checkpoints")
    return tmp_path / "checkpoints"


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(path)
    return str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_anywhere_is_caught(folder: Path, name: str) -> None:
    file = folder / "step_00000002" / name
    whole = file.read_bytes()
    places = range(len(whole)) if len(whole) < 100 else range(0, len(whole), len(whole) // 90)
    for place in (*places, len(whole) - 1):
        flipped = whole[place] ^ (1 << place % 8)
        file.write_bytes(whole[:place] + bytes([flipped]) + whole[place + 1 :])
        assert "step_00000002" in refused(file.parent)
    file.write_bytes(whole)
    assert Checkpoint.open(file.parent).step == 2


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_or_grown_is_caught_and_named(folder: Path, name: str) -> None:
    file = folder / "step_00000002" / name
    whole = file.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:-1], whole + b"\0"):
        file.write_bytes(damaged)
        assert name in refused(file.parent)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named_and_the_older_checkpoint_taken(folder: Path, name: str) -> None:
    (folder / "step_00000002" / name).unlink()
    path, reasons = newest(folder)
    assert path == folder / "step_00000001"
    assert len(reasons) == 1
    assert f"step_00000002/{name}" in reasons[0]


def test_every_damaged_checkpoint_gets_its_reason(folder: Path) -> None:
    (folder / "step_00000001" / "COMMIT").write_text("0" * 64 + "\n")
    (folder / "step_00000002" / "rank_0.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError) as caught:
        newest(folder)
    message = str(caught.value)
    assert f"{folder}: no usable checkpoint" in message
    assert "step_00000002/rank_0.safetensors: has 5 bytes" in message
    assert "step_00000001/MANIFEST.json: its hash is not the one in COMMIT" in message


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir], ids=["missing", "empty"])
def test_no_checkpoint_is_an_error_and_not_step_zero(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "checkpoints")
    with pytest.raises(CheckpointError, match=r"checkpoints: no usable checkpoint \(it holds none\)"):
        newest(tmp_path / "checkpoints")


@pytest.mark.parametrize("hint", [b"", b"\xff\xfe", b"step_00000001\n", b"../../etc", b"x" * 1000])
def test_the_hint_decides_nothing(folder: Path, hint: bytes) -> None:
    (folder / "latest").write_bytes(hint)
    assert newest(folder) == (folder / "step_00000002", [])


def test_a_checkpoint_that_only_the_hint_remembers_is_told(folder: Path) -> None:
    shutil.rmtree(folder / "step_00000002")
    path, reasons = newest(folder)
    assert path == folder / "step_00000001"
    assert reasons == [f"{folder / 'step_00000002'}: named by latest, and not there"]


def test_a_folder_that_was_never_committed_is_no_candidate(folder: Path) -> None:
    (folder / "step_00000002").rename(folder / ".step_00000002.new-0123456789abcdef")
    (folder / "latest").unlink()
    assert newest(folder) == (folder / "step_00000001", [])


# What a forger, or a faulty program, could commit: the hash in COMMIT is right, the manifest is not.
def without_a_rank(manifest: dict[str, Any]) -> None:
    del manifest["files"]["rank_0.safetensors"]


def with_a_path_outside(manifest: dict[str, Any]) -> None:
    manifest["files"]["../../rank_0.safetensors"] = manifest["files"].pop("rank_0.safetensors")


def with_an_absolute_path(manifest: dict[str, Any]) -> None:
    manifest["files"]["/etc/passwd"] = manifest["files"].pop("rank_0.safetensors")


def with_a_gap(manifest: dict[str, Any]) -> None:
    manifest["files"]["rank_0.safetensors"]["pieces"].pop(0)


def with_a_piece_twice(manifest: dict[str, Any]) -> None:
    pieces = manifest["files"]["rank_0.safetensors"]["pieces"]
    pieces.append(pieces[0])


def with_a_shorter_piece(manifest: dict[str, Any]) -> None:
    manifest["files"]["rank_0.safetensors"]["pieces"][0]["numel"] -= 1


def with_an_unknown_parameter(manifest: dict[str, Any]) -> None:
    piece = {"kind": "weight", "name": "teacher.weight", "offset": 0, "numel": 1}
    manifest["files"]["rank_0.safetensors"]["pieces"].append(piece)


def with_a_parameter_of_terabytes(manifest: dict[str, Any]) -> None:
    manifest["parameters"]["0.weight"]["shape"] = [1 << 40]
    for piece in manifest["files"]["rank_0.safetensors"]["pieces"]:
        if piece["name"] == "0.weight" and piece["kind"] != "step":
            piece["numel"] = 1 << 40


def with_two_ranks(manifest: dict[str, Any]) -> None:
    manifest["world_size"] = 2


def with_millions_of_ranks(manifest: dict[str, Any]) -> None:
    manifest["world_size"] = 1 << 30


def of_the_next_format(manifest: dict[str, Any]) -> None:
    manifest["version"] = 2


def without_a_step(manifest: dict[str, Any]) -> None:
    del manifest["step"]


def with_a_step_in_words(manifest: dict[str, Any]) -> None:
    manifest["step"] = "two"


FORGERIES = {
    without_a_rank: "not 1 ranks'",
    with_a_path_outside: "not 1 ranks'",
    with_an_absolute_path: "not 1 ranks'",
    with_a_gap: "weight of 0.weight: 0 numbers are there, of 135",
    with_a_piece_twice: "weight of 0.weight: the numbers from 0 to 135 are there twice",
    with_a_shorter_piece: "weight of 0.weight: 134 numbers are there, of 135",
    with_an_unknown_parameter: "weight of teacher.weight is in no model",
    with_a_parameter_of_terabytes: "rank_0.safetensors is too small for its pieces",
    with_two_ranks: "not 2 ranks'",
    with_millions_of_ranks: f"not {1 << 30} ranks'",
    of_the_next_format: "format version 2; use the Viewmill that wrote it",
    without_a_step: "step: Field required",
    with_a_step_in_words: "step: Input should be a valid integer",
}


@pytest.mark.parametrize("forge", FORGERIES, ids=lambda forge: forge.__name__)
def test_a_manifest_that_is_wrong_in_itself_is_refused(folder: Path, forge: Callable[[Any], None]) -> None:
    path = folder / "step_00000002"
    manifest = json.loads((path / "MANIFEST.json").read_text())
    forge(manifest)
    commit(path, json.dumps(manifest).encode())
    assert FORGERIES[forge] in refused(path)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"version": 1}'])
def test_a_committed_manifest_that_is_no_manifest_is_refused(folder: Path, text: bytes) -> None:
    commit(folder / "step_00000002", text)
    assert "step_00000002" in refused(folder / "step_00000002")


def commit(path: Path, manifest: bytes) -> None:
    (path / "MANIFEST.json").write_bytes(manifest)
    (path / "COMMIT").write_text(f"{hashlib.sha256(manifest).hexdigest()}\n")


@pytest.mark.parametrize("name", FILES)
def test_a_link_in_place_of_a_file_is_refused(folder: Path, name: str) -> None:
    file = folder / "step_00000002" / name
    file.rename(folder / "elsewhere")
    file.symlink_to(folder / "elsewhere")
    assert "no regular file" in refused(file.parent)


def test_a_tensor_that_the_manifest_lists_and_the_file_lacks_is_named(folder: Path) -> None:
    path = folder / "step_00000002"
    shutil.copy(path / "buffers.safetensors", path / "rank_0.safetensors")
    manifest = json.loads((path / "MANIFEST.json").read_text())
    manifest["files"]["rank_0.safetensors"] |= {
        "size": 1 << 20,
        "sha256": manifest["files"]["buffers.safetensors"]["sha256"],
    }
    os.truncate(path / "rank_0.safetensors", 1 << 20)
    commit(path, json.dumps(manifest).encode())
    with pytest.raises(CheckpointError, match=r"rank_0\.safetensors"):
        Checkpoint.open(path, verify=False).read_full("weight")


def killed_at(call: int, work: Callable[[], object]) -> bool:
    """Runs `work` in a child; SIGKILL before its `call`-th touch of the disk. Whether it came to that."""
    child = os.fork()
    if child == 0:
        left = [call]

        def count(event: str, _: object) -> None:
            if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.fsync"):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        fsync = os.fsync
        os.fsync = lambda descriptor: (count("os.fsync", ()), fsync(descriptor))[1]
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("behind", [False, True])
def test_killed_at_any_moment_the_newest_is_the_old_or_the_new_one(
    engine: ZeroEngine, intact: Path, tmp_path: Path, behind: bool
) -> None:
    one = Retention(keep=1)
    options = {"retention": one, "copies": HostCopies() if behind else None}
    expected = everything(intact / "step_00000002")
    taken, call = [], 0
    while True:
        call += 1
        folder = tmp_path / str(call)
        shutil.copytree(intact, folder)
        was_killed = killed_at(call, lambda folder=folder: save(engine, folder, 3, **options))
        path, _ = newest(folder)
        taken.append(path.name)
        assert equal(everything(path), expected)
        save(engine, folder, 4, retention=one)  # the next save clears what the killed one left
        left = {entry.name for entry in folder.iterdir()}
        assert {"latest", "step_00000004"} == left
        if not was_killed:
            break
    # Each outcome was met, and in this order: there is one moment at which the new one counts.
    assert taken == sorted(taken)
    assert set(taken) == {"step_00000002", "step_00000003"}
    assert call > 20
