"""Every kind of source in an S3 bucket becomes the bytes that the same files on disk become."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from viewmill.shards.convert import convert
from viewmill.shards.errors import ConvertError
from viewmill.shards.sources.open import SourceOptions, kind_of

from tests.shards.pictures import encoded, picture, tree_hashes, write_tree
from tests.shards.remote.faulty_proxy import FaultyProxy
from tests.shards.remote.servers import upload

NO_OPTIONS = SourceOptions()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each kind of source."""
    top = tmp_path_factory.mktemp("local")
    write_tree(top / "tree", num_classes=2, per_class=3)
    write_tars(top / "tars")
    write_parquet(top / "parquet" / "rows.parquet")
    (top / "binary").mkdir()
    records = np.random.default_rng(0).integers(0, 10, (20, 3073)).astype(np.uint8)
    (top / "binary" / "test_batch.bin").write_bytes(records.tobytes())
    (top / "tables").mkdir()
    (top / "tables" / "list.csv").write_text(
        "path,label\nclass_0/0.jpg,4\nclass_1/1.jpg,2\nclass_1/gone.jpg,2\n"
    )
    convert(top / "tree", top / "dataset")
    return top


@pytest.fixture(scope="module")
def remote(local: Path, shared_proxy: FaultyProxy) -> str:
    return upload(shared_proxy.upstream_port, local, "sources")


def write_tars(folder: Path) -> None:
    folder.mkdir()
    for name in ("n01", "n02"):
        with tarfile.open(folder / f"{name}.tar", "w") as tar:
            for number in range(3):
                add(tar, f"{number}.jpg", encoded(picture(number), "JPEG"))
                add(tar, f"{number}.cls", str(number % 2).encode())
    (folder.parent / "inner").mkdir()
    with tarfile.open(folder.parent / "inner" / "train.tar", "w") as outer:
        for name in ("n01", "n02"):
            add(outer, f"{name}.tar", (folder / f"{name}.tar").read_bytes())


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def write_parquet(path: Path) -> None:
    path.parent.mkdir()
    images = [{"bytes": encoded(picture(number), "PNG"), "path": None} for number in range(6)]
    pq.write_table(pa.table({"image": images, "label": [0, 1, 0, 1, 0, 1]}), path, row_group_size=2)


@pytest.mark.parametrize(
    ("source", "kind", "options"),
    [
        ("tree", "folder", NO_OPTIONS),
        ("tars", "tar", NO_OPTIONS),
        ("tars/n01.tar", "tar", NO_OPTIONS),
        ("inner/train.tar", "tar", NO_OPTIONS),
        ("parquet", "parquet", NO_OPTIONS),
        ("parquet/rows.parquet", "parquet", NO_OPTIONS),
        ("binary", "binary", SourceOptions(subset="test")),
        ("binary/test_batch.bin", "binary", NO_OPTIONS),
        ("dataset", "dataset", NO_OPTIONS),
    ],
)
def test_a_bucket_gives_the_bytes_that_the_disk_gives(
    source: str,
    kind: str,
    options: SourceOptions,
    local: Path,
    remote: str,
    tmp_path: Path,
    proxy: FaultyProxy,
) -> None:
    assert kind_of(f"{remote}/{source}") == kind == kind_of(local / source)
    convert(local / source, tmp_path / "here", reading=options)
    convert(f"{remote}/{source}", tmp_path / "there", reading=options)
    assert tree_hashes(tmp_path / "there") == tree_hashes(tmp_path / "here")


def test_a_table_starts_from_a_url_or_holds_urls(
    local: Path, remote: str, tmp_path: Path, proxy: FaultyProxy
) -> None:
    reading = SourceOptions(root=str(local / "tree"))
    report = convert(local / "tables" / "list.csv", tmp_path / "here", reading=reading)
    assert report.reasons == {"unreadable": 1}
    for table in (str(local / "tables" / "list.csv"), f"{remote}/tables/list.csv"):
        out = tmp_path / f"there{len(table)}"
        convert(table, out, reading=SourceOptions(root=f"{remote}/tree"))
        assert tree_hashes(out) == tree_hashes(tmp_path / "here")
    (tmp_path / "urls.csv").write_text(
        f"path,label\n{remote}/tree/class_0/0.jpg,a\n{remote}/tree/gone.jpg,b\n"
    )
    report = convert(tmp_path / "urls.csv", tmp_path / "urls")
    assert (report.samples, report.reasons) == (1, {"unreadable": 1})


def test_a_folder_is_listed_once_whatever_its_folders(
    remote: str, tmp_path: Path, proxy: FaultyProxy
) -> None:
    convert(f"{remote}/tree", tmp_path / "out", reading=SourceOptions(kind="folder"))
    assert sum(request.path.strip("/") == "pictures" for request in proxy.log) == 1


def test_the_headers_of_a_tar_are_read_in_windows(remote: str, tmp_path: Path, proxy: FaultyProxy) -> None:
    convert(f"{remote}/inner/train.tar", tmp_path / "out", limit=1)
    first = proxy.spans("train.tar")[0]
    assert first == (0, min(256 << 10, first[1]))


@pytest.mark.slow  # two processes start, and import their S3 client
def test_several_workers_read_the_same(local: Path, remote: str, tmp_path: Path, proxy: FaultyProxy) -> None:
    convert(local / "tree", tmp_path / "here", shard_bytes=4000)
    convert(f"{remote}/tree", tmp_path / "there", shard_bytes=4000, workers=2)
    assert tree_hashes(tmp_path / "there") == tree_hashes(tmp_path / "here")


def test_a_file_that_changes_after_the_plan_is_quarantined(
    tmp_path: Path, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    from viewmill.shards.conversion import run

    url = upload(proxy.upstream_port, write_tree(tmp_path / "tree"), "changing")
    written = run.write_shards

    def change_and_write(*arguments: object) -> None:
        other = write_tree(tmp_path / "other")
        for path in other.rglob("*.jpg"):
            path.write_bytes(path.read_bytes() + b"more")
        upload(proxy.upstream_port, other / "class_2", "changing/class_2")
        written(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "write_shards", change_and_write)
    assert convert(url, tmp_path / "out").reasons["changed"] == 4


def test_what_is_not_there_is_named(tmp_path: Path, proxy: FaultyProxy) -> None:
    for source, kind in (
        ("absent", None),
        ("absent.tar", None),
        ("absent.csv", None),
        ("absent.parquet", None),
    ):
        with pytest.raises(ConvertError, match=rf"s3://pictures/{source}: no "):
            convert(f"s3://pictures/{source}", tmp_path / "out", reading=SourceOptions(kind=kind))
    with pytest.raises(ConvertError, match="no regular file"):
        convert("s3://no-such-bucket/x", tmp_path / "out")
