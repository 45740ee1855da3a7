"""`viewmill train`, and `python -m viewmill.tools.train` for torchrun, deepspeed, srun and mpirun."""

import functools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from viewmill.tools.console import FAULTS, new_app, print_json, print_line, refuse_url, run_app

if TYPE_CHECKING:
    from viewmill.engine.config import RunConfig

EXAMPLE = "viewmill train hydes_tiny --data DATASET --out RUN epochs=5 optimizer.lr=5e-4"

PATIENCE_S = 300.0  # that ranks wait for one whose host imports from a slow disk


def command(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A YAML file, or a name that viewmill recipes lists.")
    ],
    data: Annotated[
        str, typer.Option(metavar="DATASET", help="The data set, made by viewmill convert, or its URL.")
    ],
    out: Annotated[Path, typer.Option(metavar="RUN", help="The run's folder.")],
    on: Annotated[
        str | None,
        typer.Option(
            metavar="DATASET",
            help="Labelled images to judge the backbone by, every evaluation.every_epochs epochs.",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Settings on top of the recipe, the last one wins."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on from the run's newest checkpoint that verifies; under torchrun --max-restarts, begin "
            "where there is none yet.",
        ),
    ] = False,
    preflight: Annotated[
        bool,
        typer.Option(
            "--preflight",
            help="First look with all ranks whether their machines are fit, as viewmill preflight does; exit "
            "code 3 where a check fails.",
        ),
    ] = False,
    local_rank: Annotated[int | None, typer.Option("--local_rank", "--local-rank", hidden=True)] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the last metrics as JSON.")] = False,
) -> None:
    """Train a backbone; no method but the supervised baseline sees labels.

    Several ranks on one machine: torchrun --nproc_per_node 2 -m viewmill.tools.train RECIPE --data DATASET
    --out RUN, or deepspeed --module viewmill.tools.train with the same. SIGTERM, SIGUSR1 and Ctrl-C save
    the run and end it with exit code 85; --resume goes on.
    """
    from viewmill.engine.config import load_config
    from viewmill.shards.storage.mirror import read_info_at

    check_local_rank(local_rank)
    refuse_url(out, "train into a folder, then copy it to the store")
    config = load_config(recipe, overrides)
    for path in filter(None, (data, on)):
        read_info_at(path)  # a wrong path is told before the seconds that torch and deepspeed take to import
    from viewmill.engine.heap import keep_freed_memory
    from viewmill.engine.train import train
    from viewmill.engine.world import restarts_alone, start_world, stop_world, was_restarted

    may_begin = restarts_alone(os.environ)
    resume = resume or was_restarted(os.environ)
    world = start_world(config.device, fit_to_train(config, data, out) if preflight else None)
    if world.device.type == "cpu":
        keep_freed_memory()
    try:
        train(config, data, out, on=on, resume=resume, may_begin=may_begin, world=world)
    finally:
        stop_world(world)
    if world.rank == 0:
        announce(out, as_json=json)


def fit_to_train(config: "RunConfig", data: str, out: Path) -> Any:
    """The store by which the ranks have met, if the machines of all are fit.

    Raises:
        typer.Exit: a check fails; rank 0 has printed which, of which host, and its remedy.
    """
    from viewmill.tools.preflight.before_training import are_fit, store_of_training
    from viewmill.tools.preflight.meeting import open_meeting
    from viewmill.tools.preflight.options import Options, threads_of_rank
    from viewmill.tools.preflight.table import show

    threads = threads_of_rank(config, int(os.environ.get("OMP_NUM_THREADS") or 1))
    options = Options(
        data=data, out=out.absolute(), device=config.device, threads=threads, patience_s=PATIENCE_S
    )
    meeting = open_meeting(options.patience_s)
    # stdout is for the result.
    if not are_fit(options, meeting, functools.partial(show, stderr=True)):
        raise typer.Exit(FAULTS)
    return store_of_training(meeting)


def check_local_rank(given: int | None) -> None:
    """deepspeed's launcher passes --local_rank beside the variable LOCAL_RANK, which is the one that is read.

    Raises:
        ValueError: the two differ.
    """
    variable = os.environ.get("LOCAL_RANK")
    if given is not None and variable is not None and str(given) != variable:
        raise ValueError(f"--local_rank {given} contradicts LOCAL_RANK={variable}; leave --local_rank out")
    if given is not None:
        os.environ["LOCAL_RANK"] = str(given)


def announce(run: Path, *, as_json: bool) -> None:
    """The last line of metrics.jsonl, and where everything is."""
    from viewmill.engine.telemetry import read_lines

    lines = read_lines(run / "metrics.jsonl")
    last = lines[-1] if lines else {}
    if as_json:
        print_json({"run": str(run), **last})
        return
    loss = last.get("loss")
    at_end = f"step {last['step']}, loss {loss:.4f}" if loss is not None else "no finite loss was logged"
    print_line(f"{run}: {at_end}; backbone in export/, next: viewmill evaluate {run} --train ... --on ...")


app = new_app("Train a backbone.", example=EXAMPLE)
app.command(epilog=f"Example: {EXAMPLE}")(command)


if __name__ == "__main__":
    sys.exit(run_app(app))
