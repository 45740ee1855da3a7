"""Several hosts by ssh: torchrun on each, or DeepSpeed's launcher through pdsh."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from viewmill.tools.launch import torchrun
from viewmill.tools.launch.hosts import Host, host_file
from viewmill.tools.launch.job import TRAIN_MODULE, Job
from viewmill.tools.launch.rank_variables import by_deepspeed, on_hosts
from viewmill.tools.launch.scripts import script
from viewmill.tools.launch.secure_shell import (
    HostOptions,
    check,
    checks,
    hosts_of,
    lease,
    leases,
    remote,
    ssh_options,
)
from viewmill.tools.launch.written import Command, Written, launch_folder, needs

# What pdsh's remote shell takes as one word, for DeepSpeed does not quote.
_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")


class Options(HostOptions):
    """Which program starts the ranks."""

    launcher: Literal["torchrun", "deepspeed"] = "torchrun"


def write(job: Job, options: Options) -> Written:
    """The scripts and, for every host, an ssh that runs or watches over its ranks.

    Raises:
        ValueError: hosts, counts or paths do not fit.
        FileNotFoundError: there is no host file.
    """
    hosts = hosts_of(job, options)
    if options.launcher == "deepspeed":
        return _by_deepspeed(job, hosts, options)
    # torchrun numbers hosts by their names in this order, whoever comes first.
    return _by_torchrun(job, sorted(hosts, key=lambda host: host.name), options)


def _by_torchrun(job: Job, hosts: Sequence[Host], options: Options) -> Written:
    folder, names = launch_folder(job.out), [host.name for host in hosts]
    # Two runs that are given one port do not take each other's hosts for theirs.
    number = hashlib.sha256(job.out.encode()).hexdigest()[:12]
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{names[0]}:{job.port}", "--rdzv-id", number]
    ranks = script(
        "ssh",
        hosts=names,
        env=torchrun.variables(job),
        run=job.out,
        folder=options.folder,
        before=[*torchrun.before_rendezvous(job), *meeting],
        after=torchrun.after_rendezvous(job),
    )
    words = ["bash", f"{folder}/lease.sh", "bash", f"{folder}/ranks.sh"]
    return Written(
        {"ranks.sh": ranks, "lease.sh": lease(job, options), "check.sh": check(job, hosts, options)},
        [remote(name, [*words, str(node)], options) for node, name in enumerate(names)],
        checks(job, hosts, options),
        names,
        variables=on_hosts(job, torchrun.variables(job)),
    )


def _by_deepspeed(job: Job, hosts: Sequence[Host], options: Options) -> Written:
    refuse_restarts(job, "DeepSpeed's launcher")
    folder, names = launch_folder(job.out), [host.name for host in hosts]
    for what, path in (("--out", job.out), ("--python", job.python)):
        if _PLAIN.fullmatch(path) is None:
            raise ValueError(
                f"{what} {path!r} has characters that DeepSpeed's launcher does not quote; take another, "
                "or pass --launcher torchrun"
            )
    meeting = ["--master_addr", names[0], "--master_port", str(job.port)]
    command = [
        *(job.python, "-m", "deepspeed.launcher.runner", "--launcher", "pdsh", "--force_multi"),
        *(
            "--hostfile",
            f"{folder}/hosts",
            *meeting,
            "--no_ssh_check",
        ),  # check.sh has done that, on every host
        *("--no_local_rank", "--no_python", f"{folder}/rank.sh"),
    ]
    own = {name: job.env[name] for name in ("DS_ACCELERATOR",) if name in job.env}
    files = {
        "hosts": host_file(names, job.ranks_per_node),
        "rank.sh": rank_script(job, options, starter="DeepSpeed's launcher"),
        "deepspeed_env": "".join(f"{name}={value}\n" for name, value in own.items()),
        "deepspeed.sh": script(
            "deepspeed",
            ssh_options=" ".join(ssh_options(options)),
            variables=f"{folder}/deepspeed_env",
            command=command,
        ),
        "lease.sh": lease(job, options),
        "check.sh": check(job, hosts, options),
    }
    start = Command(["bash", f"{folder}/deepspeed.sh"], own)
    asked = [needs("pdsh"), *checks(job, hosts, options)]
    given = by_deepspeed(job, names[0])
    return Written(files, [*leases(job, hosts, options), start], asked, names, variables=given)


def rank_script(job: Job, options: HostOptions, *, starter: str, mpi_address: str | None = None) -> str:
    """rank.sh, for programs that start each rank themselves.

    Args:
        mpi_address: where rank 0 listens, under mpirun, which does not say so.
    """
    return script(
        "rank",
        starter=starter,
        env=job.env,
        run=job.out,
        folder=options.folder,
        mpi=mpi_address is not None,
        address=mpi_address,
        port=job.port,
        command=[job.python, "-m", TRAIN_MODULE, *replace(job, max_restarts=0).train_arguments()],
    )


def refuse_restarts(job: Job, starter: str) -> None:
    """Raises ValueError where restarts were asked of a program that knows none."""
    if job.max_restarts:
        raise ValueError(f"--max-restarts {job.max_restarts}: {starter} starts nothing again; take torchrun")
