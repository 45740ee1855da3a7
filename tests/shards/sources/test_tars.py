"""Tars: WebDataset's, GNU tar's, img2dataset's, ImageNet's; damaged ones are named, never half read."""

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from viewmill.shards.convert import convert
from viewmill.shards.errors import ConvertError
from viewmill.shards.manifest import Dataset
from viewmill.shards.sources.open import KINDS, kind_of
from viewmill.shards.sources.tars import list_tars

from tests.shards.pictures import encoded, picture

JPEGS = [encoded(picture(number), "JPEG") for number in range(6)]


def tar(path: Path, members: dict[str, bytes], file_format: int = tarfile.PAX_FORMAT) -> Path:
    path.write_bytes(tar_bytes(members, file_format))
    return path


def tar_bytes(members: dict[str, bytes], file_format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=file_format) as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def contents(dataset: Path) -> dict[str, tuple[bytes, int]]:
    """(bytes, label) of every sample by its source."""
    with Dataset.open(dataset) as opened:
        ids = range(opened.num_samples)
        table = opened.labels(ids).tolist()
        sources = sources_of(dataset)
        return {sources[i]: (opened.read([i])[0], table[i]) for i in ids}


def sources_of(dataset: Path) -> list[str]:
    import pyarrow.parquet as pq

    found: list[str] = pq.read_table(dataset / "manifest.parquet").column("source").to_pylist()
    return found


@pytest.mark.parametrize("file_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_a_webdataset_shard_of_any_tar_format(tmp_path: Path, file_format: int) -> None:
    members = {
        "a/1.jpg": JPEGS[0],
        "a/1.cls": b"3",
        "a/2.jpg": JPEGS[1],
        "a/2.cls": b"0\n",
        "3.png": JPEGS[2],
    }
    source = tar(tmp_path / "shard-00.tar", members, file_format)
    report = convert(source, tmp_path / "out")
    assert (report.inputs, report.samples, report.classes) == (3, 3, 4)
    assert contents(tmp_path / "out") == {
        "shard-00.tar/a/1.jpg": (JPEGS[0], 3),
        "shard-00.tar/a/2.jpg": (JPEGS[1], 0),
        "shard-00.tar/3.png": (JPEGS[2], -1),
    }


def test_shards_of_the_webdataset_library(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    (tmp_path / "shards").mkdir()
    for shard in range(2):
        with webdataset.TarWriter(str(tmp_path / "shards" / f"{shard}.tar")) as writer:
            for number in range(3):
                sample = {"__key__": f"{number:04d}", "jpg": JPEGS[3 * shard + number], "cls": number}
                writer.write(sample)
    convert(tmp_path / "shards", tmp_path / "out")
    expected = {f"{n // 3}.tar/{n % 3:04d}.jpg": (JPEGS[n], n % 3) for n in range(6)}
    assert contents(tmp_path / "out") == expected


def test_a_tar_of_gnu_tar_with_folders_and_long_names(tmp_path: Path) -> None:
    if shutil.which("tar") is None:
        pytest.skip("no tar program")
    name = "n" * 150 + ".jpg"
    (tmp_path / "tree" / "cat").mkdir(parents=True)
    (tmp_path / "tree" / "cat" / name).write_bytes(JPEGS[0])
    subprocess.run(["tar", "-cf", tmp_path / "t.tar", "-C", tmp_path / "tree", "."], check=True)
    convert(tmp_path / "t.tar", tmp_path / "out")
    assert contents(tmp_path / "out") == {f"t.tar/cat/{name}": (JPEGS[0], -1)}


def test_notes_of_img2dataset_are_no_inputs_and_what_is_no_image_is_quarantined(tmp_path: Path) -> None:
    members = {
        "000.jpg": JPEGS[0], "000.txt": b"a caption", "000.json": b"{}",
        "001.txt": b"a caption whose image failed",
        "002.npy": b"numbers", "README": b"text",
    }  # fmt: skip
    report = convert(tar(tmp_path / "00000.tar", members), tmp_path / "out")
    assert (report.inputs, report.samples, report.quarantined) == (4, 1, 3)
    assert report.reasons == {"no image": 3}


def test_in_a_tar_of_tars_the_inner_name_is_the_class(tmp_path: Path) -> None:
    inner = {
        f"n0{c}.tar": tar_bytes({f"n0{c}_{i}.JPEG": JPEGS[2 * c + i] for i in range(2)}) for c in range(3)
    }
    convert(tar(tmp_path / "train.tar", inner), tmp_path / "out")
    with Dataset.open(tmp_path / "out") as dataset:
        assert dataset.classes == ("n00", "n01", "n02")
        assert "train/n01/n01_0" in dataset.keys(range(6))
    assert contents(tmp_path / "out") == {
        f"train.tar/n0{c}.tar/n0{c}_{i}.JPEG": (JPEGS[2 * c + i], c) for c in range(3) for i in range(2)
    }


def test_equal_names_in_two_tars_are_two_samples(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        tar(tmp_path / "in" / f"{name}.tar", {"0.jpg": JPEGS[0]})
    assert convert(tmp_path / "in", tmp_path / "out").samples == 2


def test_two_images_of_one_sample_are_an_error(tmp_path: Path) -> None:
    source = tar(tmp_path / "t.tar", {"0.jpg": JPEGS[0], "0.seg.png": JPEGS[1]})
    with pytest.raises(ConvertError, match=r"'0\.jpg' and '0\.seg\.png' are two images of one sample"):
        list_tars(source)


def test_links_in_a_tar_are_quarantined_and_never_followed(tmp_path: Path) -> None:
    buffer = io.BytesIO(tar_bytes({"0.jpg": JPEGS[0]}))
    with tarfile.open(fileobj=buffer, mode="a") as archive:
        link = tarfile.TarInfo("1.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    (tmp_path / "t.tar").write_bytes(buffer.getvalue())
    report = convert(tmp_path / "t.tar", tmp_path / "out")
    assert (report.samples, report.reasons) == (1, {"not a regular file": 1})


def test_names_that_climb_out_become_harmless_keys(tmp_path: Path) -> None:
    convert(tar(tmp_path / "t.tar", {"../../x.jpg": JPEGS[0]}), tmp_path / "out")
    with Dataset.open(tmp_path / "out") as dataset:
        assert dataset.keys([0]) == ["t/%2E%2E/%2E%2E/x"]


@pytest.fixture(scope="module")
def whole() -> bytes:
    return tar_bytes({f"{number}.jpg": JPEGS[number] for number in range(6)})


def test_a_tar_cut_anywhere_is_an_error_and_never_a_smaller_source(tmp_path: Path, whole: bytes) -> None:
    end_mark = len(whole.rstrip(b"\0"))
    for length in [0, 1, 511, 512, *range(513, end_mark, 97)]:
        (tmp_path / "t.tar").write_bytes(whole[:length])
        with pytest.raises(ConvertError, match=r"t\.tar: (cut short|no uncompressed tar)"):
            list_tars(tmp_path / "t.tar")


def test_a_damaged_header_is_an_error_that_names_the_byte(tmp_path: Path, whole: bytes) -> None:
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        header = archive.getmembers()[3].offset
    damaged = bytearray(whole)
    damaged[header + 150] ^= 4  # a digit of its checksum
    (tmp_path / "t.tar").write_bytes(damaged)
    with pytest.raises(ConvertError, match=rf"no tar header at byte {header}, the file is damaged"):
        list_tars(tmp_path / "t.tar")


def headers(data: bytes) -> list[int]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [member.offset for member in archive]


def with_header(data: bytes, at: int, **fields: bytes) -> bytes:
    """The tar with fields of one header replaced, and its checksum right for them."""
    places = {"size": 124, "type": 156}
    header = bytearray(data[at : at + 512])
    for name, value in fields.items():
        header[places[name] : places[name] + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:at] + bytes(header) + data[at + 512 :]


def test_zeros_over_a_header_are_no_end_of_the_archive(tmp_path: Path, whole: bytes) -> None:
    at = headers(whole)[2]
    (tmp_path / "t.tar").write_bytes(whole[:at] + bytes(512) + whole[at + 512 :])
    with pytest.raises(
        ConvertError, match=rf"t\.tar: the archive ends at byte {at}, and more follows; it is"
    ):
        list_tars(tmp_path / "t.tar")


def test_joined_tars_are_refused_and_never_half_read(tmp_path: Path, whole: bytes) -> None:
    (tmp_path / "t.tar").write_bytes(whole + tar_bytes({"9.jpg": JPEGS[0]}))
    with pytest.raises(ConvertError, match="and more follows"):
        list_tars(tmp_path / "t.tar")


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("kind", "size", "message"),
    [
        (b"0", -512, "claims -512 bytes"),  # tarfile would read the same header for ever
        (b"5", -1024, "claims -1024 bytes"),
        (b"0", 2**80, "cut short within '1.jpg'"),
        (b"x", 2**41, "a header before byte 2048 claims"),
        (b"L", 2**80, "a header before byte 2048 claims"),
        (b"Z", 2**80, "no uncompressed tar that can be read"),
    ],
)
def test_a_header_that_claims_an_impossible_size_is_an_error(
    tmp_path: Path, whole: bytes, kind: bytes, size: int, message: str
) -> None:
    field = (b"\xff" if size < 0 else b"\x80") + (size % 2**88).to_bytes(11, "big")
    (tmp_path / "t.tar").write_bytes(with_header(whole, headers(whole)[1], size=field, type=kind))
    with pytest.raises(ConvertError, match=rf"t\.tar: .*{message}"):
        list_tars(tmp_path / "t.tar")


def test_a_thousand_extended_headers_in_a_row_are_an_error(tmp_path: Path, whole: bytes) -> None:
    extended = with_header(whole, 0, size=b"00000000000\0", type=b"x")[:512]
    (tmp_path / "t.tar").write_bytes(5000 * extended + whole)
    with pytest.raises(ConvertError, match=r"t\.tar: no uncompressed tar that can be read"):
        list_tars(tmp_path / "t.tar")


def test_a_sparse_member_is_quarantined_for_its_bytes_do_not_stand_in_one_place(
    tmp_path: Path, whole: bytes
) -> None:
    (tmp_path / "t.tar").write_bytes(with_header(whole, headers(whole)[1], type=b"S"))
    report = convert(tmp_path / "t.tar", tmp_path / "out")
    assert (report.inputs, report.samples, report.reasons) == (6, 5, {"not a regular file": 1})


def test_a_tar_without_any_image_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    tar(tmp_path / "t.tar", {})
    with pytest.raises(RuntimeError, match=r"t\.tar: holds no image at all"):
        convert(tmp_path / "t.tar", tmp_path / "out")
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        link = tarfile.TarInfo("1.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "0.jpg"
        archive.addfile(link)
    with pytest.raises(RuntimeError, match=r"none of 1 files .* \(1 not a regular file"):
        convert(tmp_path / "t.tar", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_inner_tar_is_named(tmp_path: Path) -> None:
    source = tar(tmp_path / "t.tar", {"n01.tar": tar_bytes({"0.jpg": JPEGS[0]})[:900]})
    with pytest.raises(ConvertError, match=r"t\.tar: n01\.tar: cut short"):
        list_tars(source)


def test_a_compressed_tar_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "t.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("0.jpg"))
    with pytest.raises(ConvertError, match="no uncompressed tar that can be read"):
        list_tars(tmp_path / "t.tar")


def test_a_tar_that_changes_meanwhile_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from viewmill.shards.conversion import run as module

    source, real = tar(tmp_path / "t.tar", {"0.jpg": JPEGS[0], "1.jpg": JPEGS[1]}), module.write_shards

    def changed(*arguments: object) -> None:
        source.write_bytes(source.read_bytes() + bytes(512))
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "write_shards", changed)
    with pytest.raises(RuntimeError, match="2 changed"):
        convert(source, tmp_path / "out")


def test_kinds_are_told_apart(tmp_path: Path) -> None:
    tar(tmp_path / "t.tar", {"0.jpg": JPEGS[0]})
    assert kind_of(tmp_path / "t.tar") == kind_of(tmp_path) == "tar"
    (tmp_path / "0.jpg").write_bytes(JPEGS[0])
    assert kind_of(tmp_path) == "folder"
    convert(tmp_path / "t.tar", tmp_path / "ds")
    assert kind_of(tmp_path / "ds") == "dataset"
    assert {"tar", "folder", "dataset", "table", "binary", "parquet"} == set(KINDS)
