"""OpenMPI's mpirun, on this machine or on several hosts."""

from collections.abc import Sequence

from viewmill.tools.launch.hosts import Host, host_file
from viewmill.tools.launch.job import Job
from viewmill.tools.launch.rank_variables import by_mpirun
from viewmill.tools.launch.scripts import script
from viewmill.tools.launch.secure_shell import (
    HostOptions,
    check,
    checks,
    hosts_of,
    lease,
    leases,
    ssh_options,
)
from viewmill.tools.launch.ssh import rank_script, refuse_restarts
from viewmill.tools.launch.torchrun import SHUTDOWN_S
from viewmill.tools.launch.written import Command, Written, launch_folder, needs


class Options(HostOptions):
    """Without hosts: this machine."""


def write(job: Job, options: Options) -> Written:
    """mpi.sh, which starts rank.sh, and on hosts a lease each.

    Raises:
        ValueError: hosts or counts do not fit, or restarts are asked for.
        FileNotFoundError: there is no host file.
    """
    refuse_restarts(job, "mpirun")
    if options.hosts is None and job.nodes > 1:
        raise ValueError(
            f"--nodes {job.nodes} without hosts; pass --hosts FILE with a line 'NAME slots=N' each"
        )
    hosts = [] if options.hosts is None else hosts_of(job, options)
    folder, names = launch_folder(job.out), [host.name for host in hosts]
    address = names[0] if names else "127.0.0.1"
    files = {
        "hosts": host_file(names or ["localhost"], job.ranks_per_node),
        "rank.sh": rank_script(job, options, starter="mpirun", mpi_address=address),
        "mpi.sh": script("mpi", ranks=job.world_size, run=job.out, command=_mpirun(job, hosts, options)),
        "lease.sh": lease(job, options) if hosts else script("lease", run=job.out, patience_s=None),
    }
    start = Command(["bash", f"{folder}/lease.sh", "bash", f"{folder}/mpi.sh"], leased=True)
    given = by_mpirun(job, address, is_here=not hosts)
    if not hosts:
        return Written(files, [start], [needs("mpirun")], variables=given)
    files["check.sh"] = check(job, hosts, options)
    asked = [needs("mpirun"), *checks(job, hosts, options)]
    return Written(files, [*leases(job, hosts, options), start], asked, names, variables=given)


def _mpirun(job: Job, hosts: Sequence[Host], options: Options) -> list[str]:
    """The words after `mpirun`."""
    folder = launch_folder(job.out)
    # Bound to a core each, the threads of a rank would share it.
    placed = [
        "--hostfile",
        f"{folder}/hosts",
        "-np",
        str(job.world_size),
        "--map-by",
        "slot",
        "--bind-to",
        "none",
    ]
    # After a signal it gives ranks a second before it kills them, unless told otherwise.
    patience = ["--mca", "odls_base_sigkill_timeout", str(SHUTDOWN_S)]
    reached = ["--mca", "plm_rsh_args", " ".join(ssh_options(options))] if hosts else []
    return [*placed, *patience, *reached, "bash", f"{folder}/rank.sh"]
