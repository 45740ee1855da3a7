"""What was asked of a store, and what its cache saved."""

import threading
from dataclasses import dataclass, field, fields


@dataclass
class Counts:
    """Counted since the data set or the tree was opened, in this process; safe in several threads.

    requests: answered ranges. bytes_fetched: in them. hits, misses: samples read that were in the cache or on
    their way there, and those that were not. retries: requests that were made again.
    """

    requests: int = 0
    bytes_fetched: int = 0
    hits: int = 0
    misses: int = 0
    retries: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, **counts: int) -> None:
        """Adds to the counters named."""
        with self._lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)

    def as_dict(self) -> dict[str, int]:
        """The counters by name, at one moment."""
        with self._lock:
            return {one.name: getattr(self, one.name) for one in fields(self) if not one.name.startswith("_")}
