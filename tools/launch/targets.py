"""What a training can be launched on: by name, a module's `Options` and `write(job, options)`."""

import difflib
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError
from viewmill.engine.strict import ConfigError, StrictModel
from viewmill.tools.launch import k8s, local, mpi, slurm, ssh
from viewmill.tools.launch.job import Job
from viewmill.tools.launch.written import Written


class Target(NamedTuple):
    """One kind of machine or cluster."""

    options: type[StrictModel]
    write: Callable[[Job, Any], Written]
    sees_data: bool = True  # what it runs on sees the disk of the launching machine
    chooses_gpus: bool = False  # its queue says which GPUs of a host are the job's
    # Several jobs that are alike but for folder and overrides, as one launch in a folder; None: in turn.
    write_array: Callable[[Sequence[Job], Any, str], Written] | None = None


TARGETS = {
    "local": Target(local.Options, local.write),
    "ssh": Target(ssh.Options, ssh.write),
    "mpi": Target(mpi.Options, mpi.write),
    "slurm": Target(slurm.Options, slurm.write, chooses_gpus=True, write_array=slurm.write_array),
    "k8s": Target(k8s.Options, k8s.write, sees_data=False),
}


def target_named(name: str) -> Target:
    """Raises ConfigError where there is no such target."""
    if name not in TARGETS:
        raise ConfigError(f"--on {name}: no such target; choose one of {', '.join(TARGETS)}")
    return TARGETS[name]


def options_of(name: str, given: Mapping[str, Any]) -> Any:
    """The target's options.

    Args:
        given: by name, without those that were not given.

    Raises:
        ConfigError: the target has no such option, or not with that value.
    """
    model = target_named(name).options
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "options"
        if first["type"] == "missing":
            raise ConfigError(f"--on {name} needs {key}; pass --{key}") from None
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"{key} is no option of --on {name}; {_instead(key, model)}") from None
        if first["type"] == "tuple_type":
            listed = yaml.safe_dump([first["input"]], default_flow_style=True, width=math.inf).strip()
            raise ConfigError(f"{key} is a list; pass --option {shlex.quote(f'{key}={listed}')}") from None
        raise ConfigError(f"{key}: {first['msg']}, got {first['input']!r}, for --on {name}") from None


def _instead(key: str, model: type[StrictModel]) -> str:
    known = list(model.model_fields)
    if not known:
        return "it has none"
    near = difflib.get_close_matches(key, known, n=1)
    return f"the nearest is {near[0]}" if near else f"it has {', '.join(known)}"
