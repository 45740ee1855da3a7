"""`viewmill verify`: whether a data set is what was written."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from viewmill.tools.console import FAULTS, print_json, print_line, progress_bar

EXAMPLE = "viewmill verify DATASET --repair"


def command(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="The data set.")],
    repair: Annotated[
        bool, typer.Option("--repair", help="Rebuild manifest.bin and DALI's indexes where wrong.")
    ] = False,
    decode: Annotated[
        bool, typer.Option("--decode", help="Decode every image too, which takes longer.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the faults as JSON.")] = False,
) -> None:
    """Read every byte of a data set and check it against its hashes.

    Exit code 3 tells of faults that are left; each line names the file and what to do.
    """
    from viewmill.shards.verify import verify

    with progress_bar("verify", of_bytes=True) as show:
        faults = verify(dataset, repair=repair, decode=decode, progress=show)
    left = [fault for fault in faults if not fault.repaired]
    if json:
        print_json([asdict(fault) for fault in faults])
    else:
        for fault in faults:
            print_line(str(fault))
        print_line(f"{dataset}: {len(left)} faults" if left else f"{dataset}: whole")
    if left:
        raise typer.Exit(FAULTS)
