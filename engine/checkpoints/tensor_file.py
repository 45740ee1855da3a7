"""Files that last: safetensors hashed while they are written and read back once, and text."""

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from viewmill.shards.durable import sha256_of

# Bytes that are on their way from the device at once.
CHUNK_BYTES = 1 << 24

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_tensors(path: Path, tensors: Sequence[tuple[str, Tensor]]) -> tuple[int, str]:
    """Writes a new safetensors file, durably; returns its size and its sha256, checked against the disk.

    Tensors come from their device in pieces, so the file is never whole in memory.

    Raises:
        OSError: the file is there already, the disk is full or failing, or reads back other bytes.
        ValueError: a tensor's type is not among DTYPES.
    """
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        for chunk in _chunks(tensors):
            digest.update(chunk)
            size += file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    found = sha256_of(path)
    if found != digest.hexdigest():
        raise OSError(
            f"{path}: reads back with sha256 {found}, {digest.hexdigest()} was written; check the disk"
        )
    return size, found


def _chunks(tensors: Sequence[tuple[str, Tensor]]) -> Iterator[bytes]:
    yield _header(tensors)
    for _, tensor in tensors:
        flat = tensor.detach().reshape(-1)
        for part in flat.split(max(1, CHUNK_BYTES // flat.element_size())):
            yield part.cpu().contiguous().view(torch.uint8).numpy().tobytes()


def _header(tensors: Sequence[tuple[str, Tensor]]) -> bytes:
    """Eight bytes of length, then JSON: the start of the safetensors format."""
    entries: dict[str, object] = {}
    position = 0
    for name, tensor in tensors:
        end = position + tensor.numel() * tensor.element_size()
        shape = list(tensor.shape)
        if tensor.dtype not in DTYPES:
            raise ValueError(
                f"{name} is {tensor.dtype}, which a checkpoint cannot hold; store it as a number type"
            )
        entries[name] = {"dtype": DTYPES[tensor.dtype], "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers after it are aligned
    return len(text).to_bytes(8, "little") + text


def write_text(path: Path, text: str) -> None:
    """Writes a new file, durably."""
    with path.open("x", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def read_bytes(path: Path, limit: int) -> bytes:
    """A whole regular file of at most `limit` bytes; no link is followed.

    Raises:
        OSError: it is no regular file, or larger.
    """
    size = regular_size(path)
    if size > limit:
        raise OSError(f"{path}: {size} bytes, at most {limit} are expected")
    return path.read_bytes()


def regular_size(path: Path) -> int:
    """Bytes of a regular file. Raises OSError for a link, a folder or anything else."""
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"{path}: no regular file")
    return found.st_size
