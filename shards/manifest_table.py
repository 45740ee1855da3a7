"""The manifest as a table: its columns, the hash of a data set, and reading parquet that may be damaged."""

import errno
import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from viewmill.shards.errors import ShardError
from viewmill.shards.rows import RECORD

SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("key", pa.string()),
        ("source", pa.string()),
        ("shard", pa.int32()),
        ("offset", pa.int64()),
        ("size", pa.int32()),
        ("ext", pa.string()),
        ("label", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("xxh64", pa.uint64()),
        ("transcoded", pa.bool_()),
    ]
)
QUARANTINE_SCHEMA = pa.schema(
    [("source", pa.string()), ("reason", pa.string()), ("xxh64", pa.uint64()), ("size", pa.int64())]
)
ROWS_PER_GROUP = 65_536


def records_of(table: pa.Table) -> np.ndarray:
    """The fixed-width columns of a manifest table as RECORD rows, what manifest.bin holds."""
    records = np.empty(table.num_rows, RECORD)
    for name in RECORD.names or ():
        records[name] = table.column(name).to_numpy()
    return records


def hash_of_data_set(keys: Iterable[str], records: np.ndarray) -> str:
    """SHA-256 over (id, key, label, width, height) in id order, whatever the shards are.

    Each row is five little-endian numbers (id and the key's length of 64 bits, else 32) and the key in UTF-8.
    """
    digest = hashlib.sha256(b"viewmill data set 1\n")
    columns = zip(keys, *(records[name].tolist() for name in ("label", "width", "height")), strict=True)
    for sample, (key, label, width, height) in enumerate(columns):
        text = key.encode()
        digest.update(struct.pack("<qqiii", sample, len(text), label, width, height) + text)
    return digest.hexdigest()


def checked_parquet(path: Path, schema: pa.Schema) -> pq.ParquetFile:
    """A parquet file of a data set, whose pages are checked as they are read.

    Raises:
        ShardError: its columns are not those of `schema`, for no checksum guards a parquet file's footer.
    """
    parquet = pq.ParquetFile(path, page_checksum_verification=True)
    if not parquet.schema_arrow.equals(schema):
        parquet.close()
        raise ShardError(f"{path}: has other columns or types; run: viewmill verify {path.parent}")
    return parquet


@contextmanager
def damage_named(path: Path, what: str) -> Iterator[None]:
    """What pyarrow raises in the block over a damaged parquet file becomes a ShardError that names it."""
    try:
        yield
    except (pa.ArrowException, OSError, KeyError, IndexError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the machine's, not the file's
        if isinstance(error, OSError) and str(error) == "error closing file":
            # The machine's too, though pyarrow leaves its number out; of a file that was read it is this one.
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path)) from error
        text = " ".join(str(error).split())[:200]
        raise ShardError(
            f"{path}: {what} cannot be read ({text}); run: viewmill verify {path.parent}"
        ) from error
