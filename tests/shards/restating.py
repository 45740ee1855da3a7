"""Data sets whose description agrees with a file that a test has changed: hostile, not merely damaged."""

from dataclasses import replace
from pathlib import Path

from viewmill.shards.durable import sha256_of
from viewmill.shards.info import FILE_NAME, FileInfo, read_info


def restate(folder: Path, name: str) -> None:
    """Writes into dataset.json what this file of the manifest is now."""
    info, path = read_info(folder), folder / name
    stated = FileInfo(name, path.stat().st_size, sha256_of(path))
    files = tuple(stated if file.name == name else file for file in info.files)
    (folder / FILE_NAME).write_text(replace(info, files=files).to_json(), encoding="utf-8")
