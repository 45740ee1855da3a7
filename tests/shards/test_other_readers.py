"""Others read our tars, and we read theirs: the same bytes, keys and labels, nothing lost, in order."""

import io
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from viewmill.shards.convert import convert
from viewmill.shards.manifest import Dataset
from viewmill.shards.verify import verify

from tests.shards.pictures import encoded, picture
from tests.shards.readers import CONTAINERS, Sample, by_dali, by_manifest, by_webdataset, shards_of
from tests.shards.sources.test_tars import contents, tar

LONG = "l" * 180  # with its folder twice the 100 bytes that a plain tar header has room for
JPEGS = [encoded(picture(number, 20 + number), "JPEG") for number in range(6)]
# Names that a key escapes, and names of which a reader that cuts or splits would make another key.
NAMES = (
    "cat/0.jpg", "cat/dotted.name.jpg", "cat/two words.jpg", "cat/größe.jpg", "cat/日本 語.jpg",
    "cat/100%.jpg", "cat/colon:semi;.jpg", "cat/'quoted\".jpg", "dog/0.jpg", "dog/-.jpg", "dog/a.cls.jpg",
    "dog/tab\there.jpg", f"{LONG}/{LONG}.jpg", f"{LONG}/{'語' * 60}.jpg", "unlabelled.jpg",
    "unlabelled too.png", "dog/small.webp", "dog/bitmap.bmp",
)  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every awkward name, every kept format, several classes and none, in more than three shards."""
    root = tmp_path_factory.mktemp("readers")
    kinds = {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".bmp": "BMP"}
    for number, name in enumerate(NAMES):
        path = root / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(number, 20 + number, 40), kinds[path.suffix]))
    convert(root / "source", root / "ds", shard_bytes=3_000)
    assert verify(root / "ds") == []
    return root / "ds"


def test_the_manifest_has_every_name_once(dataset: Path) -> None:
    with Dataset.open(dataset) as opened:
        keys = opened.keys(range(opened.num_samples))
    assert len(set(keys)) == len(NAMES)
    assert f"{LONG}/{LONG}" in keys
    assert "cat/gr%C3%B6%C3%9Fe" in keys
    assert max(map(len, keys)) > 700  # the escaped long name
    assert len(shards_of(dataset)) > 3


def test_the_webdataset_library_reads_every_sample_in_order(dataset: Path) -> None:
    found = list(by_webdataset(dataset))
    assert found == list(by_manifest(dataset))
    assert {sample.label for sample in found} == {-1, 0, 1, 2}


def test_dalis_reader_reads_every_sample_in_order(dataset: Path) -> None:
    assert list(by_dali(dataset)) == list(by_manifest(dataset))


def test_every_reader_of_a_container_reads_a_single_sample(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0.jpg").write_bytes(JPEGS[0])
    for name, container in CONTAINERS.items():
        container.write(tmp_path / "in", tmp_path / name)
        for reader in container.readers.values():
            assert list(reader(tmp_path / name)) == [Sample("0", -1, JPEGS[0])]
        assert list(by_manifest(tmp_path / name)) == [Sample("0", -1, JPEGS[0])]


def test_gnu_tar_lists_the_same_members(dataset: Path) -> None:
    if shutil.which("tar") is None:
        pytest.skip("no tar program")
    listed = []
    for shard in shards_of(dataset):
        command = ["tar", "-tf", str(shard), "--quoting-style=literal"]
        listed += subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert listed == members_of(dataset)
    assert len(listed) == 2 * len(NAMES)


def test_what_webdataset_reads_and_writes_again_is_the_same_data_set(dataset: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    tars = [str(shard) for shard in shards_of(dataset)]
    with webdataset.TarWriter(str(tmp_path / "all.tar")) as writer:
        for sample in webdataset.WebDataset(tars, shardshuffle=False):
            writer.write({name: value for name, value in sample.items() if name in KEPT})
    convert(tmp_path / "all.tar", tmp_path / "again")
    # The tar's name is the folder of its keys, and what a key escapes is escaped once more.
    again = {sample.key: sample for sample in by_manifest(tmp_path / "again")}
    expected = {"all/" + sample.key.replace("%", "%25"): sample for sample in by_manifest(dataset)}
    assert set(again) == set(expected)
    for key, sample in expected.items():
        assert (again[key].data, again[key].label) == (sample.data, sample.label)


KEPT = {"__key__", "jpg", "png", "webp", "cls"}


def test_a_sample_of_webdatasets_writer_with_notes_keeps_image_and_class(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    with webdataset.TarWriter(str(tmp_path / "s.tar")) as writer:
        for number in range(3):
            notes = {"json": {"caption": "x", "width": 3}, "txt": "a caption", "cls": 2 - number}
            writer.write({"__key__": f"a/{number:06d}", "jpg": JPEGS[number], **notes})
    report = convert(tmp_path / "s.tar", tmp_path / "out")
    assert (report.inputs, report.samples, report.quarantined) == (3, 3, 0)
    assert contents(tmp_path / "out") == {f"s.tar/a/{n:06d}.jpg": (JPEGS[n], 2 - n) for n in range(3)}
    assert {member.rpartition(".")[2] for member in members_of(tmp_path / "out")} == {"jpg", "cls"}


def members_of(dataset: Path) -> list[str]:
    names = []
    for shard in shards_of(dataset):
        with tarfile.open(shard) as archive:
            names += archive.getnames()
    return names


@pytest.mark.parametrize("file_format", ["gnu", "oldgnu", "pax", "ustar", "v7"])
def test_a_tar_of_the_tar_program_keeps_names_and_classes(tmp_path: Path, file_format: str) -> None:
    if shutil.which("tar") is None:
        pytest.skip("no tar program")
    # v7 has room for 99 bytes; ustar for folders of 155 and a name of 100; the others for any.
    limited = {"v7": ("d", "n"), "ustar": (f"{'d' * 60}/{'d' * 60}", "n" * 80)}
    folder, name = limited.get(file_format, ("d" * 200, "n" * 200))
    tree = tmp_path / "tree" / folder
    tree.mkdir(parents=True)
    for number in range(3):
        (tree / f"{name}{number}.jpg").write_bytes(JPEGS[number])
        (tree / f"{name}{number}.cls").write_text(f"{7 * number}\n")
    (tree / "größe.jpg").write_bytes(JPEGS[3])
    command = ["tar", f"--format={file_format}", "--sort=name", "-cf", str(tmp_path / "t.tar")]
    subprocess.run([*command, "-C", str(tmp_path / "tree"), folder], check=True)
    report = convert(tmp_path / "t.tar", tmp_path / "out")
    assert (report.inputs, report.quarantined) == (4, 0)
    expected = {f"t.tar/{folder}/{name}{n}.jpg": (JPEGS[n], 7 * n) for n in range(3)}
    assert contents(tmp_path / "out") == expected | {f"t.tar/{folder}/größe.jpg": (JPEGS[3], -1)}


@pytest.mark.parametrize("file_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_tar_of_tarfile_with_any_name_a_file_can_have(tmp_path: Path, file_format: int) -> None:
    members = {name: JPEGS[number % 6] for number, name in enumerate(NAMES[:13])}
    source = tar(tmp_path / "t.tar", members, file_format)
    report = convert(source, tmp_path / "out")
    assert (report.samples, report.quarantined) == (13, 0)
    assert {name: data for name, (data, _) in contents(tmp_path / "out").items()} == {
        f"t.tar/{name}": data for name, data in members.items()
    }


def test_shards_of_img2dataset_keep_images_alone(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for shard in range(2):
        members: dict[str, bytes] = {}
        for number in range(3):
            key = f"{shard:05d}{number:04d}"
            note = b'{"url": "http://host/x.jpg", "status": "success", "key": "' + key.encode() + b'"}'
            members |= {f"{key}.jpg": JPEGS[3 * shard + number], f"{key}.txt": b"a 1", f"{key}.json": note}
        tar(tmp_path / "shards" / f"{shard:05d}.tar", members, tarfile.GNU_FORMAT)
    report = convert(tmp_path / "shards", tmp_path / "out")
    assert (report.inputs, report.samples, report.quarantined) == (6, 6, 0)
    expected = {f"{n // 3:05d}.tar/{n // 3:05d}{n % 3:04d}.jpg": (JPEGS[n], -1) for n in range(6)}
    assert contents(tmp_path / "out") == expected
    assert not [name for name in members_of(tmp_path / "out") if name.endswith((".txt", ".json"))]


def test_a_link_of_the_tar_program_is_quarantined_and_its_target_kept(tmp_path: Path) -> None:
    if shutil.which("tar") is None:
        pytest.skip("no tar program")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "0.jpg").write_bytes(JPEGS[0])
    (tmp_path / "tree" / "1.jpg").hardlink_to(tmp_path / "tree" / "0.jpg")
    subprocess.run(
        ["tar", "--sort=name", "-cf", str(tmp_path / "t.tar"), "-C", str(tmp_path / "tree"), "."], check=True
    )
    report = convert(tmp_path / "t.tar", tmp_path / "out")
    assert (report.inputs, report.samples, report.reasons) == (2, 1, {"not a regular file": 1})


def test_a_shard_that_a_reader_gets_through_a_pipe_is_the_same(dataset: Path) -> None:
    """Tar is read in one pass by streaming readers: no header may point backwards."""
    shard = shards_of(dataset)[0]
    streamed: dict[str, Any] = {}
    with tarfile.open(fileobj=io.BytesIO(shard.read_bytes()), mode="r|") as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            streamed[member.name] = file.read()
    with tarfile.open(shard) as archive:
        assert list(streamed) == archive.getnames()
    images = [data for name, data in streamed.items() if not name.endswith(".cls")]
    assert images == [sample.data for sample in by_manifest(dataset)][: len(images)]
