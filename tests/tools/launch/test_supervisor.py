"""Commands that end together: failures, lost hosts, signals, and a launcher that is killed itself."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from viewmill.tools.launch.scripts import script
from viewmill.tools.launch.start import check_hosts, exit_code, told
from viewmill.tools.launch.supervisor import Outcome, supervise
from viewmill.tools.launch.written import Command

WAIT_S = 60.0


@pytest.fixture(autouse=True)
def signals_are_heard() -> Iterator[None]:
    """Whatever the tests were started by: nohup ignores SIGHUP, a shell in the background Ctrl-C.

    Who is told to ignore a signal has launches ignore it too.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with a lease.sh that is patient, and an impatient one."""
    folder = tmp_path / "run" / "launch"
    folder.mkdir(parents=True)
    for name, patience_s in (("lease.sh", None), ("impatient.sh", 1)):
        (folder / name).write_text(script("lease", run=str(tmp_path / "run"), patience_s=patience_s))
    return tmp_path / "run"


def processes_of(run: Path) -> list[int]:
    """Those that carry the run's name and have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            carried = (path / "environ").read_bytes().split(b"\0")
            state = (path / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if f"VIEWMILL_RUN={run}".encode() in carried and state != "Z":
            found.append(int(path.name))
    return found


def until(condition: Callable[[], object]) -> None:
    end_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def ranks(run: Path, body: str) -> list[str]:
    """A program that carries the run's name, as the scripts of a launch do."""
    return ["env", f"VIEWMILL_RUN={run}", "bash", "-c", body]


def leased(run: Path, body: str | None, host: str | None = None) -> Command:
    lease = ["bash", str(run / "launch" / "lease.sh")]
    return Command(
        [*lease, *(ranks(run, body) if body else [])], host=host, leased=True, attends=body is None
    )


def test_all_that_end_well_end_well(run: Path) -> None:
    """A host has one lease of a run, which ends all of it there; two launchers' leases share this machine."""
    other = run.with_name("other")
    shutil.copytree(run / "launch", other / "launch")
    (other / "launch" / "lease.sh").write_text(script("lease", run=str(other), patience_s=None))
    assert supervise([leased(run, "exit 0"), leased(other, "sleep 0.5", host="h1")]) == Outcome(0)


def test_the_first_that_fails_ends_the_others_and_is_named(
    run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = Command(["bash", "-c", "echo why >&2; exit 3"], host="h2")
    commands = [leased(run, "sleep 600"), other]
    assert supervise(commands, grace_s=0.0) == Outcome(3, "h2", False, "why")
    assert processes_of(run) == []
    assert "h2: why" in capfd.readouterr().err


def test_what_a_rank_has_started_in_a_session_of_its_own_is_ended_too(run: Path) -> None:
    commands = [leased(run, "setsid sleep 600 & setsid setsid sleep 600 & exit 0")]
    assert supervise(commands).code == 0
    assert processes_of(run) == []


def test_a_lost_host_ends_the_others_without_grace(run: Path) -> None:
    lost = Command(["bash", "-c", "echo 'Timeout, server h2 not responding.' >&2; exit 255"], host="h2")
    outcome = supervise([leased(run, "sleep 600", host="h1"), lost], grace_s=WAIT_S)
    assert outcome == Outcome(255, "h2", True, "Timeout, server h2 not responding.")
    assert processes_of(run) == []
    line = told(outcome, False, run)
    assert line.startswith("error: host h2 is lost: Timeout, server h2 not responding; ")
    assert "--resume" in line


def test_ranks_that_a_lost_launcher_had_only_just_asked_for_are_ended_too(run: Path) -> None:
    late = ["bash", "-c", f"touch {run}/asked; sleep 0.5; exec env VIEWMILL_RUN={run} sleep 600"]
    lease = Command(["bash", str(run / "launch" / "lease.sh"), *late], leased=True)
    with subprocess.Popen(lease.argv, stdin=subprocess.PIPE) as host:
        until((run / "asked").exists)
        assert host.stdin is not None
        host.stdin.close()
        assert host.wait(WAIT_S) == 128 + signal.SIGKILL
    assert processes_of(run) == []


def test_a_watch_over_a_host_ends_with_the_work_and_ends_what_is_left_there(run: Path) -> None:
    other = subprocess.Popen(ranks(run, "exec sleep 600"))
    until(lambda: processes_of(run))
    assert supervise([leased(run, None, host="h1"), Command(["true"])]).code == 0
    assert other.wait(WAIT_S) == -signal.SIGKILL


def test_a_watch_that_is_lost_ends_the_work(run: Path) -> None:
    lost = Command(["bash", "-c", "exit 255"], host="h1", leased=True, attends=True)
    assert supervise([lost, Command(["sleep", "600"])]) == Outcome(255, "h1", True, "")


def signalled(run: Path, commands: list[Command], number: int, *, twice: bool = False) -> Outcome:
    """The launch is signalled once its ranks are there and listen, and again when they have heard it."""

    def send() -> None:
        until((run / "ready").exists)
        os.kill(os.getpid(), number)
        if twice:
            until((run / "heard").exists)
            os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    outcome = supervise(commands)
    sender.join()
    return outcome


SAVES = "trap 'touch {run}/saved; exit 85' USR1; touch {run}/ready; while :; do sleep 0.05; done"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_lets_the_ranks_save_and_stop(number: int, run: Path) -> None:
    outcome = signalled(run, [leased(run, SAVES.format(run=run))], number)
    assert outcome.code == 85
    assert (run / "saved").exists()


def test_a_signal_reaches_ranks_that_another_program_has_started(run: Path) -> None:
    started = Command(ranks(run, SAVES.format(run=run)))
    outcome = signalled(run, [leased(run, None, host="h1"), started], signal.SIGTERM)
    assert (outcome.code, (run / "saved").exists()) == (85, True)


def test_without_leases_a_signal_is_passed_on_as_it_came(run: Path) -> None:
    body = f"trap 'exit 9' TERM; touch {run}/ready; while :; do sleep 0.05; done"
    assert signalled(run, [Command(["bash", "-c", body])], signal.SIGTERM).code == 9


def test_a_second_signal_is_the_end_at_once_and_no_success(run: Path) -> None:
    deaf = f"trap 'touch {run}/heard' USR1; touch {run}/ready; while :; do sleep 0.05; done"
    outcome = signalled(run, [leased(run, deaf)], signal.SIGINT, twice=True)
    assert (outcome.code, exit_code(outcome, is_requeued=False)) == (130, 130)
    assert processes_of(run) == []


def launcher(command: Command) -> list[str]:
    """A process that runs a leased command and ends as it did."""
    program = (
        "import sys; from viewmill.tools.launch.supervisor import supervise;"
        "from viewmill.tools.launch.written import Command;"
        "sys.exit(supervise([Command(sys.argv[1:], leased=True)]).code)"
    )
    return [sys.executable, "-c", program, *command.argv]


def test_no_process_outlives_a_launcher_that_is_killed(run: Path) -> None:
    body = f"setsid sleep 600 & touch {run}/ready; sleep 600"
    launched = subprocess.Popen(launcher(leased(run, body)))
    until((run / "ready").exists)
    assert processes_of(run)
    launched.kill()
    launched.wait()
    until(lambda: not processes_of(run))


@pytest.mark.parametrize(("words", "code"), [(["nohup"], 0), ([], 85)], ids=["nohup", "no nohup"])
def test_a_logout_stops_a_launch_unless_nohup_keeps_it(words: list[str], code: int, run: Path) -> None:
    body = f"trap 'exit 85' USR1; touch {run}/ready; while [ ! -e {run}/go ]; do sleep 0.05; done"
    with subprocess.Popen([*words, *launcher(leased(run, body))], stdin=subprocess.DEVNULL) as launched:
        until((run / "ready").exists)
        launched.send_signal(signal.SIGHUP)
        with contextlib.suppress(subprocess.TimeoutExpired):
            launched.wait(2.0)  # what noted the signal passes it on within a tenth of that
        (run / "go").touch()
        assert launched.wait(WAIT_S) == code
    assert processes_of(run) == []


def test_a_host_that_hears_nothing_ends_its_ranks_and_leaves_a_note(run: Path) -> None:
    argv = ["bash", str(run / "launch" / "impatient.sh"), *ranks(run, "exec sleep 600")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as host:
        assert host.stderr is not None
        assert "no word from the launcher for 1 s" in host.stderr.readline()
        assert host.wait(WAIT_S) == 128 + signal.SIGKILL
    assert "no word from the launcher for 1 s" in (run / "launch" / "ended.log").read_text()
    assert processes_of(run) == []


def test_checks_name_every_host_that_cannot_take_part() -> None:
    check_hosts([Command(["true"], host="h1")])
    failing = [
        Command(["bash", "-c", "echo no folder /data >&2; exit 1"], host="h2"),
        Command(["bash", "-c", "echo Connection refused >&2; exit 255"], host="h3"),
    ]
    with pytest.raises(RuntimeError) as refused:
        check_hosts([Command(["true"], host="h1"), *failing])
    assert str(refused.value) == (
        "h2 cannot take part: no folder /data; h3 cannot be reached: Connection refused; nothing was started"
    )


@pytest.mark.parametrize(
    ("outcome", "is_requeued", "expected"),
    [
        (Outcome(0), False, 0),
        (Outcome(1), False, 1),
        (Outcome(1), True, 85),  # torchrun makes 1 of every code
        (Outcome(85), True, 85),
        (Outcome(255, "h1", True), False, 1),
        (Outcome(2), False, 2),
        (Outcome(1, is_asked=True), False, 130),  # it had nothing to save yet
        (Outcome(1, is_asked=True), True, 85),
        (Outcome(-9), False, 1),
    ],
)
def test_exit_codes_are_those_of_the_command_line(outcome: Outcome, is_requeued: bool, expected: int) -> None:
    assert exit_code(outcome, is_requeued) == expected
