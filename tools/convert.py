"""`viewmill convert`: a folder of images becomes a data set."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from viewmill.tools.console import FAULTS, print_json, print_line, progress_bar
from viewmill.tools.convert_progress import Speed

if TYPE_CHECKING:
    from viewmill.shards.conversion.run import Progress
    from viewmill.shards.convert import ConvertReport, PartReport

EXAMPLE = "viewmill convert photographs/train DATASET --workers 8 --max-quarantine 100"
MEBIBYTE = 1 << 20


def command(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Folder, table, tar or data set of images.")
    ],
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="A new folder for the data set.")],
    workers: Annotated[
        int, typer.Option(min=1, help="Processes.", show_default="one a core")
    ] = os.cpu_count() or 1,
    shuffle: Annotated[
        str, typer.Option(metavar="SEED", help="Seed of the global order; 'none' keeps the order of paths.")
    ] = "0",
    check: Annotated[
        Literal["decode", "header"], typer.Option(help="Decode every image once, or trust its body.")
    ] = "decode",
    shard_mb: Annotated[
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
        Path | None,
        typer.Option(help="What a table's paths start from.", show_default="the table's folder"),
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
    resize: Annotated[
        str | None,
        typer.Option(metavar="short=N|max=N", help="Make larger images smaller.", show_default="as they are"),
    ] = None,
    quality: Annotated[
        int, typer.Option(min=1, max=100, help="Of the JPEGs that --resize or --beton-images jpeg writes.")
    ] = 90,
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
    max_quarantine: Annotated[
        int | None, typer.Option(min=0, help="More unusable inputs than this end in exit code 3.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Convert images into shards, WebDataset's or FFCV's, with a manifest.

    SOURCE is a folder of images, a table of paths (.csv, .tsv, .jsonl), a tar or a folder of tars
    (WebDataset's, ImageNet's), parquet with images, CIFAR's or STL-10's binary files, or a data set.

    Killed at any moment, the same command goes on where it stopped. Inputs that are no usable image are
    quarantined with the reason, see: viewmill inspect.
    """
    from viewmill.shards.conversion.label_map import read_label_map
    from viewmill.shards.conversion.parts import parse_part
    from viewmill.shards.conversion.plan import Options
    from viewmill.shards.conversion.splits import parse_splits
    from viewmill.shards.convert import convert_part, convert_splits, convert_with
    from viewmill.shards.sources.open import SourceOptions

    if sum((split is not None, part is not None, merge)) > 1:
        raise ValueError("--split, --part and --merge exclude each other: give one of them")
    options = Options(
        shuffle_seed=seed_of(shuffle),
        check=check,
        shard_bytes=None if shard_mb is None else shard_mb * MEBIBYTE,
        limit=limit,
        resize=resize,
        quality=quality,
        label_map=() if label_map is None else read_label_map(label_map),
        quarantine_bytes=quarantine_bytes,
        format=format,
        beton_images=beton_images,
    )
    reading = SourceOptions(
        kind=kind,
        class_level=class_level,
        subset=subset,
        root=None if root is None else str(root),
        path_column=path_column,
        image_column=image_column,
        label_column=label_column,
        labels=None if labels is None else str(labels),
    )
    chosen_part = None if part is None else parse_part(part)
    splits = None if split is None else parse_splits(split)
    speed = Speed()
    with progress_bar("convert") as show:

        def shown(now: "Progress") -> None:
            show(now.images, now.total_images, speed.in_words(now))

        if chosen_part is not None:
            written = convert_part(
                source, dataset, options, chosen_part, reading=reading, workers=workers, progress=shown
            )
            reports = []
        elif splits is not None:
            reports = convert_splits(
                source,
                dataset,
                options,
                splits,
                reading=reading,
                workers=workers,
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
                    workers=workers,
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
