"""Which URLs are read, which are refused, and what the web's are like."""

from pathlib import Path

import fsspec
import pytest
from viewmill.shards.conversion import workers
from viewmill.shards.convert import convert
from viewmill.shards.errors import ConvertError, StorageError
from viewmill.shards.sources.open import SourceOptions
from viewmill.shards.storage import remote
from viewmill.shards.storage.remote import RemoteTree
from viewmill.shards.storage.retry import Patience
from viewmill.shards.storage.urls import is_url, split_url, suffix_of

from tests.shards.pictures import encoded, picture, tree_hashes, write_tree
from tests.shards.remote.conftest import QUICK
from tests.shards.remote.faulty_proxy import FAULTS, FaultyProxy
from tests.shards.remote.servers import Web
from tests.shards.remote.test_s3_sources import write_tars


@pytest.mark.parametrize(
    "url",
    [
        "pipe:cat /etc/passwd",
        "python:print(1)",
        "reference://x",
        "ssh://host/x",
        "simplecache::s3://bucket/x",
        "zip://a.jpg::https://host/x.zip",
        "https://user:word@host/x.tar",
        "what://x",
    ],
)
def test_a_url_that_runs_wraps_or_tells_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not read; give a path or one of|holds a user or a password"):
        convert(url, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_missing_library_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(protocol: str, **_: object) -> None:
        raise ImportError("Please install gcsfs")

    monkeypatch.setattr(fsspec, "filesystem", absent)
    with pytest.raises(ImportError, match=r"pip install 'viewmill\[gcs\]'"):
        convert("gs://bucket/x", tmp_path / "out")


def test_urls_are_taken_apart() -> None:
    assert split_url("s3://bucket/a/b.tar") == ("s3://bucket/a", "b.tar")
    assert split_url("s3://bucket") == ("s3://bucket", "")
    assert split_url("https://host/a/b.tar?sign=x/y") == ("https://host/a", "b.tar?sign=x/y")
    assert suffix_of("https://host/a/b.TAR?sign=x.y") == ".tar"
    assert not is_url("a/b.jpg")
    assert not is_url("C:/a.jpg")


def test_a_file_url_is_a_path(tmp_path: Path) -> None:
    source = write_tree(tmp_path / "tree")
    convert(source, tmp_path / "here")
    convert(f"file://{source}", tmp_path / "there")
    assert tree_hashes(tmp_path / "here") == tree_hashes(tmp_path / "there")


def test_memory_is_a_store_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_tree(tmp_path / "tree")
    memory = fsspec.filesystem("memory")
    memory.put(f"{source}/", "/test_urls/", recursive=True)
    convert(source, tmp_path / "here", shard_bytes=4000)
    convert("memory://test_urls", tmp_path / "there", shard_bytes=4000)
    assert tree_hashes(tmp_path / "here") == tree_hashes(tmp_path / "there")
    # Refused before there is a pool, whose thread would hang now and then on what it cannot send.
    monkeypatch.setattr(workers, "ProcessPoolExecutor", None)
    with pytest.raises(ConvertError, match="one process alone"):
        convert("memory://test_urls", tmp_path / "more", shard_bytes=4000, workers=2)
    memory.rm("/test_urls", recursive=True)


def test_a_tar_and_a_table_are_read_from_the_web(web: Web, tmp_path: Path) -> None:
    write_tars(web.folder / "tars")
    (web.folder / "0 #.jpg").write_bytes(encoded(picture(0), "JPEG"))
    (web.folder / "list.csv").write_text("path,label\n0 #.jpg,a\ngone.jpg,b\n")
    for name in ("tars/n01.tar", "list.csv"):
        convert(web.folder / name, tmp_path / "here" / name)
        convert(f"{web.url}/{name}", tmp_path / "there" / name)
        assert tree_hashes(tmp_path / "there" / name) == tree_hashes(tmp_path / "here" / name)
    with pytest.raises(ConvertError, match="web servers list no folders"):
        convert(f"{web.url}/tars", tmp_path / "out", reading=SourceOptions(kind="folder"))


def test_a_key_of_a_url_has_neither_protocol_nor_query(web: Web, tmp_path: Path) -> None:
    from viewmill.shards.manifest import Dataset

    (web.folder / "0.jpg").write_bytes(encoded(picture(0), "JPEG"))
    (tmp_path / "list.csv").write_text(f"path\n{web.url}/0.jpg?signature=secret\n")
    convert(tmp_path / "list.csv", tmp_path / "out")
    with Dataset.open(tmp_path / "out") as dataset:
        assert dataset.keys([0]) == [f"127%2E0%2E0%2E1%3A{web.port}/0"]


def test_urls_and_paths_are_not_mixed_in_a_table(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path\nhttps://host/0.jpg\n1.jpg\n")
    with pytest.raises(ConvertError, match="line 2 has a URL, line 3 a path"):
        convert(tmp_path / "list.csv", tmp_path / "out")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_web_server_fills_no_quarantine(
    fault: str, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PATIENCE", Patience(**QUICK))
    write_tars(web.folder / "tars")
    convert(web.folder / "tars" / "n01.tar", tmp_path / "here")
    proxy = FaultyProxy(web.port)
    try:
        proxy.begin(fault, requests=3)
        convert(f"{proxy.url}/tars/n01.tar", tmp_path / "there")
        assert tree_hashes(tmp_path / "there") == tree_hashes(tmp_path / "here")
        (tmp_path / "list.csv").write_text(f"path\n{proxy.url}/0.jpg\n")
        proxy.begin("unavailable" if fault == "cut" else fault)  # a HEAD has no body that could be cut
        if fault != "dribble":
            with pytest.raises(StorageError, match=r"/0\.jpg: no good answer in 4 tries"):
                convert(tmp_path / "list.csv", tmp_path / "out")
    finally:
        proxy.close()


def test_a_server_without_ranges_is_an_error_not_a_picture(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    (web.folder / "x.bin").write_bytes(bytes(1000))
    tree = RemoteTree(web.url, Patience(**QUICK))
    monkeypatch.setattr("tests.shards.remote.servers.re.fullmatch", lambda *_: None)
    with pytest.raises(StorageError, match=r"x\.bin: the server answers with the whole file"):
        tree.range("x.bin", 500, 10)
    assert tree.range("x.bin", 0, 10) == bytes(10)
