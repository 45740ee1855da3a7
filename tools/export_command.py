"""`viewmill export`: a backbone in the names and folders of other libraries, and in a detector."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from viewmill.tools.console import print_json, print_line

EXAMPLE = "viewmill export RUN --to hf --out EXPORTED"


def command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Folder of a run, a checkpoint or an export; timm:NAME; torchvision:NAME or NAME=FILE.",
        ),
    ],
    to: Annotated[Literal["timm", "torchvision", "detectron2", "hf"], typer.Option(help="Whose names.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A new folder.", show_default="RUN/export/TO, TO-detection"),
    ] = None,
    task: Annotated[
        Literal["backbone", "detection"],
        typer.Option(help="detection: Mask R-CNN (C4) on it too, of detectron2 or torchvision."),
    ] = "backbone",
    norm: Annotated[
        Literal["SyncBN", "BN", "FrozenBN"] | None,
        typer.Option(help="Batch normalisation of the detector.", show_default="SyncBN"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write a backbone for timm, torchvision, detectron2 or the Hugging Face hub, and check it by reading it
    back.

    OUT gets safetensors in that library's names, its configuration, and a README.md with the lines that
    load it. ViTs go to timm and hf.
    """
    if norm is not None and task != "detection":
        raise ValueError("--norm is of a detector; give --task detection too")
    import torch
    from viewmill.engine.evaluation.backbone_source import load_source
    from viewmill.engine.exports.detection import DetectionConfig
    from viewmill.engine.exports.exporting import export_to
    from viewmill.engine.world import World

    found = load_source(source, World(0, 1, 0, torch.device("cpu")))
    if out is None and found.folder is None:
        raise ValueError(f"{found.name} belongs to no run; say where the export goes with --out DIR")
    detector = DetectionConfig(norm=norm or "SyncBN") if task == "detection" else None
    name = to if detector is None else f"{to}-{task}"
    target = out if out is not None else Path(found.folder or "") / "export" / name
    made = export_to(found, to, target, detector=detector)
    if json:
        told = {"out": str(made.folder), "to": to, "task": task, "files": made.files}
        print_json({**told, "source": found.name, "step": found.step, "difference": made.difference})
    else:
        print_line(
            f"{made.folder}: {', '.join(made.files)}; read back, features differ by {made.difference:.1e} of "
            f"the largest; next: {made.folder}/README.md"
        )
