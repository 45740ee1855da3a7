"""`Request`: one launch as its command line asks for it, made into a job on a target; and its answer."""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from viewmill.engine.config import RunConfig, load_config
from viewmill.tools.console import SUCCESS, print_json, print_line
from viewmill.tools.launch import asked
from viewmill.tools.launch.explained import explanation, plan
from viewmill.tools.launch.job import Job
from viewmill.tools.launch.start import run, write_files
from viewmill.tools.launch.sweep_launch import Sweep
from viewmill.tools.launch.sweep_launch import answer as answer_sweep
from viewmill.tools.launch.targets import Target, options_of, target_named

PORT = 29500
POD_PYTHON = "python"  # of an image; this machine's own interpreter is not in it


class Launch(NamedTuple):
    """What is launched, and on what."""

    job: Job
    target: Target
    options: Any  # of the target
    config: RunConfig


@dataclass(frozen=True)
class Request:
    """The words of `viewmill launch`; None is what was not given."""

    recipe: str
    data: str
    out: Path
    on: str = "local"
    overrides: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)  # of the target, from their own flags too
    nodes: int | None = None
    ranks_per_node: int | None = None
    env: tuple[str, ...] = ()  # NAME or NAME=VALUE
    python: str | None = None
    port: int | None = None
    judge: str | None = None
    resume: bool = False
    max_restarts: int = 0
    preflight: bool | None = None

    def launch(self) -> Launch:
        """The job with all that was left open filled in.

        Raises:
            ConfigError: recipe, target or options are wrong.
            ValueError: a count, a host file or a variable is.
            FileNotFoundError: recipe or host file is not there.
        """
        target = target_named(self.on)
        options = options_of(self.on, self.options)
        config = load_config(self.recipe, list(self.overrides))
        nodes, ranks = asked.size_of_job(options, self.nodes, self.ranks_per_node, config.device)
        job = Job(
            recipe=asked.path_of_recipe(self.recipe),
            data=asked.absolute(self.data),
            out=str(self.out.absolute()),
            overrides=self.overrides,
            nodes=nodes,
            ranks_per_node=ranks,
            python=self.python or (sys.executable if target.sees_data else POD_PYTHON),
            port=self.port or self._usual_port(nodes),
            env=asked.environment_of_ranks(self.env, os.environ, asked.forwarded_to(target)),
            resume=self.resume,
            max_restarts=self.max_restarts,
            preflight=nodes > 1 if self.preflight is None else self.preflight,
            judged_on=None if self.judge is None else asked.absolute(self.judge),
        )
        asked.refuse_devices(job.env, job.nodes)
        return Launch(job, target, options, config)

    def _usual_port(self, nodes: int) -> int:
        """A free one where the ranks meet on this machine; what is free elsewhere is not known."""
        is_here = nodes == 1 and self.on in ("local", "mpi") and self.options.get("hosts") is None
        return asked.free_port() if is_here else PORT


def answer_one(launch: Launch, *, explain: bool, dry_run: bool, as_json: bool) -> int:
    """Explains, writes or runs one training, and prints what came of it; the exit code.

    Raises:
        ConfigError: its batch or folder does not fit.
        FileNotFoundError: there is no data set.
        RuntimeError: hosts cannot take part.
    """
    job, target, options, config = launch
    asked.refuse_batch(job, options, config)
    if target.sees_data:
        asked.refuse_data(job)
        asked.refuse_folder(job)
    written = target.write(job, options)
    if explain:
        tree = plan(job, written, config.device)
        print_json(tree) if as_json else print_line(explanation(job, written, config.device))
        return SUCCESS
    place = Path(written.folder or job.out)
    folder = write_files(written, place, sys.executable)
    if dry_run:
        tell_written(job, folder, as_json=as_json)
        return SUCCESS
    # With --json stdout is for programs: the ranks' own last line goes where all else goes.
    code, line = run(written, place, stdout=sys.stderr.fileno() if as_json else None)
    tell_end(job, code, line, as_json=as_json)
    return code


def answer_several(
    launch: Launch, words: Sequence[str], *, results: bool, explain: bool, dry_run: bool, as_json: bool
) -> int:
    """The same of a sweep.

    Args:
        words: --sweep.

    Raises:
        ConfigError: the words are no grid, or a run's batch does not fit.
        FileNotFoundError: there is no data set.
    """
    job, target, options, _ = launch
    sweep = Sweep(job, words, target, options)
    for config in () if results else sweep.configs.values():
        asked.refuse_batch(job, options, config)
    if target.sees_data and not (explain or results):
        asked.refuse_data(job)
    return answer_sweep(sweep, results=results, explain=explain, dry_run=dry_run, as_json=as_json)


def tell_written(job: Job, folder: Path, *, as_json: bool) -> None:
    """The files of a dry run, and what starts them."""
    if as_json:
        print_json({"run": job.out, "files": sorted(str(path) for path in folder.iterdir())})
    else:
        start = shlex.join(["bash", f"{folder}/launch.sh"])
        print_line(f"{folder}: written; start it with: {start}")


def tell_end(job: Job, code: int, line: str, *, as_json: bool) -> None:
    """How a launch has ended."""
    if as_json:
        print_json({"run": job.out, "world_size": job.world_size, "exit_code": code, "message": line})
    elif code == SUCCESS:
        print_line(line)
    if code != SUCCESS:
        print(line, file=sys.stderr)
