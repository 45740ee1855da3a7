"""Loaders end: nothing is left after close, in a fork, after an interrupt."""

import gc
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from itertools import islice
from pathlib import Path

import psutil
import pytest
from viewmill.pipelines.loader import Loader
from viewmill.shards.manifest import Dataset

from tests.pipelines.installed import installed_executors
from tests.pipelines.photographs import write_dataset

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("ends"), 16)


def cycle(folder: Path, executor: str) -> None:
    """Opens, takes two batches, closes."""
    with (
        Dataset.open(folder) as dataset,
        Loader(dataset, "simclr@32", 4, executor=executor, num_threads=2) as loader,
    ):
        assert len(list(islice(iter(loader), 2))) == 2


def held() -> dict[str, int]:
    """What this process holds: threads of any library, open files, children, shared memory."""
    gc.collect()
    maps = Path("/proc/self/maps").read_text()
    return {
        "threads": len(list(Path("/proc/self/task").iterdir())),
        "files": len(list(Path("/proc/self/fd").iterdir())),
        "children": len(psutil.Process().children()),
        "shared memory": maps.count("/dev/shm/") + maps.count("/memfd:"),
    }


def settled(expected: dict[str, int]) -> dict[str, int]:
    """What is held, once threads that have been ended are gone."""
    deadline = time.monotonic() + 10
    while held() != expected and time.monotonic() < deadline:
        time.sleep(0.02)
    return held()


def grown(folder: Path, executor: str, cycles: int) -> int:
    """Bytes of memory that so many cycles have added; all else must be as before."""
    for _ in range(3):  # libraries load, and pools of the process come into being
        cycle(folder, executor)
    before, memory = held(), psutil.Process().memory_info().rss
    for _ in range(cycles):
        cycle(folder, executor)
    assert settled(before) == before
    return psutil.Process().memory_info().rss - memory


@pytest.mark.parametrize("executor", installed_executors())
def test_ten_loaders_leave_no_thread_file_process_or_shared_memory(folder: Path, executor: str) -> None:
    grown(folder, executor, cycles=10)


@pytest.mark.soak
@pytest.mark.parametrize("executor", installed_executors())
def test_two_hundred_loaders_of_pipelines_leave_nothing(
    folder: Path, executor: str, capsys: pytest.CaptureFixture[str]
) -> None:
    grown(folder, executor, cycles=100)
    more = grown(folder, executor, cycles=200)
    with capsys.disabled():
        print(f"\n{executor}: {more / 200:.0f} bytes a cycle over 200 cycles")
    assert more < 200 * (64 << 10)  # one leaked batch is 98 kB


def in_fork(loader: Loader, answer: "multiprocessing.Queue[str]") -> None:
    try:
        next(iter(loader))
        answer.put("a batch")
    except RuntimeError as error:
        answer.put(str(error))
    loader.close()


@pytest.mark.parametrize("is_running", [False, True])
def test_a_fork_that_uses_the_loader_is_told_so_and_ends(folder: Path, is_running: bool) -> None:
    with (
        Dataset.open(folder) as dataset,
        Loader(dataset, "hydes@32", 4, executor="reference", num_threads=1) as loader,
    ):
        first = next(iter(loader)) if is_running else None
        forks = multiprocessing.get_context("fork")
        answer = forks.Queue()
        child = forks.Process(target=in_fork, args=(loader, answer))
        child.start()
        told = answer.get(timeout=30)
        child.join(30)
        assert child.exitcode == 0
        assert f"made in process {os.getpid()}" in told
        assert "spawn" in told
        assert next(iter(loader)).step == (0 if first is None else 1)  # the parent's goes on


# One program that imports everything and forks a program for each case, since importing torch takes seconds.
SCRIPT = """
    import json, os, signal, sys, time
    import viewmill.pipelines.executors.host.executor
    from viewmill.pipelines.executors.executor import dali_is_installed
    if dali_is_installed():
        import viewmill.pipelines.executors.dali.operator_graph
    from viewmill.pipelines.flow.batches import BatchMaker
    from viewmill.pipelines.loader import Loader
    from viewmill.shards.manifest import Dataset

    def outcome(pid, is_ready, errors, interrupt):
        assert os.read(is_ready, 1), open(errors).read()
        time.sleep(0.3)
        began_s = time.monotonic()
        if interrupt:
            os.kill(pid, signal.SIGINT)
        while time.monotonic() < began_s + 40:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return [time.monotonic() - began_s, status, open(errors).read()]
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        return [None, None, open(errors).read()]

    folder, outcomes = sys.argv[1], {}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts with it ignored
    for case in sys.argv[2:]:
        is_ready, tell = os.pipe()
        errors = f"{folder}/errors of {case}"
        pid = os.fork()
        if not pid:
            break
        os.close(tell)
        outcomes[case] = outcome(pid, is_ready, errors, interrupt="the end" not in case)
    else:
        print(json.dumps(outcomes))
        sys.exit()

    os.dup2(os.open(errors, os.O_CREAT | os.O_WRONLY), 2)
    executor, mode = case.split(" ", 1)
    def stuck(*args, **more):
        os.write(tell, b"!")
        time.sleep(600)
    if mode == "reading":
        BatchMaker.read = stuck
    if mode == "making":
        finish = BatchMaker.finish
        def slowly(*args):
            os.write(tell, b"!")
            time.sleep(0.7)
            return finish(*args)
        BatchMaker.finish = slowly
    loader = Loader(Dataset.open(folder), "hydes@32", 8, executor=executor, num_threads=1)
    batch = next(iter(loader))
    if mode == "full queue":
        while loader.stats().stages[-1].ready < 3:
            time.sleep(0.01)
        stuck()
    os.write(tell, b"!")
    if mode == "at the end":
        sys.exit()  # and leaves with threads at work, nothing closed
    while True:
        for batch in loader:
            pass
"""
CASES = [
    "reference reading",
    "reference making",
    "reference full queue",
    "reference at the end",
    *(f"{executor} at work" for executor in installed_executors()),
]


@pytest.mark.slow
def test_ctrl_c_ends_a_program_whatever_its_loader_is_doing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(folder), *CASES],
        capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    outcomes = json.loads(process.stdout)
    for case, (ended_s, status, errors) in outcomes.items():
        assert ended_s is not None, f"{case}: still there after 40 s; {errors}"  # 2 s where nothing else runs
        assert "Fatal Python error" not in errors, case
        if "the end" in case:
            assert (status, errors) == (0, ""), case
        else:
            assert os.WIFSIGNALED(status), (case, errors)
            assert os.WTERMSIG(status) == signal.SIGINT, (case, errors)
            assert "KeyboardInterrupt" in errors, case
    with capsys.disabled():
        print("\nseconds to the end:", {case: round(outcome[0], 2) for case, outcome in outcomes.items()})
