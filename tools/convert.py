"""`viewmill convert`: a folder of images becomes a data set."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from viewmill.tools.console import FAULTS, print_json, print_line, progress_bar, refuse_url
from viewmill.tools.convert_in_place import index, refuse_in_place
from viewmill.tools.convert_progress import Speed

if TYPE_CHECKING:
    from viewmill.shards.conversion.run import Progress
    from viewmill.shards.conversion.workers import Workers
    from viewmill.shards.convert import ConvertReport, PartReport

EXAMPLE = "viewmill convert photographs/train DATASET --workers 8 --max-quarantine 100"
MEBIBYTE = 1 << 20


def command(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Folder, table, tar or data set of images, or its URL.")
    ],
    dataset: Annotated[
        Path | None,
        typer.Argument(
            metavar="DATASET",
            help="A new folder for the data set; --in-place: may be left out.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Shards written at once.", show_default="one a core")
    ] = None,
    engine: Annotated[
        Literal["processes", "ray"], typer.Option(help="Processes of this machine, or a Ray cluster.")
    ] = "processes",
    ray_address: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Of the Ray cluster.", show_default="RAY_ADDRESS, or local"),
    ] = None,
    shuffle: Annotated[
        str | None,
        typer.Option(
            metavar="SEED",
            help="Seed of the global order; 'none' keeps the order of paths.",
            show_default="0",
        ),
    ] = None,
    check: Annotated[
        Literal["decode", "header"], typer.Option(help="Decode every image once, or trust its body.")
    ] = "decode",
    shard_size: Annotated[
        int | None, typer.Option(min=1, help="MiB of images in a shard.", show_default="by the whole size")
    ] = None,
    kind: Annotated[
        Literal["folder", "table", "tar", "parquet", "binary", "dataset"] | None,
        typer.Option("--from", help="What SOURCE is.", show_default="what it looks like"),
    ] = None,
    class_level: Annotated[
        int | None, typer.Option(help="Which folder below SOURCE is the class.", show_default="the innermost")
    ] = None,
    subset: Annotated[
        Literal["train", "test", "unlabeled"] | None, typer.Option(help="Of CIFAR's or STL-10's folder.")
    ] = None,
    root: Annotated[
        str | None,
        typer.Option(
            help="What a table's paths start from; a folder or a URL.", show_default="the table's folder"
        ),
    ] = None,
    path_column: Annotated[
        str | None, typer.Option(help="Of a table.", show_default="path, file, image, ...")
    ] = None,
    image_column: Annotated[
        str | None, typer.Option(help="Of parquet.", show_default="image, img, ...")
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(help="Of a table or parquet.", show_default="label, class, ...")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only so many images, the first of the order.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the images' bytes where the format can, the default.")
    ] = False,
    resize: Annotated[
        str | None,
        typer.Option(metavar="short=N|max=N", help="Make larger images smaller.", show_default="as they are"),
    ] = None,
    quality: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100,
            help="Of the JPEGs that --resize or --beton-images jpeg writes.",
            show_default="90",
        ),
    ] = None,
    format: Annotated[
        Literal["webdataset", "ffcv"], typer.Option(help="Shards are tars, or betons for FFCV's own loader.")
    ] = "webdataset",
    beton_images: Annotated[
        Literal["mixed", "jpeg", "raw"],
        typer.Option(help="In betons: keep JPEGs and all else raw; all else as JPEG, with loss; all raw."),
    ] = "mixed",
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Classes of a folder's or tar's images: a line each, or by name."),
    ] = None,
    label_map: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Classes under other names: a .csv, .tsv or .json of old and new."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(metavar="NAME=SHARE,...", help="Data sets DATASET/NAME, like train=0.9,val=0.1."),
    ] = None,
    quarantine_bytes: Annotated[
        bool, typer.Option("--quarantine-bytes", help="Keep what is refused in DATASET/quarantine-*.tar.")
    ] = False,
    part: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Write the shards of part I of N (0/N to N-1/N), for job arrays."),
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Publish what the parts have written.")] = False,
    in_place: Annotated[
        bool,
        typer.Option(
            "--in-place", help="Index WebDataset tars where they are; nothing is rewritten, nothing shuffled."
        ),
    ] = False,
    max_quarantine: Annotated[
        int | None, typer.Option(min=0, help="More unusable inputs than this end in exit code 3.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Convert images into shards, WebDataset's or FFCV's, with a manifest.

    SOURCE is a folder of images, a table of paths (.csv, .tsv, .jsonl), a tar or a folder of tars
    (WebDataset's, ImageNet's), parquet with images, CIFAR's or STL-10's binary files, or a data set.
    It may be a URL: s3://, gs://, http(s):// and others. DATASET is always a folder of this machine.

    With --in-place SOURCE is a tar or a folder of tars, which stay as they are: manifest and indexes are
    written beside them, or into DATASET beside links to them. Samples keep the tars' order.

    Killed at any moment, the same command goes on where it stopped. Inputs that are no usable image are
    quarantined with the reason, see: viewmill inspect.
    """
    from viewmill.shards.conversion.label_map import read_label_map
    from viewmill.shards.conversion.options import Options
    from viewmill.shards.conversion.parts import parse_part
    from viewmill.shards.conversion.splits import parse_splits
    from viewmill.shards.convert import convert_part, convert_splits, convert_with
    from viewmill.shards.sources.open import SourceOptions

    if keep and (resize is not None or beton_images != "mixed"):
        raise ValueError("--keep leaves images as they are: leave it out to --resize or re-encode them")
    if dataset is not None:
        refuse_url(dataset, "convert into a folder, then copy it to the store")
    if in_place:
        refuse_in_place(
            {
                "--shuffle": shuffle is not None,
                "--shard-size": shard_size is not None,
                "--from": kind not in (None, "tar"),
                "--class-level": class_level is not None,
                "--subset": subset is not None,
                "--root": root is not None,
                "--path-column": path_column is not None,
                "--image-column": image_column is not None,
                "--label-column": label_column is not None,
                "--limit": limit is not None,
                "--resize": resize is not None,
                "--quality": quality is not None,
                "--format": format != "webdataset",
                "--split": split is not None,
                "--quarantine-bytes": quarantine_bytes,
                "--part": part is not None,
                "--merge": merge,
            }
        )
        by = workers_of(engine, workers, ray_address)
        tell([index(source, dataset, by, check, labels, label_map, max_quarantine)], json, as_list=False)
        return
    if dataset is None:
        raise ValueError("Missing argument 'DATASET': a new folder for the data set; see --help")
    if quality is not None and resize is None and beton_images != "jpeg":
        raise ValueError("--quality is for the JPEGs of --resize or --beton-images jpeg: give one of them")
    if sum((split is not None, part is not None, merge)) > 1:
        raise ValueError("--split, --part and --merge exclude each other: give one of them")
    options = Options(
        shuffle_seed=seed_of(shuffle or "0"),
        check=check,
        shard_bytes=None if shard_size is None else shard_size * MEBIBYTE,
        limit=limit,
        resize=resize,
        quality=90 if quality is None else quality,
        label_map=() if label_map is None else read_label_map(label_map),
        quarantine_bytes=quarantine_bytes,
        format=format,
        beton_images=beton_images,
    )
    reading = SourceOptions(
        kind=kind,
        class_level=class_level,
        subset=subset,
        root=root,
        path_column=path_column,
        image_column=image_column,
        label_column=label_column,
        labels=None if labels is None else str(labels),
    )
    chosen_workers = workers_of(engine, workers, ray_address)
    chosen_part = None if part is None else parse_part(part)
    splits = None if split is None else parse_splits(split)
    speed = Speed()
    with progress_bar("convert") as show:

        def shown(now: "Progress") -> None:
            show(now.images, now.total_images, speed.in_words(now))

        if chosen_part is not None:
            written = convert_part(
                source, dataset, options, chosen_part, reading=reading, workers=chosen_workers, progress=shown
            )
            reports = []
        elif splits is not None:
            reports = convert_splits(
                source,
                dataset,
                options,
                splits,
                reading=reading,
                workers=chosen_workers,
                max_quarantine=max_quarantine,
                progress=shown,
            )
        else:
            reports = [
                convert_with(
                    source,
                    dataset,
                    options,
                    reading=reading,
                    workers=chosen_workers,
                    merge=merge,
                    max_quarantine=max_quarantine,
                    progress=shown,
                )
            ]
    if chosen_part is not None:
        tell_part(written, json)
    else:
        tell(reports, json, as_list=splits is not None)


def tell(reports: "list[ConvertReport]", json: bool, as_list: bool) -> None:
    """Prints what was made; exit code 3 where more was quarantined than is allowed."""
    trees = [{**asdict(report), "dataset": str(report.dataset)} for report in reports]
    if json:
        print_json(trees if as_list else trees[0])
    else:
        print_line("\n".join(in_words(report) for report in reports))
    if any(report.too_many_quarantined for report in reports):
        raise typer.Exit(FAULTS)


def tell_part(report: "PartReport", json: bool) -> None:
    """Prints how far the parts are together."""
    if json:
        print_json({**asdict(report), "dataset": str(report.dataset), "part": str(report.part)})
        return
    print_line(
        f"{report.dataset}: part {report.part} has its {report.shards} shards; of all parts "
        f"{report.written} of {report.total} are written. Then: the same command with --merge for --part"
    )


def workers_of(engine: str, count: int | None, ray_address: str | None) -> "Workers":
    """Who writes the shards.

    Raises:
        ValueError: an address of a cluster that is not asked for.
    """
    from viewmill.shards.conversion.workers import RayWorkers

    if engine == "ray":
        return RayWorkers(count, ray_address)
    if ray_address is not None:
        raise ValueError("--ray-address is for --engine ray: give both, or neither")
    return count or os.cpu_count() or 1


def seed_of(text: str) -> int | None:
    """The seed of --shuffle; None keeps the order of paths.

    Raises:
        ValueError: neither a whole number nor 'none'.
    """
    if text == "none":
        return None
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"--shuffle {text}: expected a whole number or 'none'")
    return int(text)


def in_words(report: "ConvertReport") -> str:
    """Two or three lines for people."""
    lines = [
        f"{report.dataset}: {report.samples} samples of {report.classes} classes in {report.shards} shards, "
        f"{report.bytes / 1e6:.1f} MB",
        f"quarantined: {report.quarantined} of {report.inputs} inputs",
    ]
    lines += [f"  {count:>8}  {reason}" for reason, count in report.reasons.items()]
    if report.too_many_quarantined:
        lines.append(
            f"more than --max-quarantine {report.max_quarantine}; the data set is whole all the same"
        )
    return "\n".join(lines)
