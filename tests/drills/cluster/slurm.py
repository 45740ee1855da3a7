"""A SLURM of this machine alone: its own configuration, controller, nodes and munge daemon in a folder."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "munged", "munge")
START_S = 60.0
CONFIG = """
ClusterName=viewmill
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job waits until its old credential has expired: two minutes by default.
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CryptoType=crypto/munge
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
# No cgroups, no accounting: a container has neither.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
JobRequeue=1
KillWait=5
# As some sites have it: srun kills a job's other tasks where one fails, unless it is told otherwise.
KillOnBadExit=1
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,bf_interval=5,sched_min_interval=100000
{nodes}
PartitionName=main Nodes={names} Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """What this machine lacks for it; None: nothing."""
    if os.geteuid() != 0:
        return "a SLURM of one's own needs root"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} missing: apt-get install slurmctld slurmd slurm-client munge"
    try:
        socket.gethostbyname(socket.gethostname())
    except OSError:
        return f"{socket.gethostname()} has no address: name it in /etc/hosts"
    return None


class Slurm:
    """Nodes n1, n2, ... are daemons of this machine with two CPUs each; `env` is for all that talks to it."""

    def __init__(self, folder: Path, nodes: int) -> None:
        self.folder, self.names = folder, [f"n{number}" for number in range(1, nodes + 1)]
        self.env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: list[subprocess.Popen[bytes]] = []
        (folder / "state").mkdir(parents=True)
        self._write_config()
        try:
            self._start_munge()
            self._start("slurmctld", "-D")
            for name in self.names:
                self._start("slurmd", "-D", "-N", name)
            self._wait_for_nodes()
        except BaseException:
            self.close()
            raise

    def ask(self, *words: str) -> str:
        """What one of SLURM's commands prints.

        Raises:
            subprocess.CalledProcessError: it fails.
        """
        done = subprocess.run(words, env=self.env, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout.strip()

    def state(self, job: str) -> str:
        """PENDING, RUNNING, COMPLETED, ...; of a task of an array: its number behind an underscore."""
        lines = self.ask("scontrol", "show", "job", "-o", job).split()
        return next(word.partition("=")[2] for word in lines if word.startswith("JobState="))

    def restarts(self, job: str) -> int:
        """How often it was requeued."""
        lines = self.ask("scontrol", "show", "job", "-o", job).split()
        return next(int(word.partition("=")[2]) for word in lines if word.startswith("Restarts="))

    def wait(self, job: str, *states: str, timeout_s: float) -> str:
        """Until the job is in one of these states, or has ended; the state."""
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            state = self.state(job)
            if state in states or state in ("FAILED", "CANCELLED", "TIMEOUT", "COMPLETED", "NODE_FAIL"):
                return state
            time.sleep(0.5)
        raise TimeoutError(f"job {job} is {state}")

    def close(self) -> None:
        """Ends jobs, daemons, and whatever else was started with this configuration."""
        with contextlib.suppress(subprocess.SubprocessError, OSError, TimeoutError):
            self.ask("scancel", "--user=root")
            self._until(lambda: not self.ask("squeue", "--noheader"), "scancel")
        for daemon in reversed(self._daemons):
            kill_tree(daemon.pid)
            daemon.wait()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if self._has_started(process):
                    process.kill()

    def _has_started(self, process: psutil.Process) -> bool:
        """By its variables; SLURM's own keepers of steps have none left, and are known by their sockets."""
        if process.name() == "slurmstepd":
            sockets = [str(one.laddr) for one in process.net_connections("unix")]
            return any(path.startswith(f"{self.folder}/") for path in sockets)
        return process.environ().get("SLURM_CONF") == self.env["SLURM_CONF"]

    def _write_config(self) -> None:
        host, ports = socket.gethostname(), free_ports(1 + len(self.names))
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=2000"
            for name, port in zip(self.names, ports[1:], strict=True)
        )
        text = CONFIG.format(
            host=host, folder=self.folder, port=ports[0], nodes=nodes, names=",".join(self.names)
        )
        (self.folder / "slurm.conf").write_text(text)

    def _start_munge(self) -> None:
        """A daemon with a key of its own, so that the machine's, if it has one, is left alone."""
        folder = self.folder / "munge"
        folder.mkdir(mode=0o755)
        key = folder / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        names = {"key-file": key, "socket": folder / "socket", "pid-file": folder / "pid"}
        names |= {"seed-file": folder / "seed", "log-file": folder / "log"}
        # --force: a folder of pytest lies below one that others may write to.
        self._start(
            "munged", "--foreground", "--force", *(f"--{name}={path}" for name, path in names.items())
        )
        self._until(lambda: (folder / "socket").exists(), "munged")

    def _start(self, *words: str) -> None:
        log = (self.folder / f"{words[0]}.{len(self._daemons)}.err").open("wb")
        self._daemons.append(
            subprocess.Popen(words, env=self.env, stdout=log, stderr=log, start_new_session=True)
        )

    def _wait_for_nodes(self) -> None:
        def are_idle() -> bool:
            try:
                states = self.ask("sinfo", "--noheader", "--Node", "--format=%T").split()
            except subprocess.SubprocessError:
                return False
            return states == ["idle"] * len(self.names)

        self._until(are_idle, "slurmctld")

    def _until(self, is_so: Callable[[], bool], name: str) -> None:
        until_s = time.monotonic() + START_S
        while not is_so():
            if time.monotonic() > until_s:
                told = "".join(path.read_text() for path in sorted(self.folder.glob("*.err")))
                raise TimeoutError(f"{name} takes too long: {told[-2000:]}")
            time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on."""
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in found]


def kill_tree(pid: int) -> None:
    """Kills a process and all that it has started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in [*root.children(recursive=True), root]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
