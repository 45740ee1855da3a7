"""What `bench convert` times, each in a process of its own, which imports nothing but what the work needs."""

import hashlib
import io
import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import xxhash
from PIL import Image
from viewmill.tools.bench.memory import peak_bytes

MIB = 2**20
# (source, a new folder, workers): reads the one and fills the other.
Work = Callable[[Path, Path, int], None]

CONVERT, LOOP = "convert --check ", "copy, hash"
PEERS = (f"{CONVERT}decode", f"{LOOP}, decode", f"{CONVERT}header", LOOP)


def answer(connection: Connection, name: str, source: Path, folder: Path, workers: int) -> None:
    """Sends what `measure` finds; runs in the process that is measured."""
    connection.send(measure(name, source, folder, workers))


def measure(name: str, source: Path, folder: Path, workers: int) -> dict[str, float]:
    """Seconds, seconds of CPU of this process and its children, and this process's peak in MiB."""
    work = work_of(name)
    Image.init()  # loads what is lazy
    cpu_before, began = _cpu_seconds(), time.perf_counter()
    work(source, folder, workers)
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "cpu_seconds": _cpu_seconds() - cpu_before,
        "peak_mib": peak_bytes() / MIB,
    }


def work_of(name: str) -> Work:
    """The work of one of `PEERS`, with everything imported."""
    if not name.startswith(CONVERT):
        return partial(plain_loop, decode=name != LOOP)
    # Here, so that the plain loops and their workers do not pay for it.
    from viewmill.shards.convert import convert

    def converted(source: Path, folder: Path, workers: int) -> None:
        convert(source, folder, workers=workers, check=name.removeprefix(CONVERT))

    return converted


def files_below(source: Path) -> list[str]:
    """Paths of all files below a folder, sorted."""
    return sorted(os.path.join(top, name) for top, _, names in os.walk(source) for name in names)  # noqa: PTH118


def plain_loop(source: Path, folder: Path, workers: int, *, decode: bool) -> None:
    """The plain loop over all files below `source`; each worker takes its share to a file of its own."""
    files = files_below(source)
    if workers == 1:
        _copy(files, folder / "0", decode)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        shares = [
            pool.submit(_copy, files[number::workers], folder / str(number), decode)
            for number in range(workers)
        ]
        for share in shares:
            share.result()


def _copy(files: list[str], target: Path, decode: bool) -> None:
    """Each file read, hashed twice, decoded if asked, appended to `target`; fsync at the end."""
    digest = hashlib.sha256()
    with target.open("wb") as out:
        for path in files:
            with open(path, "rb") as file:  # noqa: PTH123 - the plain loop is not to be slowed by a Path
                data = file.read()
            xxhash.xxh64_intdigest(data)
            digest.update(data)
            if decode:
                _decode(data)
            out.write(data)
        out.flush()
        os.fsync(out.fileno())


def _decode(data: bytes) -> None:
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            if image.mode != "RGB":
                image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        pass  # a converter would record it; the loop goes on


def _cpu_seconds() -> float:
    """Of this process, of its children that have ended, and of those that have not, with theirs."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    alive = [child.cpu_times() for child in psutil.Process().children()]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages) + sum(
        times.user + times.system + times.children_user + times.children_system for times in alive
    )
