"""`viewmill launch`: one training on this machine, on hosts or on a cluster, explained, written or run."""

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from viewmill.tools.console import SUCCESS, print_json, print_line, refuse_url

if TYPE_CHECKING:
    from viewmill.tools.launch.job import Job

EXAMPLE = "viewmill launch hydes_tiny --data DATASET --out RUN --on ssh --hosts hosts --explain"
PORT = 29500


def command(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A YAML file, or a name that viewmill recipes lists.")
    ],
    data: Annotated[
        str, typer.Option(metavar="DATASET", help="The data set, at the same path on every host, or its URL.")
    ],
    out: Annotated[Path, typer.Option(metavar="RUN", help="The run's folder, on a disk that all hosts see.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Settings on top of the recipe, the last one wins."),
    ] = None,
    on: Annotated[str, typer.Option(metavar="TARGET", help="local, ssh, mpi, slurm or k8s.")] = "local",
    nodes: Annotated[
        int | None, typer.Option(min=1, help="Hosts.", show_default="those of --hosts, else 1")
    ] = None,
    ranks_per_node: Annotated[
        int | None, typer.Option(min=1, help="Ranks of each.", show_default="its slots, or GPUs, or 1")
    ] = None,
    hosts: Annotated[
        str | None, typer.Option(metavar="FILE", help="ssh, mpi: a line 'NAME slots=N' for each host.")
    ] = None,
    launcher: Annotated[
        str | None, typer.Option(help="ssh: torchrun or deepspeed.", show_default="torchrun")
    ] = None,
    gpus: Annotated[
        str | None, typer.Option(metavar="N", help="slurm, k8s: of a node; slurm: TYPE:N too.")
    ] = None,
    cpus: Annotated[str | None, typer.Option(metavar="N", help="slurm, k8s: of a node.")] = None,
    mem: Annotated[str | None, typer.Option(metavar="SIZE", help="slurm, k8s: of a node.")] = None,
    time: Annotated[
        str | None, typer.Option(help="slurm: limit, after which it is requeued and goes on.")
    ] = None,
    partition: Annotated[str | None, typer.Option(help="slurm.")] = None,
    account: Annotated[str | None, typer.Option(help="slurm.")] = None,
    constraint: Annotated[str | None, typer.Option(help="slurm: features that nodes must have.")] = None,
    sbatch: Annotated[
        list[str] | None,
        typer.Option(metavar="OPTION", help="slurm: another option of sbatch, --sbatch=--exclusive."),
    ] = None,
    setup: Annotated[
        list[str] | None, typer.Option(metavar="LINE", help="slurm: shell before all, 'module load cuda'.")
    ] = None,
    image: Annotated[str | None, typer.Option(help="k8s: of the containers; it has viewmill.")] = None,
    volume: Annotated[
        list[str] | None, typer.Option(metavar="CLAIM:/PATH[:ro]", help="k8s: a volume for data and runs.")
    ] = None,
    namespace: Annotated[str | None, typer.Option(help="k8s.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Another option of the target, see tools/launch/README.md."),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=VALUE]", help="A variable for every rank; without a value, as it is here."
        ),
    ] = None,
    python: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Every host's interpreter.", show_default="this one; k8s: python"),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(help="Where ranks meet, on the first host.", show_default=f"{PORT}, or a free one here"),
    ] = None,
    judge: Annotated[
        str | None, typer.Option(metavar="DATASET", help="Labelled images, as train --on takes them.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")] = False,
    max_restarts: Annotated[
        int, typer.Option(min=0, help="Times that torchrun starts all ranks again after a failure.")
    ] = 0,
    preflight: Annotated[
        bool | None,
        typer.Option(
            "--preflight/--no-preflight",
            help="Every start looks first whether the machines are fit, for a minute at most.",
            show_default="with several nodes",
        ),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=V,V",
            help="Train every combination of these values, each in RUN/SETTINGS; several times.",
        ),
    ] = None,
    results: Annotated[
        bool,
        typer.Option(
            "--results", help="Of a sweep: print its table, write results.csv and .json; run nothing."
        ),
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print files, commands, variables and ranks; do nothing.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write the files into RUN/launch, and run nothing.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the plan, or how it ended, as JSON.")] = False,
) -> None:
    """Train on one machine or many, until all ranks have ended; none is left behind when one fails.

    The same recipe, data and batch on every target. SIGTERM, SIGUSR1 and Ctrl-C save the run on all hosts and
    end it with exit code 85; a second one ends it at once. --resume goes on, on other hosts too.
    """
    from viewmill.engine.config import load_config
    from viewmill.tools.launch import asked
    from viewmill.tools.launch.explained import explanation, plan
    from viewmill.tools.launch.job import Job
    from viewmill.tools.launch.targets import options_of, target_named

    refuse_url(out, "train into a folder, then copy it to the store")
    target = target_named(on)
    flags: dict[str, Any] = {
        "hosts": hosts,
        "launcher": launcher,
        "gpus": gpus,
        "cpus": cpus,
        "mem": mem,
        "time": time,
    }
    flags |= {"partition": partition, "account": account, "constraint": constraint, "sbatch": sbatch}
    flags |= {"setup": setup, "image": image, "volumes": volume, "namespace": namespace}
    given = asked.target_options(option or (), **flags)
    options = options_of(on, given)
    config = load_config(recipe, overrides)
    size = asked.size_of_job(options, nodes, ranks_per_node, config.device)
    job = Job(
        recipe=asked.path_of_recipe(recipe),
        data=asked.absolute(data),
        out=str(out.absolute()),
        overrides=tuple(overrides or ()),
        nodes=size[0],
        ranks_per_node=size[1],
        python=python or (sys.executable if target.sees_data else "python"),
        port=port
        or (PORT if size[0] > 1 or on not in ("local", "mpi") or hosts is not None else asked.free_port()),
        env=asked.environment_of_ranks(env or (), os.environ, asked.forwarded_to(target)),
        resume=resume,
        max_restarts=max_restarts,
        preflight=size[0] > 1 if preflight is None else preflight,
        judged_on=None if judge is None else asked.absolute(judge),
    )
    asked.refuse_devices(job.env, job.nodes)
    if sweep or results:
        from viewmill.tools.launch.sweep_launch import Sweep, answer

        swept = Sweep(job, sweep or (), target, options)
        for each in () if results else swept.configs.values():
            asked.refuse_batch(job, options, each)
        if target.sees_data and not (explain or results):
            asked.refuse_data(job)
        code = answer(swept, results=results, explain=explain, dry_run=dry_run, as_json=json)
        if code != SUCCESS:
            raise typer.Exit(code)
        return
    asked.refuse_batch(job, options, config)
    if target.sees_data:
        asked.refuse_data(job)
        asked.refuse_folder(job)
    written = target.write(job, options)
    if explain:
        shown = plan(job, written, config.device)
        print_json(shown) if json else print_line(explanation(job, written, config.device))
        return
    from viewmill.tools.launch.start import run, write_files

    place = Path(written.folder or job.out)
    folder = write_files(written, place, sys.executable)
    if dry_run:
        told = {"run": job.out, "files": sorted(str(path) for path in folder.iterdir())}
        start = shlex.join(["bash", f"{folder}/launch.sh"])
        print_json(told) if json else print_line(f"{folder}: written; start it with: {start}")
        return
    # With --json stdout is for programs: the ranks' own last line goes where all else goes.
    code, line = run(written, place, stdout=sys.stderr.fileno() if json else None)
    finish(job, code, line, as_json=json)


def finish(job: "Job", code: int, line: str, *, as_json: bool) -> None:
    """Passes on how a launch has ended."""
    if as_json:
        print_json({"run": job.out, "world_size": job.world_size, "exit_code": code, "message": line})
    elif code == SUCCESS:
        print_line(line)
    if code != SUCCESS:
        print(line, file=sys.stderr)
        raise typer.Exit(code)
