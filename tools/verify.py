"""`viewmill verify`: whether a data set is what was written."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from viewmill.tools.console import FAULTS, print_json, print_line, progress_bar, refuse_url

EXAMPLE = "viewmill verify DATASET --repair"


def command(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="The data set.")],
    repair: Annotated[
        bool, typer.Option("--repair", help="Rebuild manifests and DALI's indexes where wrong.")
    ] = False,
    source: Annotated[
        Path | None,
        typer.Option(
            metavar="SOURCE", help="With --repair: make damaged shards again from what they were made of."
        ),
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="As `convert` got it.", show_default="the table's folder")
    ] = None,
    labels: Annotated[Path | None, typer.Option(metavar="FILE", help="As `convert` got it.")] = None,
    decode: Annotated[
        bool, typer.Option("--decode", help="Decode every image too, which takes longer.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the faults as JSON.")] = False,
) -> None:
    """Read every byte of a data set and check it against its hashes.

    Exit code 3 tells of faults that are left; each line names the file and what to do.

    What --repair makes is taken only where a hash proves it. Shards are made again from SOURCE, by the
    options in dataset.json, and only if they have the SHA-256 that stands there.
    """
    from viewmill.shards.verify import Source, verify

    refuse_url(dataset, "copy the data set to a folder and verify that")
    if source is None and (root is not None or labels is not None):
        raise ValueError("--root and --labels say how a source is read; give --source SOURCE as well")
    origin = None
    if source is not None:
        origin = Source(source, None if root is None else str(root), None if labels is None else str(labels))
    with progress_bar("verify", of_bytes=True) as show:
        faults = verify(dataset, repair=repair, source=origin, decode=decode, progress=show)
    left = [fault for fault in faults if not fault.repaired]
    if json:
        print_json([asdict(fault) for fault in faults])
    else:
        for fault in faults:
            print_line(str(fault))
        number = f"{len(left)} fault{'s' if len(left) > 1 else ''}"
        print_line(f"{dataset}: {number if left else 'whole'}")
    if left:
        raise typer.Exit(FAULTS)
