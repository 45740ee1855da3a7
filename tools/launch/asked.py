"""What a launch was asked for: its options, its ranks and what they are given, checked before any starts."""

import math
import os
import re
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from viewmill.engine.batch_size import check_batch_size
from viewmill.engine.config import ConfigError, RunConfig
from viewmill.engine.recipe_file import apply_override
from viewmill.engine.run_folder import refuse_missing_folder, refuse_used_folder
from viewmill.shards.storage.mirror import read_info_at
from viewmill.shards.storage.sources import named_source
from viewmill.tools.launch import k8s, slurm
from viewmill.tools.launch.hosts import read_hosts, same_slots
from viewmill.tools.launch.job import Job
from viewmill.tools.launch.secure_shell import HostOptions
from viewmill.tools.launch.targets import Target

# Variables that every rank is given where the launching shell has them: they say how ranks talk and compute.
FORWARDED = ("NCCL_", "GLOO_", "OMP_", "TORCH_", "DS_ACCELERATOR", "PYTHONPATH", "VIEWMILL_DEBUG")
# Which GPUs of a host are the job's, where no queue says that.
DEVICES, DEVICE_ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"


def target_options(words: Sequence[str], **named: Any) -> dict[str, Any]:
    """--option KEY=VALUE, whose values are YAML, and the options that have a flag of their own.

    Raises:
        ConfigError: a word has no value, or is given twice.
    """
    options: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    for word in words:
        key = word.partition("=")[0].strip()
        if key in options:
            raise ConfigError(f"--option {word}: {key} is given twice; leave one out")
        apply_override(options, word)
    return options


def size_of_job(
    options: Any, nodes: int | None, ranks_per_node: int | None, device: str = "auto"
) -> tuple[int, int]:
    """(nodes, ranks of each): as they were asked for, else those of host file or GPUs, else of this machine.

    Args:
        device: of the recipe: auto, cpu or cuda; on the CPU this machine's GPUs are no measure.

    Raises:
        ValueError: the host file is none, or its hosts differ and nothing was asked for.
        FileNotFoundError: there is no such file.
    """
    if isinstance(options, (k8s.Options, slurm.Options)):
        asked = "" if options.gpus is None else options.gpus.rpartition(":")[2]
        return nodes or 1, ranks_per_node or (int(asked) if asked.isdigit() else 1)
    if not isinstance(options, HostOptions) or options.hosts is None:
        gpus = 0 if device == "cpu" else gpus_here(os.environ)
        return nodes or 1, ranks_per_node or gpus or 1
    found = read_hosts(options.hosts)
    return nodes or len(found), ranks_per_node or same_slots(found[:nodes])


def gpus_here(variables: Mapping[str, str]) -> int:
    """GPUs that this process may use, found without a library of theirs."""
    visible = variables.get(DEVICES)
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def forwarded_to(target: Target) -> tuple[str, ...]:
    """How the names of the variables begin that its ranks are given from the launching shell."""
    if not target.sees_data:
        return ()
    return FORWARDED if target.chooses_gpus else (*FORWARDED, DEVICES, DEVICE_ORDER)


def environment_of_ranks(
    given: Sequence[str], variables: Mapping[str, str], forwarded: tuple[str, ...] = FORWARDED
) -> dict[str, str]:
    """What every rank is given: what begins so, then --env; one thread a rank unless that says otherwise.

    Raises:
        ValueError: a name has neither a value nor one in this shell.
    """
    env = {"OMP_NUM_THREADS": "1"}
    env |= {name: value for name, value in sorted(variables.items()) if name.startswith(forwarded)}
    for word in given:
        name, equals, value = word.partition("=")
        if not equals and name not in variables:
            raise ValueError(f"--env {name}: this shell has no such variable; pass --env {name}=VALUE")
        env[name] = value if equals else variables[name]
    return env


def refuse_devices(env: Mapping[str, str], nodes: int) -> None:
    """Raises ConfigError where the ranks of several hosts are shown the GPUs of one, by their UUIDs."""
    visible = env.get(DEVICES, "")
    if nodes > 1 and not re.fullmatch(r"[-\d,\s]*", visible):
        raise ConfigError(
            f"{DEVICES}={visible} names GPUs of one host, and the job has {nodes}; give their numbers, "
            "which mean the same on each host, or unset it"
        )


def refuse_data(job: Job) -> None:
    """Raises FileNotFoundError where the data set, or that of the judge, is not there."""
    for path in filter(None, (job.data, job.judged_on)):
        read_info_at(path)


def refuse_batch(job: Job, options: Any, config: RunConfig) -> None:
    """What every rank would refuse, told once and before any has started.

    Raises:
        ConfigError: the batch has no equal parts for all ranks, of each number of nodes that may train.
    """
    check_batch_size(config.batch_size, config.accumulation, job.world_size)
    least = options.min_nodes if isinstance(options, k8s.Options) else None
    for nodes in range(least or job.nodes, job.nodes):
        if config.batch_size % (nodes * job.ranks_per_node * config.accumulation):
            raise ConfigError(
                f"batch_size={config.batch_size} is not a multiple of {nodes} nodes x {job.ranks_per_node} "
                f"ranks x accumulation {config.accumulation}, and min_nodes={least} lets {least} to "
                f"{job.nodes} nodes train; set batch_size={_suiting(job, config, least or 1)}, or leave "
                "min_nodes out"
            )


def _suiting(job: Job, config: RunConfig, least: int) -> str:
    """The batch sizes next to that of the recipe which suit every number of nodes from `least` on."""
    parts = math.lcm(*range(least, job.nodes + 1)) * job.ranks_per_node * config.accumulation
    below = config.batch_size // parts * parts
    return f"{below} or {below + parts}" if below else f"{parts}"


def refuse_folder(job: Job) -> None:
    """Raises ConfigError where the run's folder is in use, or lacks a run to resume."""
    run = Path(job.out)
    if job.resume:
        refuse_missing_folder(run)
    else:
        refuse_used_folder(run)


def absolute(source: str) -> str:
    """A path as every host takes it; a URL stays."""
    named = named_source(source)
    return named if isinstance(named, str) else str(named.absolute())


def path_of_recipe(recipe: str) -> str:
    """A file's absolute path; a name stays."""
    path = Path(recipe)
    return str(path.absolute()) if path.is_file() else recipe


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port
