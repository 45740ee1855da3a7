"""The cache of ranges: its bound, its order of going, and what crashes leave in it."""

import os
import threading
import time
from pathlib import Path

import pytest
from viewmill.shards.storage import cache as cache_module
from viewmill.shards.storage.cache import Cache

from tests.shards.remote.cached_bytes import bytes_below


def files_of(cache: Cache) -> list[Path]:
    return [path for path in (cache.folder / "ranges").rglob("*") if path.is_file()]


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, max_bytes=100)
    for number in range(4):
        cache.put(str(number), bytes([number]) * 25)
        time.sleep(0.01)
    assert cache.get("0") == bytes(25)  # used again
    cache.put("4", bytes(25))
    assert cache.get("1") is None
    assert cache.get("0") == bytes(25)
    assert bytes_below(cache.folder) <= 100


def test_what_is_larger_than_the_cache_is_not_kept(tmp_path: Path) -> None:
    cache = Cache(tmp_path, max_bytes=100)
    cache.put("small", bytes(60))
    cache.put("large", bytes(101))
    assert cache.get("large") is None
    assert cache.get("small") == bytes(60)


@pytest.mark.parametrize("usage", [None, "", "nonsense", "-5"])
def test_a_damaged_count_is_made_again(usage: str | None, tmp_path: Path) -> None:
    Cache(tmp_path, max_bytes=100).put("a", bytes(90))
    (tmp_path / "usage").unlink()
    if usage is not None:
        (tmp_path / "usage").write_text(usage)
    cache = Cache(tmp_path, max_bytes=100)
    cache.put("b", bytes(90))
    assert bytes_below(cache.folder) == 90


def test_what_a_crash_left_counts_and_goes_after_an_hour(tmp_path: Path) -> None:
    cache = Cache(tmp_path, max_bytes=100)
    cache.put("a", bytes(30))
    left = files_of(cache)[0].with_name("b.tmp-0123")
    left.write_bytes(bytes(60))
    (tmp_path / "usage").unlink()
    cache.put("c", bytes(30))
    assert left.exists()
    assert bytes_below(cache.folder) <= 100
    os.utime(left, (time.time() - 4000, time.time() - 4000))
    for number in range(5):
        cache.put(f"d{number}", bytes(30))
    assert not left.exists()


def test_threads_keep_the_bound_and_read_whole_ranges(tmp_path: Path) -> None:
    bound, faults = 2000, []

    def work(seed: int) -> None:
        cache = Cache(tmp_path, max_bytes=bound)
        for number in range(60):
            name = str((seed * 7 + number) % 40)
            data = cache.get(name)
            if data is not None and data != name.encode() * 50:
                faults.append(name)
            cache.put(name, name.encode() * 50)
            if bytes_below(cache.folder) > bound:
                faults.append("bound")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


def test_the_environment_names_folder_and_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIEWMILL_CACHE", str(tmp_path / "there"))
    monkeypatch.setenv("VIEWMILL_CACHE_BYTES", "123")
    cache = Cache()
    assert (cache.folder, cache.max_bytes) == (tmp_path / "there", 123)
    monkeypatch.setenv("VIEWMILL_CACHE_BYTES", "8 GB")
    with pytest.raises(ValueError, match="VIEWMILL_CACHE_BYTES=8 GB: expected a number of bytes"):
        Cache()
    monkeypatch.delenv("VIEWMILL_CACHE_BYTES")
    assert Cache().max_bytes == cache_module.DEFAULT_BYTES


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path, max_bytes=100)
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space left"):
        cache.put("a", bytes(10))
    assert files_of(cache) == []
