"""What every rank finds in its environment: by name, with its value or with where that comes from."""

import shlex
from collections.abc import Mapping
from typing import NamedTuple

from viewmill.tools.launch.job import Job

RUN = "VIEWMILL_RUN"  # by it lease.sh finds the processes of a run
OTHERS = "all others"
# What torch 2.11 to 2.15 give a rank (torch/distributed/elastic/agent/server/local_elastic_agent.py).
TORCHRUN = (
    *("LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_NAME", "ROLE_RANK", "ROLE_WORLD_SIZE"),
    *("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS"),
    *("TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_ERROR_FILE", "TORCHELASTIC_SIGNALS_TO_HANDLE"),
    "TORCH_NCCL_ASYNC_ERROR_HANDLING",
)
# DeepSpeed's, beside those that say where a rank is (deepspeed/launcher/launch.py).
DEEPSPEED = ("LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE")
OF_SHELL = "of the shell that launches"
OF_LOGIN = "what a login by ssh has on each host"


class Variable(NamedTuple):
    """One of them; value None: it is known when the ranks run, and `source` says from where."""

    name: str
    value: str | None
    source: str = ""


def on_this_machine(job: Job, env: Mapping[str, str]) -> list[Variable]:
    """Of ranks that one torchrun starts here.

    Args:
        env: what the launch itself sets, in this and the functions below.
    """
    meeting = [Variable("MASTER_ADDR", "127.0.0.1"), Variable("MASTER_PORT", str(job.port))]
    loopback = Variable("GLOO_SOCKET_IFNAME", None, "lo, as all ranks are here")
    gloo = [] if loopback.name in env else [loopback]
    return [*_set(env, job.out), *_by_torchrun(job), *meeting, *gloo, Variable(OTHERS, None, OF_SHELL)]


def on_hosts(job: Job, env: Mapping[str, str]) -> list[Variable]:
    """Of ranks that a torchrun on each host starts."""
    return [*_set(env, job.out), *_by_torchrun(job), *_met("first host"), Variable(OTHERS, None, OF_LOGIN)]


def by_deepspeed(job: Job, first: str) -> list[Variable]:
    """Of ranks that DeepSpeed's launcher starts; first: the host of rank 0."""
    launcher = "DeepSpeed's launcher"
    devices = "CUDA_VISIBLE_DEVICES"
    return [
        *_set(job.env, job.out),
        *_places(job, launcher),
        *(Variable(name, None, launcher) for name in DEEPSPEED),
        *([] if devices in job.env else [Variable(devices, None, f"{launcher}, where there are GPUs")]),
        Variable("MASTER_ADDR", first),
        Variable("MASTER_PORT", str(job.port)),
        Variable(OTHERS, None, f"{OF_LOGIN}, and MLFLOW*, PYTHON*, MV2*, UCX* {OF_SHELL}"),
    ]


def by_mpirun(job: Job, address: str, *, is_here: bool) -> list[Variable]:
    """Of ranks that mpirun starts; address: where rank 0 listens."""
    return [
        *_set(job.env, job.out),
        *_places(job, "mpirun's OMPI_COMM_WORLD_*"),
        Variable("MASTER_ADDR", address),
        Variable("MASTER_PORT", str(job.port)),
        Variable(OTHERS, None, f"OMPI_*, PMIX_* by mpirun; {OF_SHELL if is_here else OF_LOGIN}"),
    ]


def in_slurm(job: Job, env: Mapping[str, str]) -> list[Variable]:
    """Of ranks in a SLURM job, or in a task of an array."""
    begin = Variable("VIEWMILL_MAY_BEGIN", None, "1, when the job has been in the queue again")
    return [
        *_set(env),
        *([] if begin.name in env else [begin]),
        *_by_torchrun(job),
        *_met("first node of the job"),
        Variable(OTHERS, None, f"SLURM_* and the GPUs of the job by SLURM; {OF_SHELL}; --setup's lines"),
    ]


def in_pods(job: Job, env: Mapping[str, str]) -> list[Variable]:
    """Of ranks in the pods of a PyTorchJob."""
    others = "PET_* by the training operator; the image's, and those of Kubernetes"
    return [
        *_set(env),
        *_by_torchrun(job, is_elastic=True),
        *_met("pod that torchrun elects"),
        Variable(OTHERS, None, others),
    ]


def shown(variable: Variable) -> str:
    """A line for people; what has a value can be pasted into a shell."""
    if variable.value is None:
        return f"{variable.name}: {variable.source}"
    return f"{variable.name}={shlex.quote(variable.value)}"


def _set(env: Mapping[str, str], run: str | None = None) -> list[Variable]:
    own = [] if run is None else [Variable(RUN, run)]
    return [*(Variable(name, value) for name, value in env.items()), *own]


def _places(job: Job, source: str, *, is_elastic: bool = False) -> list[Variable]:
    """Elastic jobs may be smaller than was asked for."""
    size = Variable("WORLD_SIZE", None if is_elastic else str(job.world_size), source if is_elastic else "")
    return [
        Variable("RANK", None, f"{source}, 0 to {job.world_size - 1}"),
        Variable("LOCAL_RANK", None, f"{source}, 0 to {job.ranks_per_node - 1}"),
        size,
    ]


def _by_torchrun(job: Job, *, is_elastic: bool = False) -> list[Variable]:
    others = [Variable(name, None, "torchrun") for name in TORCHRUN if name not in job.env]
    return [*_places(job, "torchrun", is_elastic=is_elastic), *others]


def _met(where: str) -> list[Variable]:
    return [Variable(name, None, f"torchrun, on the {where}") for name in ("MASTER_ADDR", "MASTER_PORT")]
