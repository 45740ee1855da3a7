"""`viewmill pictures`: what a backbone sees, as PNGs and a page."""

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from viewmill.tools.console import print_json, print_line, progress_bar

if TYPE_CHECKING:
    import numpy as np
    from viewmill.shards.manifest import Dataset

EXAMPLE = "viewmill pictures RUN --on DATASET --pictures neighbours,centroids"
DEFAULT_IMAGES = 8


def command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Folder of a run, a checkpoint or an export; timm:NAME; torchvision:NAME or NAME=FILE.",
        ),
    ],
    on: Annotated[str, typer.Option(metavar="DATASET", help="The images that are looked at.")],
    train: Annotated[
        str | None,
        typer.Option(metavar="DATASET", help="Where neighbours are looked for, and a probe learns from."),
    ] = None,
    pictures: Annotated[
        str | None,
        typer.Option(
            help="With commas between: neighbours, centroids, components (PCA of hypercolumns), attention "
            "(of a ViT), cam (SmoothGrad-CAM++ of a CNN), joint and exemplars (of imsvd), map (UMAP).",
            show_default="all that SOURCE has",
        ),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="Rows of a sheet, spread over the images.", show_default="8"),
    ] = None,
    keys: Annotated[
        str | None, typer.Option(metavar="KEYS", help="The images of the sheets: keys, with commas between.")
    ] = None,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Of components: once more for the foreground alone.")
    ] = False,
    score: Annotated[
        Literal["own", "class"],
        typer.Option(
            help="Of cam: what sets an image apart from the mean, or a linear probe's logit of its class."
        ),
    ] = "own",
    order: Annotated[
        Literal["auto", "wordnet", "similarity"],
        typer.Option(help="Of centroids: the clusters of the classes' meanings, or their own."),
    ] = "auto",
    wordnet: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Zip or folder of WordNet 3.0, as evaluate's.")
    ] = None,
    synsets: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML of class names and meanings, as evaluate's.")
    ] = None,
    diagnosis: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Of joint and exemplars: diagnosis.json of these images.",
            show_default="made",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where pictures/ goes.", show_default="the run's folder"),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=8, help="Side of the views, pixels.", show_default="the run's")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the map.")] = 0,
    executor: Annotated[str, typer.Option(help="Who renders the views: auto, dali or reference.")] = "auto",
    num_threads: Annotated[int, typer.Option(min=1, help="Of the executor.")] = 2,
    batch_size: Annotated[int, typer.Option(min=1, help="Images of a forward.")] = 64,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where the backbone runs.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print the files as JSON.")] = False,
) -> None:
    """Draw what a backbone sees: PNGs for light and dark pages, an offline page, a part of `viewmill report`.

    Features are computed once, and are those that `viewmill evaluate` leaves in its cache.
    engine/evaluation/README.md says what every picture shows.
    """
    from viewmill.shards.storage.mirror import read_info_at
    from viewmill.tools.pictures.kinds import Wishes, draw_all, parse_kinds

    for path in (on, *([train] if train else [])):
        read_info_at(path)  # a wrong path is told before torch is imported
    kinds = parse_kinds(pictures)
    started = time.monotonic()
    from contextlib import ExitStack

    from viewmill.engine.evaluation.backbone_source import load_source
    from viewmill.engine.evaluation.evaluate import output_folder
    from viewmill.engine.evaluation.pictures.scene import Scene
    from viewmill.engine.passes.reading import Reading
    from viewmill.engine.world import start_world, stop_world
    from viewmill.shards.manifest import Dataset
    from viewmill.tools.pictures.album import FOLDER, write_album
    from viewmill.tools.pictures.captions import Captions
    from viewmill.tools.pictures.of_classes import words_of
    from viewmill.tools.pictures.page import write_pictures_page

    world = start_world(device)
    try:
        with ExitStack() as stack:
            dataset = stack.enter_context(Dataset.open(on))
            bank = stack.enter_context(Dataset.open(train)) if train else None
            show = stack.enter_context(progress_bar("pictures"))
            found = load_source(source, world)
            folder = output_folder(found, out).parent
            reading = Reading(
                world, executor, num_threads, batch_size, lambda what, done, total: show(done, total, what)
            )
            cache = folder / "evaluation" / "cache"
            names = words_of(dataset.classes, wordnet)
            scene = Scene(found, dataset, bank, reading, image_size=image_size, cache=cache, classes=names)
            chosen = chosen_ids(dataset, keys, images)
            options: dict[str, object] = {
                "--train": train and Path(train).name,
                "--pictures": kinds and ",".join(kinds),
                "--images": images,
                "--keys": keys,
                "--foreground": foreground,
                "--score": None if score == "own" else score,
                "--order": None if order == "auto" else order,
                "--wordnet": wordnet and wordnet.absolute().name,
                "--synsets": synsets and synsets.absolute().name,
                "--diagnosis": diagnosis and diagnosis.name,
                "--image-size": image_size,
                "--seed": seed or None,
            }
            captions = Captions.of_scene(scene, command_line(source, dataset, options))
            wishes = Wishes(chosen, foreground, score, order, wordnet, synsets, diagnosis, seed)
            plates, left_out = draw_all(scene, wishes, captions, kinds)
            written = write_album(plates, folder / FOLDER)
            name = folder.absolute().name
            page = write_pictures_page(folder / FOLDER, name, captions.checkpoint, captions.command, left_out)
    finally:
        stop_world(world)
    seconds = time.monotonic() - started
    if json:
        files = [str(path) for path in [*written, page]]
        print_json({"pictures": [plate.name for plate in plates], "files": files, "left_out": left_out})
        return
    for reason in left_out:
        print_line(f"no picture {reason}")
    print_line(f"{page}: {len(plates)} pictures, {seconds:.0f} s; open it in a browser")


def command_line(source: str, dataset: "Dataset", options: dict[str, object]) -> str:
    """The command for captions: names of folders instead of paths, and the options that were given."""
    name = source if source.startswith(("timm:", "torchvision:")) else Path(source).absolute().name
    words = ["viewmill", "pictures", name, "--on", dataset.path.absolute().name]
    for option, value in options.items():
        given = [option] if value is True else [option, str(value)]
        words += [] if value is None or value is False else given
    return shlex.join(words)


def chosen_ids(dataset: "Dataset", keys: str | None, images: int | None) -> "np.ndarray":
    """The samples with these keys, or so many that are evenly spread over the data set.

    Raises:
        ValueError: a key that is not there, or both are given.
    """
    import numpy as np
    from viewmill.tools.contact_sheet import spread_ids
    from viewmill.tools.preview_command import id_of_key

    if keys is None:
        return spread_ids(dataset.num_samples, images or DEFAULT_IMAGES)
    if images is not None:
        raise ValueError("--images and --keys both say which images are drawn; leave one of them out")
    return np.array([id_of_key(dataset, key.strip()) for key in keys.split(",")], dtype=np.int64)
