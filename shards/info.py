"""dataset.json: what a data set consists of. The file is untrusted: it is read strictly or refused."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from viewmill.shards.errors import ShardError

FILE_NAME = "dataset.json"
UNFINISHED = ".convert.json"  # the plan of a conversion, there until its end
FORMAT_VERSION = 1
# Of the order that gives samples their ids: ascending xxh64 of the key with the seed, then the key itself.
ORDER_VERSION = 1
MAX_JSON_BYTES = 256_000_000
# The endings of a shard's files: the shard itself, and DALI's index of it.
KINDS = {"webdataset": (".tar", ".idx"), "ffcv": (".beton",)}
MANIFEST_FILES = ("manifest.bin", "manifest.parquet", "quarantine.parquet")
_OWN_HASH = "sha256"
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
_REFUSED_NAME = re.compile(r"quarantine-\d{6,9}\.tar")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ShardInfo:
    """One shard: a plain file name beside dataset.json, its samples, its bytes and their SHA-256."""

    name: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class FileInfo:
    """One of the manifest's files, or a tar of refused bytes: its bytes and their SHA-256."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class DataSetInfo:
    """All of dataset.json; options are those that made the data set, for the reader to see."""

    kind: str
    num_inputs: int
    num_samples: int
    num_quarantined: int
    classes: tuple[str, ...]
    shards: tuple[ShardInfo, ...]
    files: tuple[FileInfo, ...]
    options: dict[str, Any]
    data_set_hash: str
    order_version: int = ORDER_VERSION

    @property
    def in_place(self) -> bool:
        """Whether the shards are tars of another writer, indexed where they are."""
        return self.options.get("in_place") is True

    def to_json(self) -> str:
        """The text of dataset.json, its hash last; no time, host or path, so equal data sets are equal."""
        tree = {
            "format": "viewmill",
            "format_version": FORMAT_VERSION,
            "order_version": self.order_version,
            "kind": self.kind,
            "inputs": self.num_inputs,
            "samples": self.num_samples,
            "quarantined": self.num_quarantined,
            "data_set_hash": self.data_set_hash,
            "options": self.options,
            "files": [asdict(file) for file in self.files],
            "shards": [asdict(shard) for shard in self.shards],
            "classes": list(self.classes),
        }
        return _text_of({**tree, _OWN_HASH: _hash_of(tree)})

    def file(self, name: str) -> FileInfo:
        """The entry of one manifest file; `read_info` makes sure that all are there."""
        return next(file for file in self.files if file.name == name)


def _text_of(tree: dict[str, Any]) -> str:
    return json.dumps(tree, indent=1, ensure_ascii=False) + "\n"


def _hash_of(tree: dict[str, Any]) -> str:
    """SHA-256 of the text of dataset.json without the entry that states it."""
    text = _text_of({name: value for name, value in tree.items() if name != _OWN_HASH})
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def read_info(folder: Path) -> DataSetInfo:
    """dataset.json of a data set, checked: types, ranges, plain names, counts that agree.

    Raises:
        FileNotFoundError: the folder or its dataset.json is not there.
        ShardError: it cannot be read as a data set of this version; the message names the field.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: {_why_none(folder)}")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ShardError(f"{path}: over {MAX_JSON_BYTES} bytes, no data set's description is so long")
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{path}: not JSON ({error}); convert again or take a copy") from error
    info = _checked(_Fields(tree, str(path)))
    # No other file vouches for class names and options. `verify` also wants the hash to be there at all.
    if tree.get(_OWN_HASH, found := _hash_of(tree)) != found:
        raise ShardError(
            f"{path}: was changed: its content has SHA-256 {found[:16]}..., its last entry says "
            f"{tree[_OWN_HASH]!r:.20}; take it from a copy or convert again"
        )
    return info


def _why_none(folder: Path) -> str:
    """Why there is no data set in a folder, and what to do."""
    if folder.is_file():
        return "is a file; give the folder that holds the data set"
    if (folder / UNFINISHED).is_file():
        return f"an unfinished conversion ({FILE_NAME} comes last); run its viewmill convert to the end"
    return f"no data set here ({FILE_NAME} is missing); make one with: viewmill convert"


class _Fields:
    """A JSON object read field by field, each of a known type; anything else is an error that says where."""

    def __init__(self, tree: Any, where: str) -> None:
        if not isinstance(tree, dict):
            raise ShardError(f"{where}: expected an object, found {type(tree).__name__}")
        self._tree = tree
        self._where = where

    def refuse(self, name: str, expected: str) -> ShardError:
        return ShardError(
            f"{self._where}: '{name}' is {self._tree.get(name)!r:.80}, expected {expected}; "
            "take it from a copy or convert again"
        )

    def text(self, name: str, pattern: re.Pattern[str]) -> str:
        value = self._tree.get(name)
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise self.refuse(name, f"text like {pattern.pattern}")
        return value

    def count(self, name: str) -> int:
        value = self._tree.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**62:
            raise self.refuse(name, "a count")
        return value

    def equal(self, name: str, expected: Any) -> None:
        if self._tree.get(name) != expected:
            raise self.refuse(name, f"{expected!r} (another version of Viewmill wrote it)")

    def objects(self, name: str) -> list["_Fields"]:
        value = self._tree.get(name)
        if not isinstance(value, list):
            raise self.refuse(name, "a list")
        return [_Fields(item, f"{self._where}: {name}[{i}]") for i, item in enumerate(value)]

    def strings(self, name: str) -> tuple[str, ...]:
        value = self._tree.get(name)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.refuse(name, "a list of strings")
        return tuple(value)

    def mapping(self, name: str) -> dict[str, Any]:
        value = self._tree.get(name)
        if not isinstance(value, dict):
            raise self.refuse(name, "an object")
        return value


def _checked(fields: _Fields) -> DataSetInfo:
    fields.equal("format", "viewmill")
    fields.equal("format_version", FORMAT_VERSION)
    fields.equal("order_version", ORDER_VERSION)
    info = DataSetInfo(
        kind=fields.text("kind", re.compile("|".join(KINDS))),
        num_inputs=fields.count("inputs"),
        num_samples=fields.count("samples"),
        num_quarantined=fields.count("quarantined"),
        classes=fields.strings("classes"),
        shards=tuple(
            ShardInfo(
                x.text("name", PLAIN_NAME), x.count("samples"), x.count("bytes"), x.text("sha256", _SHA256)
            )
            for x in fields.objects("shards")
        ),
        files=tuple(
            FileInfo(x.text("name", PLAIN_NAME), x.count("bytes"), x.text("sha256", _SHA256))
            for x in fields.objects("files")
        ),
        options=fields.mapping("options"),
        data_set_hash=fields.text("data_set_hash", _SHA256),
    )
    _check_counts(info, fields)
    return info


def _check_counts(info: DataSetInfo, fields: _Fields) -> None:
    if info.num_samples < 1 or info.num_samples != sum(shard.samples for shard in info.shards):
        raise fields.refuse("samples", f"the sum over shards, {sum(shard.samples for shard in info.shards)}")
    if info.num_inputs != info.num_samples + info.num_quarantined:
        raise fields.refuse("inputs", f"samples + quarantined, {info.num_samples + info.num_quarantined}")
    names = [shard.name for shard in info.shards]
    files = [file.name for file in info.files]
    if len(set(names)) != len(names) or set(names) & {FILE_NAME, *MANIFEST_FILES, *files}:
        raise fields.refuse("shards", "different names that are not the manifest's")
    ending = KINDS[info.kind][0]
    if not all(name.endswith(ending) for name in names):
        raise fields.refuse("kind", f"that of the shards, whose names do not all end in {ending}")
    others = sorted(set(files) - set(MANIFEST_FILES))
    if len(files) != len(MANIFEST_FILES) + len(others) or not all(map(_REFUSED_NAME.fullmatch, others)):
        raise fields.refuse("files", f"one entry for each of {', '.join(MANIFEST_FILES)}")
    if len(set(info.classes)) != len(info.classes):
        raise fields.refuse("classes", "different names")
