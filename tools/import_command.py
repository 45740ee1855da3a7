"""`viewmill import-deepspeed`: the backbone out of a checkpoint that DeepSpeed itself wrote."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from viewmill.tools.console import print_json, print_line

EXAMPLE = "viewmill import-deepspeed CHECKPOINTS --backbone resnet50 --out IMPORTED --trust"


def command(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="What engine.save_checkpoint wrote: it holds `latest`, or is one."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder.")],
    backbone: Annotated[str, typer.Option(help="Which it is, by timm's name.")],
    trust: Annotated[
        bool, typer.Option("--trust", help="The files are from a source that you trust to run code here.")
    ] = False,
    prefix: Annotated[
        str | None,
        typer.Option(help="What its names begin with, as 'student.backbone.'.", show_default="is found"),
    ] = None,
    stem: Annotated[Literal["imagenet", "small"], typer.Option(help="Of a ResNet.")] = "imagenet",
    image_size: Annotated[int, typer.Option(min=8, help="Side of the images that it was trained on.")] = 224,
    json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Take the weights out of a checkpoint of DeepSpeed (ZeRO 0 to 3): to evaluate, or to begin a run with.

    OUT gets backbone.safetensors (float32, timm's names) and config.json, as a run's export/ has them, and
    weights.safetensors where the checkpoint is of a Viewmill student. Next: viewmill evaluate OUT ..., or
    viewmill train ... model.weights=OUT/backbone.safetensors. The files are pickles, and loading one runs
    what its author has put in it: without --trust nothing is loaded.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give the one that engine.save_checkpoint wrote")
    import dataclasses

    import torch
    from viewmill.engine.deepspeed_import import import_deepspeed_checkpoint, told
    from viewmill.engine.world import World

    imported = import_deepspeed_checkpoint(
        folder,
        out,
        trust=trust,
        backbone=backbone,
        stem=stem,
        image_size=image_size,
        prefix=prefix,
        world=World(0, 1, 0, torch.device("cpu")),
    )
    if json:
        print_json({"out": str(out), **dataclasses.asdict(imported)})
    else:
        print_line(told(imported, out))
