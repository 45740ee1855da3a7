"""Sample keys: one string per source image, safe as a tar member's name, different for different sources."""

import os
import re
from urllib.parse import unquote_to_bytes

SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_/-")
_KEY = re.compile(r"([A-Za-z0-9_/-]|%[0-9A-F]{2})+")
# A path of safe bytes and, in its last part and not at its start, one dot: nearly every path there is.
_PLAIN_PATH = re.compile(r"([A-Za-z0-9_/-]*[A-Za-z0-9_-])(\.[^./]*)?")


def key_of_source(source: str) -> str:
    """The key of a source image: its relative path without extension, other bytes than [A-Za-z0-9_/-] as %XX.

    No key holds a dot, so WebDataset and DALI, which cut a member's name at its first dot, never merge two
    samples. '%' itself is escaped, so paths that differ before the extension have keys that differ.

    Args:
        source: path below the source folder, '/' between folders; undecodable bytes as surrogates
            (the form that os.scandir gives).
    """
    if plain := _PLAIN_PATH.fullmatch(source):
        return plain[1]
    folder, slash, name = source.rpartition("/")
    stem = os.path.splitext(name)[0]  # noqa: PTH122 - a name, not a path: pathlib would fold '//' and '.'
    escaped = (chr(byte) if byte in SAFE else f"%{byte:02X}" for byte in os.fsencode(folder + slash + stem))
    return "".join(escaped)


def source_of_key(key: str) -> str:
    """The path that gave a key, without its extension, as `printable` shows it.

    Raises:
        ValueError: no key.
    """
    if not _KEY.fullmatch(key):
        raise ValueError(f"'{key}' is no key: other characters than [A-Za-z0-9_/-] stand there as %XX")
    return printable(os.fsdecode(unquote_to_bytes(key)))


def printable(source: str) -> str:
    """A source path as text that UTF-8 can hold: bytes that were not UTF-8 appear as \\xNN."""
    return os.fsencode(source).decode("utf-8", "backslashreplace")
