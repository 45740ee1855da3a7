"""How much a cache holds, told from outside."""

from pathlib import Path

from viewmill.shards.storage.cache import locked


def bytes_below(cache: Path) -> int:
    """Bytes of all ranges in the cache's folder, half-written ones too, at one moment."""
    with locked(cache / "lock"):  # without it files of different moments would be added up
        return sum(path.stat().st_size for path in (cache / "ranges").rglob("*") if path.is_file())
