"""The words of torchrun that every target shares."""

from viewmill.tools.launch.job import TRAIN_MODULE, Job

# Without them it dies of a scheduler's SIGUSR1, and the ranks with it, before they have saved.
SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
# Seconds that ranks have to finish a step and save after such a signal; torchrun's own 30 are few for that.
SHUTDOWN_S = 600


def variables(job: Job) -> dict[str, str]:
    """What torchrun and the ranks under it are given: the job's own come last."""
    return {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(SHUTDOWN_S), **job.env}


def before_rendezvous(job: Job) -> list[str]:
    """The command up to where hosts are told how they meet."""
    return [
        *(job.python, "-m", "torch.distributed.run"),
        *("--nnodes", str(job.nodes), "--nproc-per-node", str(job.ranks_per_node)),
        *("--max-restarts", str(job.max_restarts), "--signals-to-handle", SIGNALS),
    ]


def after_rendezvous(job: Job) -> list[str]:
    """What is trained."""
    return ["-m", TRAIN_MODULE, *job.train_arguments()]


def on_one_machine(job: Job) -> list[str]:
    """The whole command of a job of one node; it listens on loopback.

    Raises:
        ValueError: there are more nodes.
    """
    if job.nodes != 1:
        raise ValueError(f"--on local is this machine alone, got --nodes {job.nodes}; pass --on ssh or slurm")
    meeting = ["--master-addr", "127.0.0.1", "--master-port", str(job.port)]
    return [*before_rendezvous(job), *meeting, *after_rendezvous(job)]
