"""Requests that fail are made again: a few times, at intervals that are known beforehand."""

import re
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from viewmill.shards.errors import StorageError

T = TypeVar("T")
_LAST_STATUS_OF_A_CLIENT = 499
_PASSING = (408, 425, 429)  # refusals of a moment


class Patience(NamedTuple):
    """How long a store is waited for; all in all `tries` x `limit_s` and the waits between them.

    tries: of each request. first_wait_s: after the first failure, doubled after each further one up to
    longest_wait_s. request_s: for the answer to one request, and a second for every least_bytes_per_s asked.
    """

    tries: int = 5
    first_wait_s: float = 0.5
    longest_wait_s: float = 8.0
    request_s: float = 30.0
    least_bytes_per_s: int = 1 << 16

    def limit_s(self, size: int) -> float:
        """Seconds in which a request of `size` bytes has to be answered."""
        return self.request_s + size / self.least_bytes_per_s

    def waits_s(self) -> Iterator[float]:
        """Seconds to wait before each try but the first."""
        for number in range(self.tries - 1):
            yield min(self.first_wait_s * 2**number, self.longest_wait_s)


PATIENCE = Patience()


class Incomplete(Exception):
    """An answer has fewer or more bytes than were asked for."""


def persistently(
    shown: str, attempt: Callable[[], T], patience: Patience, on_retry: Callable[[], None] = lambda: None
) -> T:
    """What `attempt` gives, tried again where its failure may pass.

    Raises:
        FileNotFoundError: the store says that there is no such file.
        StorageError: the store refuses, or failed at every try; names `shown` and the cause.
    """
    waits = patience.waits_s()
    while True:
        try:
            return attempt()
        except (FileNotFoundError, IsADirectoryError, StorageError):
            raise
        except Exception as error:  # each store's library raises what it likes
            text = f"{type(error).__name__}: {_plain(str(error))}".rstrip(": ")
            if _is_final(error):
                raise StorageError(
                    f"{shown}: refused ({text}); check the address and access to it"
                ) from error
            wait_s = next(waits, None)
            if wait_s is None:
                raise StorageError(
                    f"{shown}: no good answer in {patience.tries} tries ({text}); what is finished is kept: "
                    "run the same command again when the store answers"
                ) from error
        on_retry()
        time.sleep(wait_s)


def _plain(text: str) -> str:
    """One short line, without the queries of URLs: they may be signatures."""
    return re.sub(r"(://[^\s?'\"]*)\?[^\s'\")]*", r"\1", " ".join(text.split()))[:200]


def _is_final(error: Exception) -> bool:
    """Whether trying again is of no use: no permission, wrong arguments, a 4xx."""
    status = getattr(error, "status", None)  # of aiohttp and gcsfs
    if isinstance(status, int):
        return 400 <= status <= _LAST_STATUS_OF_A_CLIENT and status not in _PASSING
    names = {kind.__name__ for kind in type(error).__mro__}
    # Classes of libraries that may not be installed: known by name.
    return isinstance(
        error, (PermissionError, ValueError, TypeError, ImportError, NotImplementedError)
    ) or bool(names & {"NoCredentialsError", "PartialCredentialsError", "ParamValidationError", "InvalidURL"})
