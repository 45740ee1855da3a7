"""How full a cache is, counted while others write to it."""

import stat
from pathlib import Path


def bytes_below(cache: Path) -> int:
    """Bytes of all ranges in the cache's folder, half-written ones too."""
    sizes = {}
    for path in (cache / "ranges").rglob("*"):
        try:
            status = path.stat()
        except FileNotFoundError:  # evicted, or given its name, a moment ago
            continue
        if stat.S_ISREG(status.st_mode):
            sizes[status.st_ino] = status.st_size  # a file may be seen under both of its names
    return sum(sizes.values())
