"""`viewmill convert --in-place`: what goes with it, and what does not."""

from pathlib import Path
from typing import TYPE_CHECKING

from viewmill.tools.console import progress_bar
from viewmill.tools.convert_progress import Speed

if TYPE_CHECKING:
    from viewmill.shards.conversion.workers import Workers
    from viewmill.shards.convert import ConvertReport

NOT_IN_PLACE = {
    "--shuffle": "the samples' order is that of the tars; training shuffles them in every epoch",
    "--shard-size": "the tars are the shards",
    "--limit": "a tar is taken whole",
    "--resize": "no image is rewritten",
    "--quality": "no image is rewritten",
    "--format": "the shards stay tars",
    "--split": "a tar is in one data set: give each split's tars a folder of their own",
    "--quarantine-bytes": "what is refused is still in the tars",
    "--part": "nothing is written that takes several machines; use --workers",
    "--merge": "there are no parts",
}


def refuse_in_place(given: dict[str, bool]) -> None:
    """Refuses what would change the tars, or is no option of theirs.

    Raises:
        ValueError: one of these options was given; the message says why it cannot be.
    """
    for name, is_given in given.items():
        if is_given:
            reason = NOT_IN_PLACE.get(name, "it is an option of other sources than tars")
            raise ValueError(f"{name} does not go with --in-place: {reason}; leave one of them out")


def index(
    source: str,
    dataset: Path | None,
    workers: "Workers",
    check: str,
    labels: Path | None,
    label_map: Path | None,
    max_quarantine: int | None,
) -> "ConvertReport":
    """`convert --in-place`, with its bar.

    Raises:
        ValueError: a URL; as `convert_in_place`.
    """
    from viewmill.shards.conversion.label_map import read_label_map
    from viewmill.shards.in_place import convert_in_place
    from viewmill.shards.storage.sources import named_source

    tars = named_source(source)
    if not isinstance(tars, Path):
        raise ValueError(f"{source}: --in-place is for tars on this machine; leave it out to convert a URL")
    speed = Speed()
    with progress_bar("index") as show:
        return convert_in_place(
            tars,
            dataset,
            workers=workers,
            check=check,
            labels=labels,
            label_map=() if label_map is None else read_label_map(label_map),
            max_quarantine=max_quarantine,
            progress=lambda now: show(now.images, now.total_images, speed.in_words(now)),
        )
