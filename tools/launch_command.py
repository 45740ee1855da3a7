"""`viewmill launch`: one training on this machine, on hosts or on a cluster, explained, written or run."""

from pathlib import Path
from typing import Annotated, Any

import typer
from viewmill.tools.console import SUCCESS, refuse_url

EXAMPLE = "viewmill launch hydes_tiny --data DATASET --out RUN --on ssh --hosts hosts --explain"


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
        typer.Option(help="Where ranks meet, on the first host.", show_default="29500, or a free one here"),
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
    from viewmill.tools.launch.asked import target_options
    from viewmill.tools.launch.request import Request, answer_one, answer_several

    refuse_url(out, "train into a folder, then copy it to the store")
    flags: dict[str, Any] = {"hosts": hosts, "launcher": launcher, "gpus": gpus, "cpus": cpus, "mem": mem}
    flags |= {"time": time, "partition": partition, "account": account, "constraint": constraint}
    flags |= {"sbatch": sbatch, "setup": setup, "image": image, "volumes": volume, "namespace": namespace}
    launch = Request(
        recipe,
        data,
        out,
        on,
        tuple(overrides or ()),
        target_options(option or (), **flags),
        nodes=nodes,
        ranks_per_node=ranks_per_node,
        env=tuple(env or ()),
        python=python,
        port=port,
        judge=judge,
        resume=resume,
        max_restarts=max_restarts,
        preflight=preflight,
    ).launch()
    how = {"explain": explain, "dry_run": dry_run, "as_json": json}
    if sweep or results:
        code = answer_several(launch, sweep or (), results=results, **how)
    else:
        code = answer_one(launch, **how)
    if code != SUCCESS:
        raise typer.Exit(code)
