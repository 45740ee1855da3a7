"""A launch in words: every command, variable and file, and which rank computes where."""

import shlex
from dataclasses import asdict
from typing import Any, NamedTuple

from viewmill.tools.launch import rank_variables
from viewmill.tools.launch.job import Job
from viewmill.tools.launch.written import Command, Written, launch_folder


class Place(NamedTuple):
    """Where a rank computes."""

    rank: int
    host: str
    local_rank: int
    device: str


def places(job: Job, hosts: list[str], device: str) -> list[Place]:
    """One for each rank.

    Args:
        hosts: in the order of their ranks; empty: they are known when the job runs.
        device: of the recipe: auto, cpu or cuda.
    """
    names = hosts or (["this machine"] if job.nodes == 1 else [f"node {node}" for node in range(job.nodes)])
    devices = {"cpu": "cpu", "cuda": "cuda:{}", "auto": "cuda:{}, or the CPU of a host without a GPU"}
    return [
        Place(node * job.ranks_per_node + local, name, local, devices[device].format(local))
        for node, name in enumerate(names)
        for local in range(job.ranks_per_node)
    ]


def plan(job: Job, written: Written, device: str) -> dict[str, Any]:
    """All of it, as JSON."""
    return {
        "world_size": job.world_size,
        "ranks": [place._asdict() for place in places(job, written.hosts, device)],
        "env": {one.name: one.value for one in written.variables if one.value is not None},
        "variables": [one._asdict() for one in written.variables],
        "checks": [asdict(command) for command in written.checks],
        "commands": [asdict(command) for command in written.commands],
        "folder": launch_folder(written.folder or job.out),
        "files": written.files,
    }


def explanation(job: Job, written: Written, device: str) -> str:
    """All of it, for people; commands can be pasted into a shell."""
    folder = launch_folder(written.folder or job.out)
    parts = [
        *(f"# --- {folder}/{name}\n{text.rstrip()}" for name, text in written.files.items()),
        "# --- checks, before anything starts" if written.checks else "",
        *map(shown, written.checks),
        "# --- commands, side by side",
        *map(shown, written.commands),
        "# --- variables of every rank",
        *map(rank_variables.shown, written.variables),
        "# --- ranks",
        *(
            f"rank {place.rank}: {place.host}, local rank {place.local_rank}, {place.device}"
            for place in places(job, written.hosts, device)
        ),
    ]
    return "\n".join(part for part in parts if part)


def shown(command: Command) -> str:
    """A command as one would type it."""
    variables = [f"{name}={shlex.quote(value)}" for name, value in command.env.items()]
    return " ".join([*variables, shlex.join(command.argv)])
