"""`viewmill inspect`: what is in a data set."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from viewmill.tools.console import print_json, print_line, refuse_url
from viewmill.tools.tables import new_table

if TYPE_CHECKING:
    from rich.table import Table
    from viewmill.shards.manifest import Dataset
    from viewmill.shards.survey import Duplicates, Spread, Survey
    from viewmill.tools.inspection.shuffle import ShuffleReport

EXAMPLE = "viewmill inspect DATASET --html dataset.html --plots plots --png sheet.png --preset hydes@96"
MAX_CLASSES_SHOWN = 40  # of the table; --json has all


def command(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="The data set.")],
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write images, views, plots and tables as one page.")
    ] = None,
    plots: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write the plots of the page as PNGs.")
    ] = None,
    png: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a contact sheet of images and their views.")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Views of the contact sheet and the page: NAME or NAME@SIZE.", show_default="hydes@96"
        ),
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=1, max=200, help="Images whose views are drawn.", show_default="12")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of views and order, as in a recipe.", show_default="0")
    ] = None,
    shuffle: Annotated[
        bool, typer.Option("--shuffle", help="Compare the order of training with a perfect shuffle.")
    ] = False,
    batch_size: Annotated[
        int | None, typer.Option(min=2, help="Of the order that --shuffle measures.", show_default="256")
    ] = None,
    block: Annotated[
        int | None, typer.Option(min=1, help="Its samples that stay neighbours.", show_default="1")
    ] = None,
    window: Annotated[
        int | None, typer.Option(min=0, help="Its positions that are mixed; 0: none.", show_default="0")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=2, help="Its epochs that are measured.", show_default="3")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print counts and statistics as JSON.")] = False,
) -> None:
    """Show counts, sizes, classes, duplicates and refused inputs of a data set.

    --html writes them as one page that needs no network, with plots, images and the views of a recipe.
    --shuffle tells before a training how its block and window mix batches, and what they save in reads.
    """
    from viewmill.shards.manifest import Dataset
    from viewmill.shards.survey import survey
    from viewmill.tools.html_page import check_target

    refuse_url(dataset, "copy the data set to a folder and inspect that")
    draws = html is not None or png is not None
    order_options = {"--batch-size": batch_size, "--block": block, "--window": window, "--epochs": epochs}
    refuse_unused({"--preset": preset, "--images": images}, draws, "--html or --png")
    refuse_unused(order_options, shuffle, "--shuffle")
    refuse_unused({"--seed": seed}, draws or shuffle, "--html, --png or --shuffle")
    if html is not None:
        check_target(html)
    preset, images, seed = preset or "hydes@96", images or 12, seed or 0
    with Dataset.open(dataset) as opened:
        found = survey(opened)
        report = (
            shuffle_report(opened, batch_size or 256, block or 1, window or 0, seed, epochs or 3)
            if shuffle
            else None
        )
        written: dict[str, object] = {}
        if png is not None:
            write_sheet(opened, png, preset, images, seed)
            written["png"] = str(png)
        if html is not None or plots is not None:
            written |= write_statistics(opened, found, html, plots, preset, images, seed)
        if json:
            measured = {} if report is None else {"shuffle": report.as_json()}
            print_json(as_json(opened, found) | measured | {"written": written})
        else:
            print_tables(opened, found)
            if report is not None:
                print_shuffle(report)
    if not json:
        print_written(written)


def refuse_unused(options: Mapping[str, object], used: bool, by: str) -> None:
    """No option is accepted and ignored.

    Raises:
        ValueError: one is given, and nothing that uses it.
    """
    given = [name for name, value in options.items() if value is not None]
    if given and not used:
        raise ValueError(f"{', '.join(given)}: only for {by}; add it, or leave the option out")


def shuffle_report(
    dataset: "Dataset", batch_size: int, block: int, window: int, seed: int, epochs: int
) -> "ShuffleReport":
    """The figures of an order of this data set; a settings error names the option."""
    from viewmill.tools.inspection.shuffle import ShuffleReport

    if dataset.num_samples < batch_size:
        raise ValueError(
            f"--batch-size {batch_size}: {dataset.shown} has {dataset.num_samples} samples; take fewer"
        )
    return ShuffleReport(dataset, batch_size, block=block, window=window, seed=seed, epochs=epochs)


def print_shuffle(report: "ShuffleReport") -> None:
    """The tables of an order and its verdict."""
    from rich.console import Console

    for table in report.tables():
        Console().print(table)
    print_line(report.verdict)


def print_written(written: dict[str, object]) -> None:
    """A line for each file or folder."""
    labels = {"png": "contact sheet", "html": "page", "plots": "plots", "left_out": "no plot of"}
    for name, value in written.items():
        lines = value if isinstance(value, list) else [value]
        for line in lines:
            print_line(f"{labels[name]}: {line}")


def write_statistics(
    dataset: "Dataset",
    found: "Survey",
    html: Path | None,
    plots: Path | None,
    preset_name: str,
    images: int,
    seed: int,
) -> dict[str, object]:
    """The page and the PNGs, as far as they are wanted; returns what was written where."""
    from viewmill.pipelines.views import preset
    from viewmill.tools.html_page import write_page
    from viewmill.tools.inspection.charts import charts_of, left_out
    from viewmill.tools.inspection.page import render
    from viewmill.tools.inspection.plots import write_plots

    charts = charts_of(dataset, found)
    words = ["viewmill", "inspect", str(dataset.path)]
    written: dict[str, object] = {}
    if html is not None:
        views = ["--preset", preset_name, "--images", str(images), "--seed", str(seed)]
        line = shlex.join([*words, "--html", str(html), *views])
        spec = preset(preset_name)
        page = render(dataset, found, charts, spec, images=images, seed=seed, command=line)
        write_page(html, page)
        written["html"] = str(html)
    if plots is not None:
        line = shlex.join([*words, "--plots", str(plots)])
        name = dataset.path.absolute().name
        write_plots(charts, plots, f"{name}, data set hash {dataset.data_set_hash[:16]}, {line}")
        written |= {"plots": str(plots), "left_out": left_out(charts)}
    return written


def write_sheet(dataset: "Dataset", png: Path, preset_name: str, images: int, seed: int) -> None:
    """The contact sheet as a PNG; the reference executor draws it."""
    from viewmill.pipelines.views import preset
    from viewmill.tools.contact_sheet import contact_sheet, save_picture, spread_ids

    spec = preset(preset_name)
    save_picture(contact_sheet(dataset, spread_ids(dataset.num_samples, images), spec, seed=seed), png)


def as_json(dataset: "Dataset", found: "Survey") -> dict[str, object]:
    """Everything the survey found; the number of unlabelled samples stands apart from the classes."""
    per_class = {name: count for name, count in found.per_class.items() if name is not None}
    return {
        "path": str(dataset.path),
        "kind": dataset.kind,
        "data_set_hash": dataset.data_set_hash,
        "num_inputs": dataset.info.num_inputs,
        **asdict(found),
        "per_class": per_class,
        "unlabelled": found.per_class.get(None, 0),
    }


def print_tables(dataset: "Dataset", found: "Survey") -> None:
    """Tables for people; names come from folders and are shown as text, whatever they hold."""
    from rich.console import Console

    console = Console(soft_wrap=False)
    for table in (counts_table(dataset, found), sizes_table(found), classes_table(found)):
        console.print(table)
    if found.quarantined:
        console.print(reasons_table(found))


def counts_table(dataset: "Dataset", found: "Survey") -> "Table":
    """One line a count."""
    rows = {
        "samples": f"{found.num_samples:,}",
        "classes": f"{len(dataset.classes):,}",
        "shards": f"{found.num_shards:,}",
        "image bytes": f"{found.image_bytes:,}",
        "formats": ", ".join(f"{name} {count:,}" for name, count in found.formats.items()),
        "re-encoded": f"{found.transcoded:,}",
        "duplicates": duplicates_in_words(found.duplicates),
        "quarantined": f"{found.quarantined:,} of {dataset.info.num_inputs:,} inputs",
        "data set hash": dataset.data_set_hash,
    }
    return new_table(str(dataset.path), ("", ""), list(rows.items()), numbers_from=2)


def duplicates_in_words(found: "Duplicates") -> str:
    """How many samples repeat others, and the keys of the largest group."""
    if not found.groups:
        return "none"
    labels = f", {found.conflicting:,} of them with different labels" if found.conflicting else ""
    return f"{found.extra:,} in {found.groups:,} groups{labels}; {' = '.join(found.largest)}"


def sizes_table(found: "Survey") -> "Table":
    """Quartiles of width, height, pixels and bytes."""
    spreads: dict[str, Spread] = {
        "width": found.width,
        "height": found.height,
        "pixels": found.pixels,
        "1000 width / height": found.aspect,
        "bytes": found.bytes,
        "bytes of a shard": found.shard_bytes,
        "samples of a shard": found.shard_samples,
    }
    rows = [
        (name, *(f"{value:,.0f}" for value in asdict(spread).values())) for name, spread in spreads.items()
    ]
    return new_table("sizes", ("", "least", "25 %", "median", "75 %", "largest", "mean"), rows)


def classes_table(found: "Survey") -> "Table":
    """Samples of each class, the largest classes first."""
    ordered = sorted(found.per_class.items(), key=lambda item: -item[1])
    rows = [
        (
            str(number),
            "(no class)" if name is None else name,
            f"{count:,}",
            f"{count / found.num_samples:.1%}",
        )
        for number, (name, count) in enumerate(ordered[:MAX_CLASSES_SHOWN], start=1)
    ]
    hidden = len(ordered) - len(rows)
    title = f"classes (the largest {len(rows)} of {len(ordered)}; --json has all)" if hidden else "classes"
    return new_table(title, ("", "class", "samples", "share"), rows, numbers_from=2)


def reasons_table(found: "Survey") -> "Table":
    """Quarantined inputs by kind of fault."""
    rows = [(reason, f"{count:,}") for reason, count in found.reasons.items()]
    return new_table("quarantined", ("reason", "inputs"), rows)
