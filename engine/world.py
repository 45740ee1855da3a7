"""Who this process is among the ranks of a job: the only reader of the launchers' variables."""

import os
import re
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

# A collective that waits longer waits for a rank that is gone.
COLLECTIVE_TIMEOUT = timedelta(minutes=10)

# Launcher: its variables for rank, world size and local rank. SLURM_STEP_NUM_TASKS, not SLURM_NTASKS: the
# latter is also set in a batch script's shell, where plain `python` is one process and would wait for others.
LAUNCHERS = {
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
    "mpirun": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "mpiexec": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
}


@dataclass(frozen=True)
class World:
    """This rank, how many there are, and the device that it computes on."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device
    owns_group: bool = False  # start_world made the process group, so stop_world ends it


def start_world(device: str = "auto", store: Any = None) -> World:
    """Joins the job that the launcher started, or makes a job of one process.

    Understands torchrun and deepspeed, srun, mpirun and plain `python`, and sets RANK, WORLD_SIZE,
    LOCAL_RANK, MASTER_ADDR and MASTER_PORT for the libraries that read them. A process group that is
    already there is used.

    Args:
        store: where the ranks have met before; else they meet at MASTER_ADDR:MASTER_PORT.

    Raises:
        ValueError: `device` is cuda and there is none, or fewer than ranks on this machine.
        RuntimeError: the launcher's variables do not say where rank 0 listens.
    """
    if dist.is_initialized():
        rank, world_size = dist.get_rank(), dist.get_world_size()
        local_rank = int(os.environ.get("LOCAL_RANK", rank))
        return World(rank, world_size, local_rank, pick_device(device, local_rank))
    rank, world_size, local_rank = read_place(os.environ)
    chosen = pick_device(device, local_rank)
    address, port = read_rendezvous(os.environ, world_size)
    publish_place(rank, world_size, local_rank, address, port)
    # gloo beside nccl: flags and file lists then travel without stalling the device.
    backend = "gloo" if chosen.type == "cpu" else "cpu:gloo,cuda:nccl"
    # One process needs no port: nothing listens beyond loopback.
    store = dist.HashStore() if world_size == 1 else store  # type: ignore[attr-defined]
    dist.init_process_group(
        backend, store=store, rank=rank, world_size=world_size, timeout=COLLECTIVE_TIMEOUT
    )
    return World(rank, world_size, local_rank, chosen, owns_group=True)


def stop_world(world: World) -> None:
    """Leaves the job."""
    if world.owns_group and dist.is_initialized():
        dist.destroy_process_group()


def read_place(variables: Mapping[str, str]) -> tuple[int, int, int]:
    """(rank, world size, local rank) as the launcher says; (0, 1, 0) without one.

    Raises:
        RuntimeError: a launcher set some of its three variables but not all, or numbers that cannot be.
    """
    for launcher, names in LAUNCHERS.items():
        found = [name for name in names if name in variables]
        if names[1] not in found:
            continue
        if names[0] not in found:
            raise RuntimeError(f"{launcher} set {names[1]} but not {names[0]}; set both, or unset {names[1]}")
        rank, world_size = int(variables[names[0]]), int(variables[names[1]])
        local_rank = int(variables.get(names[2], rank))
        if not 0 <= rank < world_size:
            raise RuntimeError(f"{names[0]}={rank} lies outside {names[1]}={world_size}; start the job anew")
        return rank, world_size, local_rank
    return 0, 1, 0


def restarts_alone(variables: Mapping[str, str]) -> bool:
    """Whether something starts the ranks again by itself, so that its first start has --resume too.

    torchrun's agent with --max-restarts N does; what viewmill launch writes for schedulers sets
    VIEWMILL_MAY_BEGIN=1.
    """
    is_told = variables.get("VIEWMILL_MAY_BEGIN") == "1"
    return is_told or int(variables.get("TORCHELASTIC_MAX_RESTARTS", 0)) > 0


def was_restarted(variables: Mapping[str, str]) -> bool:
    """Whether this start follows a failure of the same job, as far as the agent of this machine counts."""
    return int(variables.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0


def read_rendezvous(variables: Mapping[str, str], world_size: int) -> tuple[str, int]:
    """Address and port on which rank 0 listens.

    Raises:
        RuntimeError: several machines, and nothing names the first.
    """
    job = variables.get("SLURM_JOB_ID", "0")
    port = int(variables.get("MASTER_PORT", 29500 + int(job) % 20000))
    if "MASTER_ADDR" in variables:
        return variables["MASTER_ADDR"], port
    local_size = variables.get("OMPI_COMM_WORLD_LOCAL_SIZE", variables.get("MPI_LOCALNRANKS", ""))
    if world_size == 1 or local_size == str(world_size) or variables.get("SLURM_STEP_NUM_NODES") == "1":
        return "127.0.0.1", port
    if "SLURM_STEP_NODELIST" in variables:
        return first_host(variables["SLURM_STEP_NODELIST"]), port
    raise RuntimeError(
        f"{world_size} ranks, and nothing says where rank 0 listens; pass MASTER_ADDR and MASTER_PORT to "
        "every rank (mpirun -x MASTER_ADDR=HOST -x MASTER_PORT=29500 ...) or start with torchrun"
    )


def first_host(node_list: str) -> str:
    """The first name of Slurm's compressed list: 'a[03-07,9],b1' -> 'a03'."""
    match = re.match(r"([^,\[]+)(?:\[([^\],-]+)[^\]]*\]([^,\[]*))?", node_list)
    if match is None:
        raise RuntimeError(f"SLURM_STEP_NODELIST={node_list!r} names no machine; set MASTER_ADDR")
    return "".join(part or "" for part in match.groups())


def pick_device(device: str, local_rank: int) -> torch.device:
    """The device of this rank: auto is a GPU where there is one.

    Raises:
        ValueError: cuda was asked for and this machine has no GPU for this rank.
    """
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise ValueError(
            f"device={device}: local rank {local_rank} needs a GPU and {socket.gethostname()} shows {count}; "
            "start fewer ranks there, or pass device=cpu"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def publish_place(rank: int, world_size: int, local_rank: int, address: str, port: int) -> None:
    """Sets the variables by which torch and other libraries find their place, for whatever launcher."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(local_rank))
    os.environ.update(MASTER_ADDR=address, MASTER_PORT=str(port))
    if address in ("127.0.0.1", "localhost") and sys.platform == "linux":
        # gloo else resolves the machine's name, which fails on some and listens outside on others.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
