"""`viewmill replay`: the batch that a rank was given at a step, as a table, tensors and a picture."""

import csv
import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from viewmill.tools.console import print_json, print_line

if TYPE_CHECKING:
    from viewmill.engine.replay import Replayed
    from viewmill.shards.manifest import Dataset

EXAMPLE = "viewmill replay RUN --step 500 --rank 3 --data DATASET"


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder.")],
    step: Annotated[int, typer.Option(min=1, help="The step, as in metrics.jsonl and error messages.")],
    data: Annotated[str, typer.Option(metavar="DATASET", help="The data set of the run, or its URL.")],
    rank: Annotated[int, typer.Option(min=0, help="The rank whose part of the batch it is.")] = 0,
    executor: Annotated[
        str | None, typer.Option(help="Who makes the views; default: the run's own, for the same bits.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the files go; default: a folder in RUN/replay.")
    ] = None,
    images: Annotated[int, typer.Option(min=0, help="Images in the picture, at most.")] = 16,
    json: Annotated[bool, typer.Option("--json", help="Print samples.json on stdout.")] = False,
) -> None:
    """Make the batch of a step again: samples.json, samples.csv, views.safetensors and sheet.png.

    Samples, crops and colours are those that the run was given. With the run's executor and kind of device
    the views are the same bits; another executor's pixels differ within its tolerance.
    """
    from viewmill.engine.replay import replay
    from viewmill.shards.manifest import Dataset

    with Dataset.open(data) as dataset:
        replayed = replay(run, dataset, step, rank, executor=executor)
        told = description(replayed, dataset, step=step, rank=rank)
        folder = out or run / "replay" / f"step_{step:08d}_rank_{rank}_{replayed.executor}"
        folder.mkdir(parents=True, exist_ok=True)
        write_files(folder, replayed, dataset, told, images=images)
    if json:
        print_json({**told, "out": str(folder)})
        return
    trained = replayed.session
    print_line(
        f"{folder}: {len(told['samples'])} samples of step {step}, rank {rank} of {trained.world_size}, by "
        f"{replayed.executor} on {replayed.device}; "
        + (
            "the same bits as in the run"
            if replayed.is_exact
            else f"the run used {trained.executor} on {trained.device}, so pixels differ within the tolerance"
        )
    )


def description(replayed: "Replayed", dataset: "Dataset", *, step: int, rank: int) -> dict[str, Any]:
    """All but the pixels, as JSON."""
    first = replayed.batches[0]
    samples = [
        sample
        for batch, start in zip(replayed.batches, replayed.first_positions, strict=True)
        for sample in samples_of(replayed, dataset, batch.ids.tolist(), batch.micro, start)
    ]
    return {
        "step": step,
        "rank": rank,
        "world_size": replayed.session.world_size,
        "epoch": first.epoch,
        "micro_batches": len(replayed.batches),
        "views": list(replayed.spec.sizes),
        "data_set_hash": dataset.data_set_hash,
        "executor": replayed.executor,
        "device": replayed.device,
        "trained_with": {"executor": replayed.session.executor, "device": replayed.session.device},
        "is_exact": replayed.is_exact,
        "samples": samples,
    }


def samples_of(
    replayed: "Replayed", dataset: "Dataset", ids: list[int], micro: int, start: int
) -> list[dict[str, Any]]:
    """A line for each sample of a micro-batch; `replaces` and `reason` tell of a substitute, else None."""
    lines = []
    columns = (ids, dataset.keys(ids), dataset.labels(ids).tolist())
    for row, (sample, key, label) in enumerate(zip(*columns, strict=True)):
        tried = replayed.substitutions.get(start + row, [])
        lines.append(
            {
                "micro": micro,
                "row": row,
                "position": start + row,
                "id": sample,
                "key": key,
                "label": label,
                "class": dataset.classes[label] if label >= 0 else None,
                "replaces": tried[0].id if tried else None,
                "reason": tried[0].reason if tried else None,
            }
        )
    return lines


def write_files(
    folder: Path, replayed: "Replayed", dataset: "Dataset", told: dict[str, Any], *, images: int
) -> None:
    """samples.json, samples.csv, views.safetensors ("micro0.view0", ...) and, for some images, sheet.png."""
    import numpy as np
    import torch
    from safetensors.torch import save_file
    from viewmill.tools.contact_sheet import save_picture, sheet_of_views

    text = json_module.dumps(told, indent=2, ensure_ascii=False)
    (folder / "samples.json").write_text(text + "\n", encoding="utf-8")
    with (folder / "samples.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, fieldnames=list(told["samples"][0]))
        table.writeheader()
        table.writerows(told["samples"])
    views = [[view.cpu().contiguous() for view in batch.views] for batch in replayed.batches]
    save_file(
        {
            f"micro{batch.micro}.view{number}": view
            for batch, made in zip(replayed.batches, views, strict=True)
            for number, view in enumerate(made)
        },
        folder / "views.safetensors",
    )
    if images:
        ids = np.concatenate([batch.ids for batch in replayed.batches])[:images]
        shown = [torch.cat(column)[:images].numpy() for column in zip(*views, strict=True)]
        save_picture(sheet_of_views(dataset.read(ids), shown, replayed.spec), folder / "sheet.png")
