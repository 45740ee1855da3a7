"""`viewmill sample-data`: a small labelled data set of real photographs, without a network."""

import itertools
from pathlib import Path
from typing import Annotated, Any

import typer
from viewmill.tools.console import print_json, print_line, progress_bar, written_aside

EXAMPLE = "viewmill sample-data photographs --size 96 --tiles 150"

README = """\
Tiles of {num_classes} photographs, made by viewmill sample-data with
--size {size} --tiles {tiles} --test-tiles {test_tiles} --variation {variation} --seed {seed}

train/CLASS/*.jpg   {tiles} tiles of each photograph
test/CLASS/*.jpg    {test_tiles} tiles of each photograph, from other regions: train and test share no pixel

A class is a photograph. A file is named after the square it was cut from: y and x of its upper left corner
and its side, in pixels of the photograph. Tiles are scaled to {size} x {size} pixels; with a variation above
0 they are mirrored at random and varied in contrast, brightness, saturation and colour cast, so that colours
alone do not tell the classes apart.
The same options give the same tiles.

The photographs come with scikit-image (astronaut, brick, camera, cat, coffee, coins, galaxies, grass, gravel,
moon, motorcycle, page, retina, rocket, text, tissue; sources and licences: the documentation of skimage.data)
and with scikit-learn (temple: danielbuechele, flower: vultilion, both from Flickr under CC BY 2.0).
"""


def write_sample_data(
    folder: Path, *, size: int, tiles: int, test_tiles: int, variation: float, seed: int
) -> dict[str, Any]:
    """Writes train/ and test/ class folders of JPEG tiles and README.txt; returns what was written.

    The folder appears when it is complete.

    Raises:
        ValueError: an option out of its range, or a folder that is not empty.
        RuntimeError: a photograph is not installed. OSError: it cannot be written; names the folder.
    """
    from viewmill.tools.photographs import PHOTOGRAPHS, SPLITS, cut_tiles, encode_jpeg

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not empty; give a new folder")
    options = {
        "size": size,
        "tiles": tiles,
        "test_tiles": test_tiles,
        "variation": variation,
        "seed": seed,
    }
    counts = dict(zip(SPLITS, (tiles, test_tiles), strict=True))
    done, total = 0, len(PHOTOGRAPHS) * (tiles + test_tiles)
    with written_aside(folder) as aside, progress_bar("tiles") as show:
        for name, split in itertools.product(PHOTOGRAPHS, SPLITS):
            (aside / split / name).mkdir(parents=True)
            cut = cut_tiles(name, split, counts[split], size=size, variation=variation, seed=seed)
            for number, (box, tile) in enumerate(cut):
                file = f"{number:04d}_y{box.top}_x{box.left}_s{box.side}.jpg"
                (aside / split / name / file).write_bytes(encode_jpeg(tile))
                done += 1
                show(done, total)
        (aside / "README.txt").write_text(
            README.format(num_classes=len(PHOTOGRAPHS), **options), encoding="utf-8"
        )
    return {
        "folder": str(folder),
        "classes": list(PHOTOGRAPHS),
        "train": len(PHOTOGRAPHS) * tiles,
        "test": len(PHOTOGRAPHS) * test_tiles,
        **options,
    }


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder for train/ and test/.")],
    size: Annotated[int, typer.Option(min=8, max=1024, help="Side of a tile, pixels.")] = 96,
    tiles: Annotated[int, typer.Option(min=1, help="Training tiles of each photograph.")] = 120,
    test_tiles: Annotated[int, typer.Option(min=1, help="Test tiles of each photograph.")] = 60,
    variation: Annotated[
        float, typer.Option(min=0, max=1, help="How much light and colours vary from tile to tile.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of where tiles are cut and how they vary.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Cut labelled train and test tiles out of photographs that the dependencies carry.

    Train and test tiles of a photograph come from regions that share no pixel.
    """
    written = write_sample_data(
        folder, size=size, tiles=tiles, test_tiles=test_tiles, variation=variation, seed=seed
    )
    if json:
        print_json(written)
    else:
        print_line(
            f"{folder}: {written['train']} training and {written['test']} test tiles of "
            f"{len(written['classes'])} photographs"
        )
