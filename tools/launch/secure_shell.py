"""Commands by ssh, which notice within seconds that a host is gone."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from viewmill.engine.strict import StrictModel
from viewmill.tools.launch.hosts import Host, read_hosts
from viewmill.tools.launch.job import Job
from viewmill.tools.launch.scripts import script
from viewmill.tools.launch.written import Command, launch_folder

CONNECT_S = 10
PROBES = 3  # unanswered ones in a row: the host is gone


class HostOptions(StrictModel):
    """How hosts are reached."""

    hosts: str | None = None  # the host file
    ssh_config: str | None = None  # ssh -F: ports, users, keys; a path without spaces
    silence_s: int = 15  # a host that ssh hears nothing of for so long is lost
    folder: str | None = None  # where every host goes first: relative paths in overrides begin there


def hosts_of(job: Job, options: HostOptions) -> list[Host]:
    """The job's hosts, as many ranks on each.

    Raises:
        ValueError: there are none, fewer than nodes, or other ranks than slots.
        FileNotFoundError: there is no host file.
    """
    if options.hosts is None:
        raise ValueError("no hosts; pass --hosts FILE with a line 'NAME slots=N' for each")
    hosts = read_hosts(options.hosts)[: job.nodes]
    if len(hosts) < job.nodes:
        raise ValueError(f"{options.hosts} has {len(hosts)} hosts, --nodes asks for {job.nodes}; add hosts")
    short = [host for host in hosts if host.slots < job.ranks_per_node]
    if short:
        raise ValueError(
            f"{options.hosts}: {short[0].name} has slots={short[0].slots}, for {job.ranks_per_node} ranks; "
            "raise its slots, or pass a smaller --ranks-per-node"
        )
    return hosts


def ssh_options(options: HostOptions) -> list[str]:
    """Words between `ssh` and the host: no questions, and a dead host is noticed.

    Raises:
        ValueError: the path of the configuration has a space, or silence_s is too short for probes.
    """
    if options.silence_s < PROBES:
        raise ValueError(f"silence_s must be at least {PROBES}, got {options.silence_s}")
    settings = {
        "BatchMode": "yes",
        "ConnectTimeout": CONNECT_S,
        "ServerAliveInterval": options.silence_s // PROBES,
        "ServerAliveCountMax": PROBES,
    }
    words = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    if options.ssh_config is None:
        return words
    if any(char.isspace() for char in options.ssh_config):
        raise ValueError(f"ssh_config={options.ssh_config!r} holds a space, on which pdsh splits; move it")
    return [*words, "-F", str(Path(options.ssh_config).absolute())]


def remote(host: str, words: Sequence[str], options: HostOptions, *, attends: bool = False) -> Command:
    """A leased command on a host. The login shell there splits the words again, so they are quoted."""
    argv = ["ssh", *ssh_options(options), host, shlex.join(words)]
    return Command(argv, host=host, leased=True, attends=attends)


def lease(job: Job, options: HostOptions) -> str:
    """lease.sh for a host that may be cut off.

    It takes the launcher for gone after as long as ssh takes the host for it, and ssh counts from its next
    probe on: when the launcher ends, the ranks there have been ended, and a successor does not meet them.
    """
    return script("lease", run=job.out, patience_s=options.silence_s)


def leases(job: Job, hosts: Sequence[Host], options: HostOptions) -> list[Command]:
    """A watch on each host over ranks that another program starts there."""
    words = ["bash", f"{launch_folder(job.out)}/lease.sh"]
    return [remote(host.name, words, options, attends=True) for host in hosts]


def check(job: Job, hosts: Sequence[Host], options: HostOptions) -> str:
    """check.sh."""
    return script(
        "check",
        env=job.env,
        run=job.out,
        folder=options.folder,
        paths=paths_of(job),
        python=job.python,
        hosts=[host.name for host in hosts],
        port=job.port,
    )


def paths_of(job: Job) -> list[tuple[str, str]]:
    """(what, path) of all that ranks read from a disk; a URL and a shipped recipe need none."""
    places = {"data set": job.data, "judge set": job.judged_on or "", "recipe": job.recipe}
    return [(what, path) for what, path in places.items() if path.startswith("/")]


def checks(job: Job, hosts: Sequence[Host], options: HostOptions) -> list[Command]:
    """check.sh NAME on each host. One that does not see the file does not see the run's folder."""
    file = f"{launch_folder(job.out)}/check.sh"
    sees = f"no {file}: RUN must be on a disk that every host sees"
    named = shlex.quote(file)
    words = f'[ -e {named} ] || {{ echo {shlex.quote(sees)} >&2; exit 1; }}; bash {named} "$0"'
    return [
        Command(
            ["ssh", *ssh_options(options), host.name, shlex.join(["sh", "-c", words, host.name])],
            host=host.name,
        )
        for host in hosts
    ]
