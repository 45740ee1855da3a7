"""`viewmill profile`: what holds a training up, and the change worth most."""

from pathlib import Path
from typing import Annotated

import typer
from viewmill.tools.console import print_json, print_line, refuse_url
from viewmill.tools.html_page import check_target

EXAMPLE = "viewmill profile hydes_tiny --data DATASET --html profile.html batch_size=64"


def command(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A YAML file, or a name that viewmill recipes lists.")
    ],
    data: Annotated[str, typer.Option(metavar="DATASET", help="The data set, or its URL.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Settings on top of the recipe, the last one wins."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Ceilings, waterfall and time line as a page.")
    ] = None,
    traces: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where a trace of each rank goes, for Perfetto or Chrome."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="The figures are medians over them.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Of a round, besides those that fill the queue.")] = 8,
    trials: Annotated[
        bool, typer.Option("--trials/--no-trials", help="Measure other settings too, to predict their gain.")
    ] = True,
    scratch: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="On the disk where runs are kept, seen by all ranks: for checkpoints, removed afterwards.",
            show_default="the system's for temporary files",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")] = False,
) -> None:
    """Measure the stages of a training alone and together, name the one that binds and what would help.

    Trains a few dozen steps and throws them away. Several ranks: torchrun --nproc_per_node 2 -m
    viewmill.tools.cli profile, and the same after it; rank 0 reports.
    """
    from viewmill.engine.config import load_config
    from viewmill.shards.storage.mirror import read_info_at

    config = load_config(recipe, overrides)
    for path in filter(None, (html, traces, scratch)):
        refuse_url(path, "name a folder of this machine")
    if scratch is not None and not scratch.is_dir():
        raise FileNotFoundError(f"{scratch}: there is no such folder; make it first")
    for target in filter(None, (html, traces)):
        check_target(target)
    read_info_at(data)  # a wrong path is told before torch and deepspeed are imported
    if traces is not None:
        traces.mkdir(exist_ok=True)
    from viewmill.engine.heap import keep_freed_memory
    from viewmill.engine.world import start_world, stop_world
    from viewmill.tools.bench_commands.figures import told
    from viewmill.tools.doctor.examination import examine

    world = start_world(config.device)
    if world.device.type == "cpu":
        keep_freed_memory()  # as viewmill train does
    try:
        with told() as tell:
            found = examine(
                config,
                data,
                world=world,
                rounds=rounds,
                steps=steps,
                trials=trials,
                scratch=scratch,
                traces=traces,
                tell=tell,
            )
    finally:
        stop_world(world)
    if world.rank:
        return
    from viewmill.tools.doctor.verdict import tables, verdict

    found = {"recipe": recipe, "verdict": verdict(found), **found}
    if html is not None:
        from viewmill.tools.doctor.page import render
        from viewmill.tools.html_page import write_page

        write_page(html, render(found))
    if json:
        print_json(found)
        return
    from rich.console import Console

    Console().print(tables(found))
    for line in found["verdict"]:
        print_line(line)
    for path in filter(None, (html, traces)):
        print_line(f"written: {path}")
