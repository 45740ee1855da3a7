"""Refused bytes, kept aside: each in a tar beside the shards, the data set otherwise the same."""

import tarfile
from pathlib import Path

from viewmill.shards.conversion.options import Options
from viewmill.shards.convert import convert_with
from viewmill.shards.verify import verify

from tests.shards.pictures import tree_hashes, write_tree


def test_refused_bytes_are_kept_by_key(tmp_path: Path) -> None:
    source = write_tree(tmp_path / "in")
    convert_with(source, tmp_path / "plain", Options(shard_bytes=8_000))
    convert_with(source, tmp_path / "out", Options(shard_bytes=8_000, quarantine_bytes=True))
    kept = {}
    for path in sorted((tmp_path / "out").glob("quarantine-*.tar")):
        with tarfile.open(path) as archive:
            kept |= {entry.name: archive.extractfile(entry).read() for entry in archive}  # type: ignore[union-attr]
    assert kept == {
        "class_1/notes.bytes": (source / "class_1" / "notes.txt").read_bytes(),
        "class_1/cut.bytes": (source / "class_1" / "cut.jpg").read_bytes(),
    }
    plain, out = tree_hashes(tmp_path / "plain"), tree_hashes(tmp_path / "out")
    assert {name for name in out if out[name] != plain.get(name)} == {
        "dataset.json",
        *(name for name in out if name.startswith("quarantine-")),
    }
    assert verify(tmp_path / "out") == []


def test_workers_and_a_second_run_do_not_change_a_byte(tmp_path: Path) -> None:
    source, options = write_tree(tmp_path / "in"), Options(shard_bytes=8_000, quarantine_bytes=True)
    for workers in (1, 2):
        convert_with(source, tmp_path / f"of_{workers}", options, workers=workers)
    assert tree_hashes(tmp_path / "of_1") == tree_hashes(tmp_path / "of_2")
