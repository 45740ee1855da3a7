"""Tars indexed where they are: none of them changes, every reader finds the samples, a kill loses nothing."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from viewmill.shards import in_place
from viewmill.shards.conversion import tar_job
from viewmill.shards.conversion.journal import PLAN
from viewmill.shards.conversion.shard_job import Tell
from viewmill.shards.errors import ConvertError
from viewmill.shards.in_place import convert_in_place
from viewmill.shards.info import MANIFEST_FILES, read_info
from viewmill.shards.manifest import Dataset
from viewmill.shards.survey import survey
from viewmill.shards.verify import verify

from tests.shards.foreign_tars import JPEGS, LONG, write_by_gnu_tar, write_foreign_tars, write_tar
from tests.shards.pictures import tree_hashes

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = [0, 1, 2, 3, 4, 5]  # of JPEGS, in the order of the tars
LABELS = [2, 0, 1, -1, -1, -1]


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    return write_foreign_tars(tmp_path / "tars")


def test_tars_become_a_data_set_and_stay_as_they_are(tars: Path) -> None:
    before = tree_hashes(tars)
    report = convert_in_place(tars)
    after = tree_hashes(tars)
    assert {name: after[name] for name in before} == before
    new = {"a-0.idx", "b.1.idx", "c.idx", "dataset.json", *MANIFEST_FILES}
    assert after.keys() - before.keys() == new
    assert (report.inputs, report.samples, report.quarantined, report.shards) == (10, 6, 4, 3)
    with Dataset.open(tars) as dataset:
        assert dataset.read(range(6)) == [JPEGS[number] for number in SAMPLES]
        assert dataset.labels(range(6)).tolist() == LABELS
        assert dataset.sizes(range(6)).tolist() == [[24, 20 + number] for number in SAMPLES]
        assert dataset.keys([0, 1, 4]) == [f"a-0/cat/{LONG}", "a-0/dog/1", "c/000"]
        assert dataset.info.in_place
        assert survey(dataset).reasons == report.reasons
    assert verify(tars, decode=True) == []


def test_what_would_be_reencoded_is_quarantined_and_the_reason_says_what_to_do(tars: Path) -> None:
    convert_in_place(tars)
    table = pq.read_table(tars / "quarantine.parquet").to_pydict()
    reasons = dict(zip(table["source"], table["reason"], strict=True))
    assert sorted(reasons) == ["c.tar/001.jpg", "c.tar/003.png", "c.tar/004.jpg", "c.tar/README"]
    for name in ("001.jpg", "003.png"):
        assert reasons[f"c.tar/{name}"].startswith("needs re-encoding: a ")
        assert "convert the tars without --in-place (--from tar)" in reasons[f"c.tar/{name}"]
    assert reasons["c.tar/README"].startswith("no image")
    assert None not in table["xxh64"]


def test_another_folder_gets_links_and_the_store_nothing(tars: Path, tmp_path: Path) -> None:
    before = tree_hashes(tars)
    convert_in_place(tars, tmp_path / "ds")
    assert tree_hashes(tars) == before
    assert (tmp_path / "ds" / "c.tar").readlink() == tars / "c.tar"
    assert verify(tmp_path / "ds") == []
    linked = {path.name: path.read_bytes() for path in (tmp_path / "ds").iterdir()}
    convert_in_place(tars)
    assert linked == {name: (tars / name).read_bytes() for name in linked}


def test_workers_do_not_change_a_byte(tars: Path, tmp_path: Path) -> None:
    for workers in (1, 2):
        convert_in_place(tars, tmp_path / str(workers), workers=workers)
    assert tree_hashes(tmp_path / "1") == tree_hashes(tmp_path / "2")


def test_one_tar_of_gnu_tar_and_one_of_webdataset(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    (tmp_path / "tars").mkdir()
    write_by_gnu_tar(tmp_path / "tars" / "gnu.tar", tmp_path)
    with webdataset.TarWriter(str(tmp_path / "tars" / "wds.tar")) as writer:
        for number in range(3):
            writer.write({"__key__": f"{number:04d}", "jpg": JPEGS[3 + number], "cls": number})
    convert_in_place(tmp_path / "tars")
    with Dataset.open(tmp_path / "tars") as dataset:
        keys = dataset.keys(range(6))
        found = dict(zip(keys, dataset.read(range(6)), strict=True))
        assert dict(zip(keys, dataset.labels(range(6)).tolist(), strict=True)) == {
            "gnu/cat/b": 1, "gnu/cat/c%20d": 2, f"gnu/cat/{LONG}": 0,
            "wds/0000": 0, "wds/0001": 1, "wds/0002": 2,
        }  # fmt: skip
        assert (found[f"gnu/cat/{LONG}"], found["wds/0002"]) == (JPEGS[0], JPEGS[5])
    assert verify(tmp_path / "tars") == []
    samples = list(webdataset.WebDataset(str(tmp_path / "tars" / "wds.tar"), shardshuffle=False))
    assert [sample["jpg"] for sample in samples] == JPEGS[3:6]


def test_a_tar_of_tars_and_a_tar_without_any_image(tmp_path: Path) -> None:
    (tmp_path / "tars").mkdir()
    inner = {}
    for number in range(2):
        path = write_tar(tmp_path / f"n0{number}.tar", {f"n0{number}_5.JPEG": JPEGS[number]})
        inner[path.name] = path.read_bytes()
    write_tar(tmp_path / "tars" / "train.tar", inner)
    write_tar(tmp_path / "tars" / "notes.tar", {"a.md": b"text"})
    write_tar(tmp_path / "tars" / "empty.tar", {})
    report = convert_in_place(tmp_path / "tars")
    assert (report.inputs, report.samples, report.shards, report.classes) == (3, 2, 3, 2)
    with Dataset.open(tmp_path / "tars") as dataset:
        assert dataset.classes == ("n00", "n01")
        assert dataset.read([0, 1]) == JPEGS[:2]
    assert verify(tmp_path / "tars") == []


@pytest.mark.slow
def test_dalis_reader_reads_foreign_tars_by_their_indexes(tars: Path, tmp_path: Path) -> None:
    dali = pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    write_by_gnu_tar(tars / "gnu.tar", tmp_path)
    write_tar(
        tars / "nested.tar", {"n0.tar": write_tar(tmp_path / "n0.tar", {"x.JPEG": JPEGS[7]}).read_bytes()}
    )
    convert_in_place(tars)
    names = sorted(path.name for path in tars.glob("*.tar"))
    pipe = dali.Pipeline(batch_size=13, num_threads=1, device_id=None, prefetch_queue_depth=1)
    with pipe:
        pipe.set_outputs(
            *dali.fn.readers.webdataset(
                paths=[str(tars / name) for name in names],
                index_paths=[str((tars / name).with_suffix(".idx")) for name in names],
                ext=["jpg;jpeg;png", "cls"],
                case_sensitive_extensions=False,
            )
        )
    pipe.build()
    images, labels = pipe.run()
    with Dataset.open(tars) as dataset:
        expected = list(zip(dataset.read(range(10)), dataset.labels(range(10)).tolist(), strict=True))
    found = [(images.at(row).tobytes(), labels.at(row).tobytes()) for row in range(13)]
    # DALI gives refused images too: 001.jpg, 003.png and 004.jpg of c.tar; README has no extension.
    kept = [(image, int(label or b"-1")) for image, label in found if image in JPEGS]
    # The inner tar's class is its name, which is no member.
    assert (kept[:-1], kept[-1][0]) == (expected[:-1], expected[-1][0])


def test_an_index_is_the_one_of_dalis_own_script(tmp_path: Path) -> None:
    wds2idx = pytest.importorskip("wds2idx", reason="DALI is not installed")
    members = {"./a/1.jpg": JPEGS[0], "./a/1.seg.txt": b"x", f"./a.b/{LONG}.jpg": JPEGS[1], ".hid.jpg": b"x"}
    (tmp_path / "own").mkdir()
    tar = write_tar(tmp_path / "own" / "t.tar", members, tarfile.PAX_FORMAT)
    convert_in_place(tar)
    with wds2idx.IndexCreator(str(tar), str(tmp_path / "t.idx"), verbose=False) as creator:
        creator.create_index()
    # The script keeps './' before names, which no reader needs.
    assert tar.with_suffix(".idx").read_text() == (tmp_path / "t.idx").read_text().replace(" ./", " ")


def test_a_long_name_of_gnu_has_its_own_bytes_in_the_index(tars: Path) -> None:
    convert_in_place(tars)  # DALI's script gives the place of the long name itself here
    fields = (tars / "a-0.idx").read_text().splitlines()[1].split()
    offset, size = int(fields[1]), int(fields[2])
    assert (tars / "a-0.tar").read_bytes()[offset : offset + size] == JPEGS[0]


def test_names_with_spaces_stay_one_field_of_the_index(tars: Path) -> None:
    convert_in_place(tars)
    assert (tars / "b.1.idx").read_text().splitlines()[-1].split()[3] == "two%20words.jpg"


@pytest.mark.slow
@pytest.mark.parametrize("where", ["beside", "links"])
def test_killed_before_any_change_a_rerun_gives_the_same_bytes(fast_folder: Path, where: str) -> None:
    write_tar(fast_folder / "0.tar", {"a.jpg": JPEGS[0], "a.cls": b"0"})
    command = [sys.executable, "-m", "tests.shards.kill_points_in_place", str(fast_folder / "0.tar"), where]
    result = json.loads(
        subprocess.run([*command, str(fast_folder / "out")], cwd=ROOT, check=True, capture_output=True).stdout
    )
    assert result["points"] > 15
    assert result["wrong"] == []


def test_a_tar_that_is_done_is_not_read_again(tars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop_at_the_last(job: tar_job.TarJob, tell: Tell) -> None:
        if job.number == 2:
            raise KeyboardInterrupt
        original(job, tell)

    original = in_place.index_tar
    monkeypatch.setattr(in_place, "index_tar", stop_at_the_last)
    with pytest.raises(KeyboardInterrupt):
        convert_in_place(tars)
    assert (tars / PLAN).exists()
    seen = []
    monkeypatch.setattr(
        in_place, "index_tar", lambda job, tell: (seen.append(job.number), original(job, tell))
    )
    convert_in_place(tars)
    assert seen == [2]
    assert verify(tars) == []


def test_a_tar_that_changes_meanwhile_ends_the_run(tars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rewriting(path: Path) -> str:
        os.utime(path, ns=(1, 1))
        return "0" * 64

    monkeypatch.setattr(tar_job, "sha256_of", rewriting)
    with pytest.raises(ConvertError, match=r"a-0\.tar: was changed while it was indexed"):
        convert_in_place(tars)


@pytest.mark.parametrize("name", ["odd name.tar", ".hidden.tar", "x{0}.tar"])
def test_a_name_that_is_not_plain_is_refused(tmp_path: Path, name: str) -> None:
    path = write_tar(tmp_path / name, {"a.jpg": JPEGS[0]})
    with pytest.raises(ConvertError, match="its name is no plain one"):
        convert_in_place(path)


def test_tars_in_folders_below_and_other_files_of_the_same_names_are_refused(tars: Path) -> None:
    (tars / "c.idx").write_text("v1.2 0\n")
    with pytest.raises(ConvertError, match=r"holds c\.idx, of no unfinished conversion; move"):
        convert_in_place(tars)
    assert (tars / "c.idx").read_text() == "v1.2 0\n"
    (tars / "below").mkdir()
    write_tar(tars / "below" / "d.tar", {"a.jpg": JPEGS[0]})
    with pytest.raises(ConvertError, match=r"below/d\.tar: lies in a folder below"):
        convert_in_place(tars)


def test_a_destination_inside_the_tars_and_other_tars_beside_one_are_refused(tars: Path) -> None:
    with pytest.raises(ConvertError, match="its links would become tars of it"):
        convert_in_place(tars, tars / "ds")
    with pytest.raises(ConvertError, match=r"holds other tars beside \(a-0\.tar\)"):
        convert_in_place(tars / "c.tar")
    assert sorted(tree_hashes(tars)) == ["a-0.tar", "b.1.tar", "c.tar", "c_stats.json"]


def test_nothing_is_left_where_no_image_is_usable(tmp_path: Path) -> None:
    (tmp_path / "tars").mkdir()
    write_tar(tmp_path / "tars" / "t.tar", {"a.jpg": b"no jpeg"})
    with pytest.raises(RuntimeError, match="none of 1 files is a usable image"):
        convert_in_place(tmp_path / "tars")
    assert sorted(tree_hashes(tmp_path / "tars")) == ["t.tar"]


def test_a_cut_and_a_compressed_tar_are_named(tars: Path) -> None:
    data = (tars / "c.tar").read_bytes()
    (tars / "c.tar").write_bytes(data[:3000])
    with pytest.raises(ConvertError, match=r"c\.tar: cut short"):
        convert_in_place(tars)
    with tarfile.open(tars / "c.tar", "w:gz") as archive:
        archive.add(tars / "a-0.tar", "a")
    with pytest.raises(ConvertError, match=r"c\.tar: no uncompressed tar"):
        convert_in_place(tars)


def test_a_flipped_bit_and_a_forged_manifest_are_found(tars: Path) -> None:
    convert_in_place(tars)
    offset = int(Dataset.open(tars).manifest[4]["offset"])
    data = bytearray((tars / "c.tar").read_bytes())
    data[offset + 100] ^= 4
    (tars / "c.tar").write_bytes(data)
    assert [fault.file for fault in verify(tars)] == ["c.tar"] * 2
    assert "sample 'c/000' at byte" in str(verify(tars)[1])


def test_labels_of_a_file_are_those_of_the_manifest(tars: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("\n".join(str(number) for number in (1, 1, 0, 0, 1, 0, 0, 1, 1)))
    convert_in_place(tars, labels=tmp_path / "labels.txt")
    with Dataset.open(tars) as dataset:
        assert set(dataset.labels(range(6)).tolist()) == {0, 1}
    assert verify(tars) == []
    assert read_info(tars).classes == ("0", "1")
