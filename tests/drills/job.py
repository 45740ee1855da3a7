"""A training whose ranks may be killed, stopped or troubled: forks of a server that has imported all."""

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import deepspeed  # noqa: F401  # so that the ranks' server imports it once for all of them
import torch
from torch import Tensor
from viewmill.engine import train as train_module
from viewmill.engine import trainer as trainer_module
from viewmill.engine.checkpoints.checkpoint import newest
from viewmill.engine.config import RunConfig, config_from
from viewmill.engine.faults.pulse import Phase, Pulse
from viewmill.engine.telemetry import read_lines
from viewmill.engine.world import World
from viewmill.shards.convert import convert
from viewmill.shards.storage import shard_files
from viewmill.tools.console import describe

from tests.engine.small_training import everything
from tests.engine.tiny import tiny_config, tiny_data_set
from tests.support import join, start_method

PATIENCE_S = 240.0  # no honest job of this size takes so long, not on a machine that does much else
# Quick enough for a test; a busy machine may keep a thread waiting for some seconds.
TIGHT = {"heartbeat_s": 0.2, "silent_s": 8.0, "hang_s": 12.0}


class Trouble(NamedTuple):
    """What happens to one rank, and when.

    what: "kill", "term" or "stop" (a signal to itself), or a name of `DOINGS`.
    entry: when it enters its phase of this number; touch: or when it touches files of checkpoints for the
    time of this number, with an entry from there on.
    """

    what: str
    rank: int = 1
    entry: int = 0
    touch: int = 0


SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "stop": signal.SIGSTOP}
TOUCHES = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir")


class Whole(NamedTuple):
    """A data set in several shards, and the uninterrupted run on it."""

    data: Path
    run: Path
    result: dict[str, Tensor]


def shards(folder: Path, count: int) -> Path:
    """A data set of so many pictures in three shards at least."""
    tiny_data_set(folder, count)
    convert(folder / "pictures", folder / "shards", workers=1, shard_bytes=60_000)
    assert len(list((folder / "shards").glob("*.tar"))) >= 3
    return folder / "shards"


def drill_config(**changes: Any) -> RunConfig:
    """Six steps, a checkpoint after each."""
    settings = {"epochs": 2, "zero": {"stage": 1}}
    settings["checkpoint"] = {"every_steps": 1, "every_epochs": None}
    return tiny_config(**{**settings, **changes})


class Ended(NamedTuple):
    """How a job has ended: exit codes (negative: a signal) and stderr of each rank, and how long it took."""

    codes: list[int | None]
    told: list[str]
    seconds: float


class Job:
    """Starts the ranks; `end` waits for them, and kills those that are left."""

    def __init__(
        self,
        config: RunConfig,
        data: Path,
        run: Path,
        *,
        world_size: int = 2,
        resume: Any = False,
        trouble: Trouble | None = None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        context: Any = multiprocessing.get_context(start_method())
        told = (config.model_dump(mode="json"), str(data), str(run), resume, trouble)
        self.began_s = time.monotonic()
        self.ranks: list[BaseProcess] = [
            context.Process(target=_enter, args=(rank, world_size, self._folder.name, *told))
            for rank in range(world_size)
        ]
        for process in self.ranks:
            process.start()

    def end(self, without: set[int] = frozenset(), patience_s: float = PATIENCE_S) -> Ended:
        """Waits for all ranks but these, which are killed then; and for none longer than `patience_s`."""
        try:
            for rank, process in enumerate(self.ranks):
                if rank not in without:
                    process.join(max(0.0, self.began_s + patience_s - time.monotonic()))
            seconds = time.monotonic() - self.began_s
            codes = [process.exitcode for process in self.ranks]
            return Ended(codes, [self.told(rank) for rank in range(len(self.ranks))], seconds)
        finally:
            for process in self.ranks:
                process.kill()
                process.join()
            self._folder.cleanup()

    def told(self, rank: int) -> str:
        """What a rank has written on stderr."""
        path = Path(self._folder.name) / f"{rank}.err"
        return path.read_text() if path.exists() else ""


def _enter(
    rank: int,
    world_size: int,
    folder: str,
    settings: dict[str, Any],
    data: str,
    run: str,
    resume: Any,
    trouble: Trouble | None,
) -> None:
    """The life of a rank; ends the process with the code of the command line."""
    sys.stderr = Path(f"{folder}/{rank}.err").open("w", buffering=1)  # noqa: SIM115
    join(rank, world_size, folder)
    world = World(rank, world_size, rank, torch.device("cpu"))
    if trouble is not None and trouble.rank == rank:
        prepare(trouble, Path(data), Path(run))
    code = 0
    try:
        config = config_from(settings, "drill")
        train_module.train(config, data, run, resume=resume, may_begin=resume, world=world)
    except Exception as error:  # told as the command line tells it
        code, line = describe(error)
        print(line, file=sys.stderr)
    sys.stderr.flush()
    os._exit(code)


def prepare(trouble: Trouble, data: Path, run: Path) -> None:
    """Lets the trouble come when it is due."""

    def happen() -> None:
        if trouble.what in SIGNALS:
            os.kill(os.getpid(), SIGNALS[trouble.what])
        else:
            DOINGS[trouble.what](data, run)

    due = happen
    if trouble.touch:
        due = partial(count_touches, trouble.touch, str(run / "checkpoints"), happen)
    if not trouble.entry:
        due()
        return
    left, real = [trouble.entry], Pulse.enter

    def enter(pulse: Pulse, phase: Phase, step: int) -> None:
        real(pulse, phase, step)
        left[0] -= 1
        if left[0] == 0:
            due()

    Pulse.enter = enter  # type: ignore[method-assign]


def count_touches(number: int, folder: str, happen: Callable[[], None]) -> None:
    left = [number]

    def count(event: str, arguments: Any) -> None:
        if event in TOUCHES and arguments and str(arguments[0]).startswith(folder):
            left[0] -= 1
            if left[0] == 0:
                happen()

    sys.addaudithook(count)


def hang(data: Path, run: Path) -> None:
    """The main thread does not come back."""
    time.sleep(2 * PATIENCE_S)


def hang_a_worker(data: Path, run: Path) -> None:
    """The threads that read do not come back from the storage."""
    shard_files.read_at = lambda file, size, offset: time.sleep(2 * PATIENCE_S)


def spoil_a_picture(data: Path, run: Path) -> None:
    """The next step of this rank has a picture that is no numbers."""
    real = trainer_module.train_step

    def step(engine: Any, teacher: Any, micro_batches: Any, *rest: Any, **options: Any) -> Any:
        micro_batches[0][0][0, 0, 0, 0] = float("nan")
        return real(engine, teacher, micro_batches, *rest, **options)

    trainer_module.train_step = step


def delete_a_shard(data: Path, run: Path) -> None:
    """One of several goes, to come back from the same folder."""
    shard = sorted(data.glob("*.tar"))[1]
    shard.rename(shard.with_suffix(".gone"))


def lose_the_mount(data: Path, run: Path) -> None:
    """All of the data set goes."""
    data.rename(data.with_suffix(".gone"))


def fill_the_disk(data: Path, run: Path) -> None:
    """Of the run folder, to the last byte."""
    with contextlib.suppress(OSError), (run.parent / "ballast").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


DOINGS: dict[str, Callable[[Path, Path], None]] = {
    function.__name__: function
    for function in (hang, hang_a_worker, spoil_a_picture, delete_a_shard, lose_the_mount, fill_the_disk)
}


def mount_small_disk(folder: Path) -> bool:
    """Puts a file system of 64 MiB in memory on a folder; False: that is not permitted here."""
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    return shutil.which("mount") is not None and subprocess.run(command, capture_output=True).returncode == 0


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    """The events of one kind, as they came."""
    return [line for line in read_lines(run / "events.jsonl") if line["event"] == kind]


def result_of(run: Path) -> dict[str, Tensor]:
    """All that the last checkpoint of a run holds."""
    path, _ = newest(run / "checkpoints")
    return everything(path)
