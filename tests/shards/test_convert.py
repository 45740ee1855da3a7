"""Conversion: the same bytes whatever the workers and crashes, nothing lost, errors that say what to do."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from viewmill.shards.containers import slabs
from viewmill.shards.conversion.journal import FOLDER, PLAN
from viewmill.shards.conversion.shard_job import Tell
from viewmill.shards.conversion.workers import write_shards
from viewmill.shards.convert import Progress, convert
from viewmill.shards.errors import ConvertError
from viewmill.shards.images import decode_rgb
from viewmill.shards.manifest import Dataset
from viewmill.shards.sources import reading

from tests.shards.pictures import SHARED_DATA, encoded, noise, picture, tree_hashes, write_tree

ROOT = Path(__file__).resolve().parents[2]
SHARD_BYTES = 12_000  # about three of the small pictures
SLOW_SHARD_BYTES = 300_000


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def dataset(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("converted") / "dataset"
    convert(source, path, shard_bytes=SHARD_BYTES)
    return path


@pytest.fixture(scope="module")
def slow_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 bitmaps, each some 15 ms of work: long enough to be killed in the midst of it."""
    folder = tmp_path_factory.mktemp("slow")
    for number in range(60):
        (folder / f"{number}.bmp").write_bytes(encoded(noise(number, 250, 250), "BMP"))
    return folder


def test_a_data_set_has_the_files_of_the_format_and_no_others(dataset: Path) -> None:
    names = {path.name for path in dataset.iterdir()}
    shards = {f"train-{number:06d}.{ext}" for number in range(4) for ext in ("tar", "idx")}
    assert names == shards | {"dataset.json", "manifest.parquet", "manifest.bin", "quarantine.parquet"}


def test_samples_and_quarantine_are_all_inputs(source: Path, dataset: Path) -> None:
    description = json.loads((dataset / "dataset.json").read_text())
    written = pq.read_table(dataset / "manifest.parquet").to_pydict()
    refused = pq.read_table(dataset / "quarantine.parquet").to_pydict()
    inputs = sorted(str(path.relative_to(source)) for path in source.rglob("*") if path.is_file())
    assert sorted(written["source"] + refused["source"]) == inputs
    assert (description["inputs"], description["samples"], description["quarantined"]) == (15, 13, 2)
    assert written["id"] == list(range(13))
    assert dict(zip(refused["source"], refused["size"], strict=True))["class_1/notes.txt"] == 8
    assert [reason.partition(":")[0] for reason in refused["reason"]] == [
        "JPEG header cannot be read",
        "no image",
    ]


def test_images_are_kept_byte_for_byte_or_become_png(source: Path, dataset: Path) -> None:
    rows = pq.read_table(dataset / "manifest.parquet").to_pylist()
    with Dataset.open(dataset) as opened:
        for row, data in zip(rows, opened.read(range(13)), strict=True):
            original = (source / row["source"]).read_bytes()
            assert row["transcoded"] == (row["source"] == "class_0/extra.bmp")
            if row["transcoded"]:
                np.testing.assert_array_equal(decode_rgb(data), decode_rgb(original))
            else:
                assert data == original


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_workers_writes_the_same_bytes(
    source: Path, dataset: Path, workers: int, tmp_path: Path
) -> None:
    convert(source, tmp_path / "dataset", shard_bytes=SHARD_BYTES, workers=workers)
    assert tree_hashes(tmp_path / "dataset") == tree_hashes(dataset)


def test_a_copy_of_the_source_elsewhere_gives_the_same_bytes(
    source: Path, dataset: Path, tmp_path: Path
) -> None:
    for path in sorted(source.rglob("*"), reverse=True):  # made in another order, at another time
        if path.is_file():
            (tmp_path / "copy" / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "copy" / path.relative_to(source)).write_bytes(path.read_bytes())
    convert(tmp_path / "copy", tmp_path / "dataset", shard_bytes=SHARD_BYTES)
    assert tree_hashes(tmp_path / "dataset") == tree_hashes(dataset)


def test_the_data_set_hash_does_not_depend_on_the_shards(source: Path, dataset: Path, tmp_path: Path) -> None:
    other = convert(source, tmp_path / "dataset", shard_bytes=10**9)
    assert other.shards == 1
    assert other.data_set_hash == json.loads((dataset / "dataset.json").read_text())["data_set_hash"]


def test_the_size_of_slabs_changes_no_byte(
    source: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (slabs, reading):
        monkeypatch.setattr(name, "SLAB_BYTES", 5000)  # less than an image and its label, or a few of them
    monkeypatch.setattr(slabs, "_FREE", [])
    seen: list[list[str]] = []
    convert(
        source, tmp_path / "d", shard_bytes=SHARD_BYTES, progress=lambda _: seen.append(writing_threads())
    )
    assert tree_hashes(tmp_path / "d") == tree_hashes(dataset)
    assert max(map(len, seen)) == 1
    assert writing_threads() == []


def writing_threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("viewmill-slabs")]


def test_another_seed_is_another_data_set(source: Path, dataset: Path, tmp_path: Path) -> None:
    other = convert(source, tmp_path / "dataset", shard_bytes=SHARD_BYTES, shuffle_seed=1)
    assert other.data_set_hash != json.loads((dataset / "dataset.json").read_text())["data_set_hash"]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "files"), [("webdataset", 8), ("ffcv", 6)])
def test_killed_before_any_change_a_rerun_gives_the_same_bytes(
    fast_folder: Path, kind: str, files: int
) -> None:
    source = write_tree(fast_folder / "source", num_classes=2, per_class=2)
    command = [sys.executable, "-m", "tests.shards.kill_points", str(source), str(fast_folder), kind]
    result = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)
    assert result["wrong"] == []
    assert result["files"] >= files  # two shards at least, tars with their indexes, and the four other files
    assert result["points"] >= 20


@pytest.mark.slow
def test_killed_while_two_workers_write_a_rerun_gives_the_same_bytes(
    slow_source: Path, tmp_path: Path
) -> None:
    program = (
        "from pathlib import Path; from viewmill.shards.convert import convert\n"
        f"if __name__ == '__main__': convert(Path({str(slow_source)!r}), Path({str(tmp_path / 'killed')!r}), "
        f"workers=2, shard_bytes={SLOW_SHARD_BYTES})"
    )
    (tmp_path / "program.py").write_text(program)
    process = psutil.Popen([sys.executable, str(tmp_path / "program.py")])
    records = wait_for_records(tmp_path / "killed" / FOLDER)
    workers = process.children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not psutil.wait_procs(workers, timeout=20)[1]  # none goes on writing without its parent
    assert 0 < records < 39
    convert(slow_source, tmp_path / "killed", shard_bytes=SLOW_SHARD_BYTES)
    convert(slow_source, tmp_path / "whole", shard_bytes=SLOW_SHARD_BYTES)
    assert tree_hashes(tmp_path / "killed") == tree_hashes(tmp_path / "whole")


def wait_for_records(workspace: Path) -> int:
    deadline = time.monotonic() + 60
    while not (records := list(workspace.glob("*.json"))):
        assert time.monotonic() < deadline, "no shard was finished in a minute"
        time.sleep(0.005)
    return len(records)


@pytest.mark.slow
def test_a_worker_that_dies_is_an_error_and_a_rerun_goes_on(slow_source: Path, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill_a_worker(progress: Progress) -> None:
        here = psutil.Process()
        workers = [child for child in here.children(recursive=True) if child.ppid() != here.pid]
        if progress.images and workers and not killed:
            workers[0].kill()
            killed.append(workers[0].pid)  # once: on a busy machine it is asked again before it is seen

    with pytest.raises(RuntimeError, match=r"a conversion worker died .* run the same command again"):
        convert(slow_source, tmp_path / "d", workers=2, shard_bytes=SLOW_SHARD_BYTES, progress=kill_a_worker)
    assert convert(slow_source, tmp_path / "d", shard_bytes=SLOW_SHARD_BYTES).samples == 60


@dataclass(frozen=True)
class Note:
    """What a worker is to write down: a variable of its environment."""

    number: int
    path: Path
    local_paths: tuple[str, ...] = ()


def write_down(note: Note, tell: Tell) -> None:
    note.path.write_text(os.environ.get("VIEWMILL_TEST_WORD", "nothing"))


def test_workers_have_the_environment_of_their_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for word in ("first", "second"):
        monkeypatch.setenv("VIEWMILL_TEST_WORD", word)
        notes = [Note(number, tmp_path / f"{word}{number}") for number in range(2)]
        write_shards(notes, write_down, 2, lambda *totals: None)
        assert [note.path.read_text() for note in notes] == [word, word]


def test_worker_processes_import_little() -> None:
    heavy = "{'pyarrow', 'fsspec', 'asyncio', 'ray', 'typer', 'viewmill.tools.cli'}"
    program = (
        "import sys; from importlib import import_module\n"
        "from viewmill.shards.conversion.workers import PRELOADED\n"
        "for name in (*PRELOADED, 'viewmill.tools.entry'): import_module(name)\n"
        f"sys.exit(','.join({heavy} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_finished_shards_are_not_written_again(source: Path, tmp_path: Path) -> None:
    def stop_in_the_third_shard(progress: Progress) -> None:
        if progress.images == 11:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "d", shard_bytes=SHARD_BYTES, progress=stop_in_the_third_shard)
    done = {path.name: path.stat().st_ino for path in (tmp_path / "d" / FOLDER).glob("*.tar")}
    convert(source, tmp_path / "d", shard_bytes=SHARD_BYTES)
    published = {path.stat().st_ino for path in (tmp_path / "d").glob("*.tar")}
    assert len(done) >= 2
    assert set(done.values()) <= published


def test_a_damaged_finished_shard_is_written_again(source: Path, dataset: Path, tmp_path: Path) -> None:
    def stop_late(progress: Progress) -> None:
        if progress.images == 14:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "d", shard_bytes=SHARD_BYTES, progress=stop_late)
    tar = tmp_path / "d" / FOLDER / "000000.tar"
    tar.write_bytes(tar.read_bytes()[:-1] + b"x")
    convert(source, tmp_path / "d", shard_bytes=SHARD_BYTES)
    assert tree_hashes(tmp_path / "d") == tree_hashes(dataset)


def test_progress_counts_every_input_also_after_a_resume(source: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []

    def stop_once(progress: Progress) -> None:
        seen.append(progress)
        if progress.images == 12 and len(seen) == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "d", shard_bytes=SHARD_BYTES, progress=stop_once)
    convert(source, tmp_path / "d", shard_bytes=SHARD_BYTES, progress=stop_once)
    num_bytes = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    assert seen[-1] == Progress(15, num_bytes, 2, 15, num_bytes)


def test_an_unfinished_conversion_of_another_plan_is_not_touched(source: Path, tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "d", progress=stop)
    with pytest.raises(
        ConvertError, match=r"another plan \(shuffle_seed was 0, is 5\); run it with the same"
    ):
        convert(source, tmp_path / "d", shuffle_seed=5)


def test_a_destination_that_is_not_empty_is_refused(source: Path, dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ConvertError, match=r"is not empty, and no unfinished conversion; give a new folder"):
        convert(source, tmp_path)
    with pytest.raises(ConvertError, match=r"holds a finished data set"):
        convert(source, dataset)
    with pytest.raises(ConvertError, match=r"mine\.txt: is a file"):
        convert(source, tmp_path / "mine.txt")
    assert {path.name for path in tmp_path.iterdir()} == {"mine.txt"}


def test_a_destination_inside_the_source_is_refused(source: Path) -> None:
    with pytest.raises(ConvertError, match="lies inside the source"):
        convert(source, source / "class_0" / "dataset")


def test_two_conversions_do_not_write_to_one_place(source: Path, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with (tmp_path / "d" / PLAN).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ConvertError, match="another conversion is writing here"):
            convert(source, tmp_path / "d")


def test_a_source_of_no_usable_image_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.txt").write_text("text")
    (tmp_path / "source" / "b.jpg").write_bytes(b"")
    with pytest.raises(RuntimeError, match=r"source: none of 2 files is a usable image \(1 .*; the first: "):
        convert(tmp_path / "source", tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_a_shard_of_refused_inputs_alone_leaves_no_gap_in_the_names(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for number in range(6):
        broken = encoded(picture(number), "PNG")[:60] + bytes(3000)
        data = broken if number in (2, 3) else encoded(picture(number), "PNG") + bytes(2400)
        (tmp_path / "source" / f"{number}.png").write_bytes(data)
    report = convert(tmp_path / "source", tmp_path / "d", shuffle_seed=None, shard_bytes=5_000)
    assert report.samples == 4
    names = sorted(path.name for path in (tmp_path / "d").glob("*.tar"))
    assert names == [f"train-{number:06d}.tar" for number in range(report.shards)]
    with Dataset.open(tmp_path / "d") as opened:
        assert opened.keys(range(4)) == ["0", "1", "4", "5"]
        assert len(opened.read(range(4))) == 4


def test_a_file_that_changes_while_the_conversion_runs_is_quarantined(tmp_path: Path) -> None:
    source = write_tree(tmp_path / "source")

    def touch_the_last(progress: Progress) -> None:
        if progress.images == 1:
            os.utime(source / "class_2" / "3.jpg", ns=(1, 1))

    # In a shard of its own: what is in one with the first image has been read by then.
    report = convert(source, tmp_path / "d", shuffle_seed=None, shard_bytes=1, progress=touch_the_last)
    assert report.reasons["changed"] == 1


def test_too_many_quarantined_inputs_are_reported_and_the_data_set_is_whole(
    source: Path, tmp_path: Path
) -> None:
    assert convert(source, tmp_path / "a", max_quarantine=1).too_many_quarantined
    assert not convert(source, tmp_path / "b", max_quarantine=2).too_many_quarantined
    assert tree_hashes(tmp_path / "a") == tree_hashes(tmp_path / "b")


def test_the_header_check_trusts_the_body_of_kept_images(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    whole = encoded(noise(0, 64, 64), "JPEG")
    (tmp_path / "source" / "whole.jpg").write_bytes(whole)
    (tmp_path / "source" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    assert convert(tmp_path / "source", tmp_path / "header", check="header").samples == 2
    assert convert(tmp_path / "source", tmp_path / "decode", check="decode").samples == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_quarantined(tmp_path: Path) -> None:
    source = write_tree(tmp_path / "source")
    (source / "class_0" / "0.jpg").chmod(0)
    assert convert(source, tmp_path / "d").reasons["unreadable"] == 1


@pytest.mark.skipif(not (SHARED_DATA / "odd_images.tar").is_file(), reason="odd_images.tar is not here")
def test_odd_images_are_all_written_or_quarantined_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    with tarfile.open(SHARED_DATA / "odd_images.tar") as tar:
        for member in tar:
            content = tar.extractfile(member)
            assert content is not None
            (tmp_path / "source" / Path(member.name).name).write_bytes(content.read())
    report = convert(tmp_path / "source", tmp_path / "d")
    refused = pq.read_table(tmp_path / "d" / "quarantine.parquet").to_pydict()
    # The eighth bad file decodes without an error: its bytes are kept as they are.
    expected = {path.name for path in (tmp_path / "source").glob("bad_*")} - {"bad_jpeg_corrupt_middle.jpg"}
    assert (report.inputs, report.samples, set(refused["source"])) == (44, 37, expected)
    assert all(refused["reason"])
    rows = {row["source"]: row for row in pq.read_table(tmp_path / "d" / "manifest.parquet").to_pylist()}
    assert rows["png_named_as.JPEG"]["ext"] == "png"
    assert (rows["bmp_named_as.jpg"]["ext"], rows["bmp_named_as.jpg"]["transcoded"]) == ("png", True)


def test_a_source_that_is_lost_midway_ends_the_conversion_and_not_in_the_quarantine(tmp_path: Path) -> None:
    source = write_tree(tmp_path / "source")
    convert(source, tmp_path / "whole", shard_bytes=1)  # a shard an image, for one reads several ahead
    away = tmp_path / "away"

    def lose(now: Progress) -> None:
        if now.images == 4 and source.exists():
            source.rename(away)

    with pytest.raises(RuntimeError, match=r"No such file.*run the same command again"):
        convert(source, tmp_path / "dataset", shard_bytes=1, progress=lose)
    away.rename(source)
    convert(source, tmp_path / "dataset", shard_bytes=1)
    assert tree_hashes(tmp_path / "dataset") == tree_hashes(tmp_path / "whole")
