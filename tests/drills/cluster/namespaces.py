"""Hosts that are namespaces of this machine: own address, name, processes and sshd; the disk is shared."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("ip", "unshare", "ssh", "ssh-keygen", "/usr/sbin/sshd")
START_S = 20.0
END_S = 60.0  # for a host to notice that it is alone, and much else


def why_not(*programs: str) -> str | None:
    """What this machine lacks for such hosts; None: nothing."""
    if os.geteuid() != 0:
        return "namespaces need root"
    missing = [name for name in (*PROGRAMS, *programs) if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} missing: apt-get install openssh-server pdsh iproute2 openmpi-bin"
    return None


class Cluster:
    """`size` hosts h1, h2, ... on a bridge; `ssh_config` and `hosts` are for the launch.

    Nothing of the machine is changed but for a bridge, links, namespaces and folders in /etc/netns. Their
    names hold this process's id, and `close` removes them.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.names = folder, [f"h{number}" for number in range(1, size + 1)]
        self.ssh_config = folder / "ssh_config"
        number = os.getpid()
        self._tag = f"vm{number % 100000}"
        # Of 10.64.0.0/10, so that several sessions of tests hardly meet.
        self._net = f"10.{64 + number // 250 % 60}.{number % 250}"
        self._hosts: dict[str, subprocess.Popen[bytes]] = {}
        folder.mkdir(parents=True)
        for name in ("id", "host_key"):
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
        self._write_ssh_config()
        try:
            self._add_bridge()
            for name in self.names:
                self._add_host(name)
            for name in self.names:
                self._wait_for(name)
        except BaseException:
            self.close()
            raise

    def hosts(self, *names: str, slots: int) -> Path:
        """A host file."""
        path = self.folder / f"hosts-{'-'.join(names)}-{slots}"
        path.write_text("".join(f"{name} slots={slots}\n" for name in names))
        return path

    def address(self, name: str) -> str:
        return f"{self._net}.{10 + self.names.index(name) + 1}"

    def cut(self, name: str) -> None:
        """The network to a host is gone, as when its cable is pulled; it computes on."""
        _run("ip", "link", "set", self._link(name), "down")

    def mend(self, name: str) -> None:
        """It is back."""
        _run("ip", "link", "set", self._link(name), "up")

    def inside(self, name: str, *words: str) -> str:
        """What a command on a host prints, by no network."""
        (child,) = (
            Path(f"/proc/{self._hosts[name].pid}/task/{self._hosts[name].pid}/children").read_text().split()
        )
        entered = ["nsenter", "-t", child, "-n", "-u", "-p", "-m", *words]
        return subprocess.run(entered, capture_output=True, text=True, check=False).stdout

    def processes_of(self, name: str, run: Path) -> list[str]:
        """Numbers of the processes of a run on a host."""
        told = self.inside(name, "sh", "-c", f"grep -lsxzF 'VIEWMILL_RUN={run}' /proc/[0-9]*/environ")
        return told.split()

    def wait_until_none_is_left(self, run: Path) -> None:
        """Within a while no process of a run is on any host."""
        until_s = time.monotonic() + END_S
        while left := [number for name in self.names for number in self.processes_of(name, run)]:
            assert time.monotonic() < until_s, left
            time.sleep(0.1)

    @contextlib.contextmanager
    def as_debian_names(self, name: str) -> Iterator[None]:
        """Inside, a host's own name is an address of its loopback, as Debian's installer writes it."""
        others = [f"{self.address(other)} {other}\n" for other in self.names if other != name]
        path = self.folder / f"{name}.hosts"
        path.write_text("127.0.0.1 localhost\n127.0.1.1 " + name + "\n" + "".join(others))
        self.inside(name, "mount", "--bind", str(path), "/etc/hosts")
        try:
            yield
        finally:
            self.inside(name, "umount", "/etc/hosts")

    def close(self) -> None:
        """Ends all hosts with everything on them."""
        for host in self._hosts.values():
            host.send_signal(signal.SIGKILL)
            host.wait()
        for name in self.names:
            for words in (["link", "del", self._link(name)], ["netns", "del", self._space(name)]):
                subprocess.run(["ip", *words], capture_output=True, check=False)
            shutil.rmtree(f"/etc/netns/{self._space(name)}", ignore_errors=True)
        subprocess.run(["ip", "link", "del", self._tag], capture_output=True, check=False)
        with contextlib.suppress(OSError):
            Path("/etc/netns").rmdir()  # only where it is empty

    def _link(self, name: str) -> str:
        return f"{self._tag}{name}"

    def _space(self, name: str) -> str:
        return f"{self._tag}-{name}"

    def _write_ssh_config(self) -> None:
        entries = "".join(f"Host {name}\n  HostName {self.address(name)}\n" for name in self.names)
        self.ssh_config.write_text(
            f"{entries}Host *\n  User root\n  Port 22\n"
            f"  IdentityFile {self.folder}/id\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {self.folder}/known_hosts\n  StrictHostKeyChecking accept-new\n"
            "  GlobalKnownHostsFile /dev/null\n"
        )

    def _add_bridge(self) -> None:
        _run("ip", "link", "add", self._tag, "type", "bridge")
        _run("ip", "addr", "add", f"{self._net}.1/24", "dev", self._tag)
        _run("ip", "link", "set", self._tag, "up")

    def _add_host(self, name: str) -> None:
        space, link = self._space(name), self._link(name)
        etc = Path(f"/etc/netns/{space}")
        etc.mkdir(parents=True)
        lines = [f"{self.address(other)} {other}\n" for other in self.names]
        (etc / "hosts").write_text("127.0.0.1 localhost\n" + "".join(lines))
        _run("ip", "netns", "add", space)
        _run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
        _run("ip", "link", "set", link, "master", self._tag, "up")
        _run("ip", "-n", space, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
        _run(
            "ip", "-n", space, "route", "add", "default", "via", f"{self._net}.1", "dev", "eth0", check=False
        )
        for device in ("lo", "eth0"):
            _run("ip", "-n", space, "link", "set", device, "up")
        options = [f"HostKey={self.folder}/host_key", "PidFile=none", "UsePAM=no", "StrictModes=no"]
        options += [f"AuthorizedKeysFile={self.folder}/id.pub", "PermitRootLogin=prohibit-password"]
        sshd = " ".join(["exec /usr/sbin/sshd -D -e -f /dev/null", *(f"-o {word}" for word in options)])
        begin = f"hostname {name}; mount -t tmpfs tmpfs /run; mkdir -p /run/sshd; {sshd}"
        words = ["ip", "netns", "exec", space, "unshare", "--uts", "--pid", "--fork", "--mount-proc"]
        with (self.folder / f"{name}.log").open("wb") as log:
            self._hosts[name] = subprocess.Popen(
                [*words, "--kill-child", "sh", "-c", begin], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _wait_for(self, name: str) -> None:
        until_s = time.monotonic() + START_S
        words = ["ssh", "-F", str(self.ssh_config), "-o", "BatchMode=yes", "-o", "ConnectTimeout=2", name]
        while subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
            assert time.monotonic() < until_s, (self.folder / f"{name}.log").read_text()
            time.sleep(0.1)


def _run(*words: str, check: bool = True) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
