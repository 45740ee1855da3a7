"""This machine alone: torchrun, for one rank too."""

from viewmill.engine.strict import StrictModel
from viewmill.tools.launch.job import Job
from viewmill.tools.launch.rank_variables import on_this_machine
from viewmill.tools.launch.scripts import script
from viewmill.tools.launch.torchrun import on_one_machine, variables
from viewmill.tools.launch.written import Command, Written, launch_folder


class Options(StrictModel):
    """There is nothing to choose."""


def write(job: Job, options: Options) -> Written:
    """ranks.sh, under a lease: with the launcher end the ranks.

    Raises:
        ValueError: the job has several nodes.
    """
    folder = launch_folder(job.out)
    command, env = on_one_machine(job), variables(job)
    files = {
        "ranks.sh": script(
            "local", ranks=job.ranks_per_node, env=env, run=job.out, folder=None, command=command
        ),
        # A launcher that is merely stopped, by Ctrl-Z say, is there still: no patience to lose.
        "lease.sh": script("lease", run=job.out, patience_s=None),
    }
    argv = ["bash", f"{folder}/lease.sh", "bash", f"{folder}/ranks.sh"]
    return Written(files, [Command(argv, leased=True)], variables=on_this_machine(job, env))
