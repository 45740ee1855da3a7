"""Reading a data set: by offset, checked, from several threads, and nothing on disk is trusted."""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from viewmill.shards import rows
from viewmill.shards.convert import convert
from viewmill.shards.errors import ShardError
from viewmill.shards.images import probe
from viewmill.shards.manifest import RECORD, Dataset
from viewmill.shards.manifest_table import damage_named
from viewmill.shards.storage import shard_files
from viewmill.shards.survey import quarantine_reasons, survey

from tests.shards.pictures import write_tree
from tests.shards.restating import describe_again


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("manifest")
    convert(write_tree(folder / "source"), folder / "dataset", shard_bytes=12_000)
    return folder / "dataset"


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """A data set that a test may damage."""
    return shutil.copytree(whole, tmp_path / "dataset")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - listed by name, the entries come and go


def test_images_come_in_the_order_asked_for(whole: Path) -> None:
    with Dataset.open(whole) as dataset:
        in_order = dataset.read(range(13))
        asked = [5, 0, 12, 5]
        assert dataset.read(asked) == [in_order[sample] for sample in asked]
        assert dataset.read(np.array(asked)) == dataset.read(asked)
        assert dataset.read([]) == []


def test_the_columns_agree_with_the_parquet_and_the_images(whole: Path) -> None:
    rows = pq.read_table(whole / "manifest.parquet").to_pydict()
    with Dataset.open(whole) as dataset:
        ids = [3, 1, 12]
        assert dataset.keys(ids) == [rows["key"][sample] for sample in ids]
        assert dataset.labels(ids).tolist() == [rows["label"][sample] for sample in ids]
        sizes = [(probe(data).width, probe(data).height) for data in dataset.read(ids)]
        assert [tuple(size) for size in dataset.sizes(ids).tolist()] == sizes
        for name in RECORD.names or ():
            assert dataset.manifest[name].tolist() == rows[name]


def test_a_record_is_36_packed_bytes(whole: Path) -> None:
    assert RECORD.itemsize == 36
    assert (whole / "manifest.bin").stat().st_size == 13 * 36


def test_the_description_is_at_hand(whole: Path) -> None:
    with Dataset.open(str(whole)) as dataset:
        assert (dataset.num_samples, dataset.kind) == (13, "webdataset")
        assert dataset.classes == ("class_0", "class_1", "class_2")
        assert dataset.data_set_hash == json.loads((whole / "dataset.json").read_text())["data_set_hash"]


def test_a_flipped_bit_is_an_error_that_says_where_and_what(copy: Path) -> None:
    with Dataset.open(copy) as dataset:
        row = dataset.manifest[7]
        shard = copy / dataset.info.shards[row["shard"]].name
        data = bytearray(shard.read_bytes())
        data[int(row["offset"]) + 100] ^= 1
        shard.write_bytes(data)
        key, offset, expected = dataset.keys([7])[0], int(row["offset"]), int(row["xxh64"])
        with pytest.raises(ShardError) as failure:
            dataset.read([6, 7])
        message = str(failure.value)
        assert f"{shard}: sample '{key}' at byte {offset} has hash " in message
        assert f"the manifest says {expected:016x}; run: viewmill verify {copy}" in message
        assert len(dataset.read([6])) == 1


def test_many_threads_read_what_one_reads(whole: Path) -> None:
    with Dataset.open(whole) as dataset, ThreadPoolExecutor(8) as threads:
        expected = dataset.read(range(13))
        batches = [np.random.default_rng(seed).permutation(13) for seed in range(200)]
        for batch, images in zip(batches, threads.map(dataset.read, batches), strict=True):
            assert images == [expected[sample] for sample in batch]


@pytest.mark.parametrize("max_open", [0, 1, 256])
def test_files_are_closed_however_many_may_stay_open(
    whole: Path, max_open: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_files, "_MAX_OPEN_SHARDS", max_open)
    before = open_files()
    with Dataset.open(whole) as dataset:
        for _ in range(3):
            assert len(dataset.read(range(13))) == 13
            assert open_files() - before <= 1 + min(max_open, len(dataset.info.shards))  # and the manifest
        dataset.keys([0])
    assert open_files() == before


def test_few_rows_and_many_are_the_same_rows(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.array([7, 0, 12, 7])
    with Dataset.open(whole) as dataset:
        few = [dataset.sizes(ids).tolist(), dataset.labels(ids).tolist(), dataset.read(ids)]
        monkeypatch.setattr(rows, "_FEW", 0)
        assert few == [dataset.sizes(ids).tolist(), dataset.labels(ids).tolist(), dataset.read(ids)]
        assert few[0] == [[int(row["width"]), int(row["height"])] for row in dataset.manifest[ids]]


def test_a_flipped_label_is_noticed_before_it_is_used(whole: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    rows = np.fromfile(copy / "manifest.bin", RECORD)
    rows["label"][3] ^= 1
    rows.tofile(copy / "manifest.bin")
    with pytest.raises(ShardError, match=r"manifest\.bin: its SHA-256 is not .* verify .* --repair"):
        Dataset.open(copy)


def test_a_flipped_letter_of_a_key_is_noticed_before_it_is_used(whole: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    content = (copy / "manifest.parquet").read_bytes()
    wrong = []
    with Dataset.open(copy) as dataset:
        ids = range(dataset.num_samples)
        keys = dataset.keys(ids)
    for byte in range(0, len(content), 41):
        damaged = bytearray(content)
        damaged[byte] ^= 4
        (copy / "manifest.parquet").write_bytes(damaged)
        with contextlib.suppress(ShardError), Dataset.open(copy) as dataset:
            wrong += [byte] * (dataset.keys(ids) != keys)
    assert wrong == []


def test_a_manifest_cut_while_it_is_open_is_noticed(whole: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    with Dataset.open(copy) as dataset:
        os.truncate(copy / "manifest.bin", 100)
        with pytest.raises(ShardError, match=r"manifest\.bin: cut short since it was opened"):
            dataset.sizes([12])


def test_a_closed_data_set_says_so(whole: Path) -> None:
    dataset = Dataset.open(whole)
    dataset.close()
    dataset.close()
    for ask in (dataset.read, dataset.sizes, dataset.labels, dataset.keys):
        with pytest.raises(ValueError, match="the data set is closed"):
            ask([0])


@pytest.mark.parametrize("sample", [-1, 13, 2**40])
def test_an_id_outside_is_named(whole: Path, sample: int) -> None:
    with Dataset.open(whole) as dataset:
        for ask in (dataset.read, dataset.sizes, dataset.labels, dataset.keys):
            with pytest.raises(IndexError, match=f"no sample {sample}, ids go from 0 to 12"):
                ask([sample])


def test_a_folder_without_a_data_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no data set here"):
        Dataset.open(tmp_path)


@pytest.mark.parametrize(
    "name", ["train-000001.tar", "manifest.bin", "manifest.parquet", "quarantine.parquet"]
)
def test_a_file_that_is_missing_or_cut_short_is_named(copy: Path, name: str) -> None:
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(data[:-1])
    with pytest.raises(ShardError, match=rf"{name}: {len(data) - 1} bytes, dataset\.json says {len(data)}; "):
        Dataset.open(copy)
    (copy / name).unlink()
    with pytest.raises(ShardError, match=f"{name}: missing"):
        Dataset.open(copy)


def _set(*path: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(tree: dict[str, Any]) -> None:
        place: Any = tree
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_set("shards", 0, "name", to="../train-000000.tar"), "name"),
        (_set("shards", 0, "name", to="/etc/passwd"), "name"),
        (_set("shards", 0, "name", to=".."), "name"),
        (_set("shards", 0, "name", to="pipe:touch x"), "name"),
        (_set("shards", 0, "name", to="train-000001.tar"), "shards"),
        (_set("shards", 0, "name", to="manifest.bin"), "shards"),
        (_set("shards", 0, "samples", to=999), "samples"),
        (_set("shards", 0, "bytes", to=-1), "bytes"),
        (_set("shards", 0, "bytes", to=True), "bytes"),
        (_set("shards", 0, "sha256", to="short"), "sha256"),
        (_set("shards", to="train"), "shards"),
        (_set("shards", to=[3]), "expected an object"),
        (_set("samples", to=14), "samples"),
        (_set("samples", to="13"), "samples"),
        (_set("inputs", to=13), "inputs"),
        (_set("classes", to=["a", "a"]), "classes"),
        (_set("classes", to=[1]), "classes"),
        (_set("files", to=[]), "files"),
        (_set("kind", to="other"), "kind"),
        (_set("format", to="parquet"), "format"),
        (_set("format_version", to=2), "format_version"),
        (_set("options", to=None), "options"),
    ],
)
def test_a_description_that_was_tampered_with_is_refused(
    copy: Path, change: Callable[[dict[str, Any]], None], named: str
) -> None:
    tree = json.loads((copy / "dataset.json").read_text())
    change(tree)
    (copy / "dataset.json").write_text(json.dumps(tree))
    with pytest.raises(ShardError, match=rf"dataset\.json.*{named}"):
        Dataset.open(copy)


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000])
def test_a_description_that_is_no_json_object_is_refused(copy: Path, text: str) -> None:
    (copy / "dataset.json").write_text(text)
    with pytest.raises(ShardError, match=r"dataset\.json"):
        Dataset.open(copy)


@pytest.mark.parametrize(
    ("column", "value"),
    [("shard", -1), ("shard", 99), ("offset", -1), ("offset", 2**63 - 1), ("size", -5), ("size", 2**31 - 1)],
)
def test_a_row_that_leaves_its_shard_is_refused(copy: Path, column: str, value: int) -> None:
    rows = np.fromfile(copy / "manifest.bin", RECORD)
    rows[4][column] = value
    rows.tofile(copy / "manifest.bin")
    describe_again(copy, "manifest.bin")
    with Dataset.open(copy) as dataset:
        with pytest.raises(ShardError, match=r"manifest\.bin: sample 4 has no place in a shard"):
            dataset.read([3, 4])
        assert len(dataset.read([3])) == 1


@pytest.mark.parametrize(("column", "value"), [("label", -2), ("label", 3), ("width", 0), ("height", -7)])
def test_a_row_of_impossible_values_is_refused(copy: Path, column: str, value: int) -> None:
    rows = np.fromfile(copy / "manifest.bin", RECORD)
    rows[4][column] = value
    rows.tofile(copy / "manifest.bin")
    describe_again(copy, "manifest.bin")
    with Dataset.open(copy) as dataset, pytest.raises(ShardError, match="sample 4 has an"):
        (dataset.labels if column == "label" else dataset.sizes)([4])


def test_a_damaged_page_of_a_parquet_is_an_error_that_names_the_file(copy: Path) -> None:
    parquet = copy / "manifest.parquet"
    content = bytearray(parquet.read_bytes())
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    content[4:footer] = b"\xff" * (footer - 4)  # every page; the footer is whole
    parquet.write_bytes(content)
    with Dataset.open(copy) as dataset:
        with pytest.raises(ShardError, match=r"manifest\.parquet: the table cannot be read"):
            survey(dataset)
        refused = copy / "quarantine.parquet"
        refused.write_bytes(b"PAR1" + bytes(refused.stat().st_size - 4))
        with pytest.raises(ShardError, match=r"quarantine\.parquet: the table cannot be read"):
            quarantine_reasons(copy)


def test_keys_of_a_damaged_parquet_are_an_error(copy: Path) -> None:
    parquet = copy / "manifest.parquet"
    parquet.write_bytes(bytes(parquet.stat().st_size))
    with (
        Dataset.open(copy) as dataset,
        pytest.raises(ShardError, match=r"manifest\.parquet: its SHA-256 is not"),
    ):
        dataset.keys([0])


def test_a_footer_that_speaks_of_other_types_is_refused(copy: Path) -> None:
    """No checksum guards the footer: a text column that it calls bytes would give bytes."""
    path = copy / "quarantine.parquet"
    table = pq.read_table(path)
    column = table.column("reason").cast(pa.binary())
    pq.write_table(table.set_column(1, "reason", column), path)
    with pytest.raises(ShardError, match=r"quarantine\.parquet: has other columns or types"):
        quarantine_reasons(copy)


def test_a_close_that_fails_is_the_machines_error_and_not_the_manifests(tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    with pytest.raises(OSError, match="Input/output error") as caught, damage_named(path, "the manifest"):
        raise OSError("error closing file")  # pyarrow's words, without a number
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(path))
