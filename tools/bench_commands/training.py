"""`viewmill bench` of a training as a whole: train, memory, doctor."""

from pathlib import Path
from typing import Annotated

import typer
from viewmill.tools.bench_commands.figures import check_folder, keep, told

TRAIN_EXAMPLE = "viewmill bench train --data DATASET --out train.json"


def train(
    data: Annotated[str, typer.Option(metavar="DATASET", help="A data set of JPEGs at original size.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the figures go, as JSON.")] = Path(
        "bench-train.json"
    ),
    method: Annotated[str, typer.Option(help="hydes, imsvd or distill.")] = "hydes",
    backbone: Annotated[str, typer.Option(help="By timm's name.")] = "resnet18",
    preset: Annotated[str, typer.Option(help="Views: NAME or NAME@SIZE.")] = "hydes",
    batch_size: Annotated[int, typer.Option(min=2, help="Images of a step.")] = 8,
    steps: Annotated[int, typer.Option(min=1, help="Of a round, with one checkpoint.")] = 100,
    block: Annotated[int, typer.Option(min=1, help="Steps before it is the other side's turn.")] = 20,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; the figures are medians over them.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="Of torch and of the executor.")] = 2,
    override: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the run; several times."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure what a run takes beside the bare forward, backward and update on the same batches, on the CPU.

    A real run and bare steps take turns in one process. The overhead is given with the wait for data and
    without it, and in processor time with the making of the views and without it.
    """
    from viewmill.engine.heap import keep_freed_memory
    from viewmill.tools.bench.train import run, table

    check_folder(out)
    keep_freed_memory()  # as viewmill train does, for both sides
    with told() as tell:
        figures = run(
            data,
            method=method,
            backbone=backbone,
            view_preset=preset,
            batch_size=batch_size,
            steps=steps,
            block=block,
            repeats=repeats,
            threads=threads,
            overrides=override or (),
            progress=tell,
        )
    keep(figures, out, table, json)


MEMORY_EXAMPLE = "viewmill bench memory --out memory.json"


def memory(
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the figures go, as JSON.")] = Path(
        "bench-memory.json"
    ),
    backbone: Annotated[str, typer.Option(help="By timm's name; one without BatchNorm.")] = (
        "vit_small_patch16_224"
    ),
    size: Annotated[
        list[int] | None, typer.Option(help="Side of each view; several times.", show_default="224, 224")
    ] = None,
    micro_batch: Annotated[int, typer.Option(min=1, help="Images of a rank's forward.")] = 2,
    stage: Annotated[
        list[int] | None, typer.Option(help="Of ZeRO; several times.", show_default="0, 1, 2, 3")
    ] = None,
    world_size: Annotated[
        list[int] | None, typer.Option(help="Ranks; several times.", show_default="1, 2, 4")
    ] = None,
    accumulation: Annotated[
        list[int] | None,
        typer.Option(
            help="Micro-batches a step, at stage 0 on one rank; several times.", show_default="1, 4, 16"
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure the peak memory of a rank at each ZeRO stage and world size, beside a formula, on the CPU.

    And that of many micro-batches a step: gradient caching keeps the activations of one.
    """
    from viewmill.tools.bench.training_memory import ACCUMULATIONS, STAGES, WORLD_SIZES, run, table

    check_folder(out)
    with told() as tell:
        figures = run(
            backbone=backbone,
            sizes=size or (224, 224),
            micro_batch=micro_batch,
            stages=stage or STAGES,
            world_sizes=world_size or WORLD_SIZES,
            accumulations=accumulation or ACCUMULATIONS,
            progress=tell,
        )
    keep(figures, out, table, json)


PLAN_EXAMPLE = "viewmill bench plan --data DATASET --out plan.json"


def plan(
    data: Annotated[str, typer.Option(metavar="DATASET", help="Images to train on.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the figures go, as JSON.")] = Path(
        "bench-plan.json"
    ),
    recipe: Annotated[str, typer.Option(help="What is trained, for a few steps.")] = "hydes_imagenette",
    steps: Annotated[int, typer.Option(min=1, help="Of each training, that count.")] = 6,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; the figures are medians over them.")] = 3,
    override: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the run; several times."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Compare predictions of viewmill plan with trainings on one rank and on two, and with published runs.

    The constants are fitted to trainings on one rank at other resolutions and batches; to the published runs
    nothing is fitted.
    """
    from viewmill.tools.bench.plan import run, tables

    check_folder(out)
    with told() as tell:
        figures = run(
            data, recipe=recipe, overrides=override or (), steps=steps, repeats=repeats, progress=tell
        )
    from rich.console import Group

    keep(figures, out, lambda result: Group(*tables(result)), json)


DOCTOR_EXAMPLE = "viewmill bench doctor --data DATASET --out doctor.json"


def doctor(
    data: Annotated[str, typer.Option(metavar="DATASET", help="A data set of JPEGs at original size.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the figures go, as JSON.")] = Path(
        "bench-doctor.json"
    ),
    steps: Annotated[int, typer.Option(min=1, help="Of each run that is measured.")] = 40,
    repeats: Annotated[int, typer.Option(min=1, help="Turns; a gain is the median over them.")] = 5,
    spare_turns: Annotated[
        int, typer.Option(min=0, help="More turns than count: those with least other work on the machine do.")
    ] = 0,
    rounds: Annotated[int, typer.Option(min=1, help="Of a profile.")] = 5,
    profile_steps: Annotated[int, typer.Option(min=1, help="Of a round of a profile.")] = 12,
    override: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of every run; several times."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure what threads, smaller images and a larger batch bring, beside what viewmill profile predicts.

    A run as it is and with each change trains in turns.
    """
    from viewmill.engine.heap import keep_freed_memory
    from viewmill.tools.bench.doctor import Sizes, run, tables

    check_folder(out)
    keep_freed_memory()  # as viewmill train does
    sizes = Sizes(steps, repeats, spare_turns, rounds, profile_steps)
    with told() as tell:
        figures = run(data, sizes, overrides=override or (), progress=tell)
    keep(figures, out, tables, json)
