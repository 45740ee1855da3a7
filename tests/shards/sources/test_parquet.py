"""Parquet with images: layouts, classes, row groups, damage, and the spilled files of a killed conversion."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from viewmill.shards.convert import convert
from viewmill.shards.errors import ConvertError
from viewmill.shards.manifest import Dataset
from viewmill.shards.sources.open import SourceOptions, kind_of
from viewmill.shards.sources.parquet import list_parquet

from tests.shards.pictures import SHARED_DATA, encoded, picture, tree_hashes

JPEGS = [encoded(picture(number), "JPEG") for number in range(9)]
NAMES = ["cat", "dog", "eel"]


def hugging_face(path: Path, images: list[bytes | None], labels: list[int | None], **options: Any) -> Path:
    features = {"label": {"names": NAMES, "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    structs = [None if image is None else {"bytes": image, "path": None} for image in images]
    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(structs, image_type), "label": pa.array(labels, pa.int64())})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), path, **options)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    hugging_face(tmp_path / "in" / "train-00000.parquet", JPEGS[:5], [0, 1, 2, 0, None], row_group_size=2)
    hugging_face(tmp_path / "in" / "train-00001.parquet", JPEGS[5:], [1, 1, -1, 2], compression="zstd")
    return tmp_path / "in"


EXPECTED = {
    f"train-0000{file}/{row:08d}": (JPEGS[5 * file + row], label)
    for file, labels in enumerate([[0, 1, 2, 0, -1], [1, 1, -1, 2]])
    for row, label in enumerate(labels)
}


def samples(dataset: Path) -> dict[str, tuple[bytes, int]]:
    with Dataset.open(dataset) as opened:
        ids = range(opened.num_samples)
        labels = opened.labels(ids).tolist()
        return {opened.keys([i])[0]: (opened.read([i])[0], labels[i]) for i in ids}


def test_every_row_becomes_a_sample_with_its_bytes_and_class(source: Path, tmp_path: Path) -> None:
    assert kind_of(source) == "parquet"
    report = convert(source, tmp_path / "out")
    assert (report.inputs, report.samples, report.quarantined) == (9, 9, 0)
    assert samples(tmp_path / "out") == EXPECTED
    with Dataset.open(tmp_path / "out") as dataset:
        assert dataset.classes == tuple(NAMES)
    assert not (tmp_path / "out" / ".convert").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_and_row_groups_do_not_change_a_byte(source: Path, tmp_path: Path, workers: int) -> None:
    convert(source, tmp_path / "out", shard_bytes=8_000)
    table = pq.read_table(source / "train-00000.parquet")
    pq.write_table(table, source / "train-00000.parquet", row_group_size=5, compression="none")
    convert(source, tmp_path / "again", shard_bytes=8_000, workers=workers)
    assert tree_hashes(tmp_path / "again") == tree_hashes(tmp_path / "out")


def test_plain_bytes_with_names_of_classes_as_text(tmp_path: Path) -> None:
    table = pa.table({"png": JPEGS[:3], "target": ["b", "a", "b"]})
    pq.write_table(table, tmp_path / "t.parquet")
    convert(tmp_path / "t.parquet", tmp_path / "out")
    assert samples(tmp_path / "out") == {
        f"t/{row:08d}": (JPEGS[row], label) for row, label in enumerate([1, 0, 1])
    }
    with Dataset.open(tmp_path / "out") as dataset:
        assert dataset.classes == ("a", "b")


def test_numbers_without_names_are_labels(tmp_path: Path) -> None:
    pq.write_table(pa.table({"img": JPEGS[:2], "fine_label": [4, 0]}), tmp_path / "t.parquet")
    listing = list_parquet(tmp_path / "t.parquet")
    assert listing.classes == ("0", "1", "2", "3", "4")
    assert [found.class_name for found in listing.inputs] == ["4", "0"]


def test_a_row_without_image_and_one_that_is_none_are_quarantined(tmp_path: Path) -> None:
    hugging_face(tmp_path / "t.parquet", [JPEGS[0], None, b"text", b""], [0, 1, 1, 1])
    report = convert(tmp_path / "t.parquet", tmp_path / "out")
    assert (report.inputs, report.samples) == (4, 1)
    assert report.reasons == {"empty": 1, "no image": 1, "empty file": 1}


def test_columns_are_chosen_by_name(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"image": JPEGS[:2], "other": JPEGS[2:4], "kind": ["x", "y"]}), tmp_path / "t.parquet"
    )
    options = SourceOptions(image_column="other", label_column="kind")
    convert(tmp_path / "t.parquet", tmp_path / "out", reading=options)
    assert samples(tmp_path / "out") == {"t/00000000": (JPEGS[2], 0), "t/00000001": (JPEGS[3], 1)}


def test_a_killed_conversion_goes_on_with_what_was_spilled(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from viewmill.shards import convert as converting
    from viewmill.shards.conversion import run as conversion

    convert(source, tmp_path / "whole", shard_bytes=8_000)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(conversion, "write_shards", killed)
        with pytest.raises(KeyboardInterrupt):
            convert(source, tmp_path / "out", shard_bytes=8_000)
    spilled = tmp_path / "out" / ".convert" / "spill"
    assert [path.read_bytes() for path in sorted(spilled.iterdir())] == [
        b"".join(JPEGS[:5]),
        b"".join(JPEGS[5:]),
    ]
    (spilled / "000001.images").unlink()
    kept = (spilled / "000000.images").stat().st_mtime_ns
    monkeypatch.setattr(converting, "remove_workspace", lambda _: None)
    convert(source, tmp_path / "out", shard_bytes=8_000)
    assert (spilled / "000000.images").stat().st_mtime_ns == kept
    shutil.rmtree(tmp_path / "out" / ".convert")
    (tmp_path / "out" / ".convert.json").unlink()
    assert tree_hashes(tmp_path / "out") == tree_hashes(tmp_path / "whole")


def test_a_spilled_file_that_was_damaged_is_noticed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from viewmill.shards.conversion import run as module

    real = module.write_shards

    def damaged(*arguments: Any) -> None:
        path = tmp_path / "out" / ".convert" / "spill" / "000000.images"
        content = bytearray(path.read_bytes())
        content[40] ^= 1
        path.write_bytes(content)
        real(*arguments)

    monkeypatch.setattr(module, "write_shards", damaged)
    report = convert(source, tmp_path / "out")
    assert (report.samples, report.reasons) == (8, {"damaged": 1})


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"x": [1]}, "no column image, img, jpg, png, bytes, image_bytes; there are: x"),
        ({"image": ["text"]}, "the image column holds string, not bytes"),
        ({"image": [{"path": "x"}]}, "a struct of path, without bytes"),
    ],
)
def test_a_file_without_images_is_named(tmp_path: Path, table: dict[str, Any], said: str) -> None:
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    with pytest.raises(ConvertError, match=rf"t\.parquet: .*{said}"):
        list_parquet(tmp_path / "t.parquet")


def test_labels_beyond_the_names_are_an_error(tmp_path: Path) -> None:
    hugging_face(tmp_path / "t.parquet", JPEGS[:2], [0, 3])
    with pytest.raises(ConvertError, match="row 1 has label 3, and 3 classes have names"):
        list_parquet(tmp_path / "t.parquet")


def test_a_damaged_file_is_named_wherever_it_is_cut(source: Path, tmp_path: Path) -> None:
    whole = (source / "train-00000.parquet").read_bytes()
    for length in range(0, len(whole), 211):
        (tmp_path / "t.parquet").write_bytes(whole[:length])
        with pytest.raises(ConvertError, match=r"t\.parquet: cannot be read as parquet"):
            list_parquet(tmp_path / "t.parquet")


def test_a_folder_without_parquet_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match="no parquet file here"):
        list_parquet(tmp_path)


@pytest.mark.slow
def test_cifar_10_of_parquet_keeps_every_byte_and_its_names(tmp_path: Path) -> None:
    source = SHARED_DATA / "cifar10_test.parquet"
    if not source.is_file():
        pytest.skip("cifar10_test.parquet is not here")
    report = convert(source, tmp_path / "out", workers=2)
    assert (report.inputs, report.samples, report.classes) == (10_000, 10_000, 10)
    table = pq.read_table(source).to_pydict()
    with Dataset.open(tmp_path / "out") as dataset:
        ids = range(10_000)
        rows = [int(key.rpartition("/")[2]) for key in dataset.keys(ids)]
        assert sorted(rows) == list(ids)
        assert dataset.read(ids) == [table["image"][row] for row in rows]
        assert dataset.labels(ids).tolist() == [table["label"][row] for row in rows]
        assert dataset.classes[:3] == ("airplane", "automobile", "bird")
