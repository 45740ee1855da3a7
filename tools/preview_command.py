"""`viewmill preview`: one image and the views that training makes of it."""

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from viewmill.tools.console import print_json, print_line, refuse_url

if TYPE_CHECKING:
    from viewmill.shards.manifest import Dataset

EXAMPLE = "viewmill preview DATASET cat/0001 --png cat.png --preset hydes@96 --epoch 3"


def command(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="The data set.")],
    key: Annotated[str, typer.Argument(metavar="KEY", help="Key of the sample, as in manifest.parquet.")],
    png: Annotated[Path, typer.Option(metavar="FILE", help="Where the picture goes.")] = Path("preview.png"),
    preset: Annotated[str, typer.Option(help="The views: NAME or NAME@SIZE.")] = "hydes@96",
    seed: Annotated[int, typer.Option(min=0, help="Of the views, as in a recipe.")] = 0,
    epoch: Annotated[int, typer.Option(min=0, help="Of the views: each epoch draws its own.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print id, class, size and file as JSON.")] = False,
) -> None:
    """Draw one image and its planned views, side by side, into a PNG."""
    import numpy as np
    from viewmill.pipelines.views import preset as view_spec
    from viewmill.shards.manifest import Dataset
    from viewmill.tools.contact_sheet import contact_sheet, save_picture

    refuse_url(dataset, "copy the data set to a folder, or draw from its source")
    spec = view_spec(preset)
    with Dataset.open(dataset) as opened:
        sample = id_of_key(opened, key)
        ids = np.array([sample], dtype=np.int64)
        save_picture(contact_sheet(opened, ids, spec, seed=seed, epoch=epoch), png)
        label, (width, height) = int(opened.labels(ids)[0]), opened.sizes(ids)[0].tolist()
        name = opened.classes[label] if label >= 0 else None
    if json:
        print_json(
            {"id": sample, "key": key, "class": name, "width": width, "height": height, "png": str(png)}
        )
    else:
        print_line(f"{png}: sample {sample}, class {name}, {width}x{height} pixels, {spec.num_views} views")


def id_of_key(dataset: "Dataset", key: str) -> int:
    """The sample with this key.

    Raises:
        ValueError: there is none; names the nearest keys. ShardError: the manifest is damaged.
    """
    import pyarrow.parquet as pq
    from viewmill.shards.manifest_table import damage_named

    path = dataset.path / "manifest.parquet"
    with damage_named(path, "the keys"):
        table = pq.read_table(path, columns=["id"], filters=[("key", "==", key)])
    if table.num_rows:
        return int(table.column("id")[0].as_py())
    first = dataset.keys(range(min(dataset.num_samples, 10_000)))
    near = difflib.get_close_matches(key, first, n=3, cutoff=0.0)
    raise ValueError(f"{dataset.path}: no sample has the key '{key}'; near it are: {', '.join(near)}")
