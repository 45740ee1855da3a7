"""`viewmill prior`: how a data set spreads over a teacher's clusters, from one pass over every image."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from viewmill.tools.console import print_json, print_line, progress_bar

if TYPE_CHECKING:
    from rich.table import Table
    from viewmill.engine.passes.cluster_prior import ClusterModel
    from viewmill.engine.passes.prior_file import Prior
    from viewmill.engine.passes.reading import Reading
    from viewmill.shards.manifest import Dataset

EXAMPLE = "viewmill prior RUN --data DATASET --out prior.safetensors"


def command(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A run, a checkpoint, timm:NAME or torchvision:NAME.")
    ],
    data: Annotated[str, typer.Option(metavar="DATASET", help="The images.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the prior goes.")] = Path(
        "prior.safetensors"
    ),
    clusters: Annotated[
        int | None, typer.Option(min=2, help="Make so many clusters of the representations by k-means.")
    ] = None,
    prototypes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Take the clusters of another prior's file.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Of the softmax.", show_default="the teacher's, or 0.07")
    ] = None,
    subsample: Annotated[
        int | None, typer.Option(min=1, help="Read so many images, drawn by the seed, instead of all.")
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Compare with another prior; may be given several times."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the subsample and of k-means.")] = 0,
    image_size: Annotated[
        int | None, typer.Option(min=8, help="Side of the views, pixels.", show_default="the run's")
    ] = None,
    executor: Annotated[str, typer.Option(help="Who renders the views: auto, host, dali, ...")] = "auto",
    num_threads: Annotated[int, typer.Option(min=1, help="Of the executor.")] = 2,
    batch_size: Annotated[int, typer.Option(min=1, help="Images of a forward.")] = 64,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where the backbone runs.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Estimate the cluster prior P_k of a data set: the mean posterior of the teacher over every image.

    A distillation's checkpoint has a teacher and clusters. Of any other backbone, clusters are made by
    spherical k-means (--clusters) or taken from a file (--prototypes). The same command goes on where it was
    killed: it keeps its state in FILE.state until the prior is written. Several ranks share the work:
    torchrun --nproc_per_node 2 -m viewmill.tools.cli prior, and the same after it.
    """
    from viewmill.shards.storage.mirror import read_info_at

    read_info_at(data)  # a wrong path is told before torch is imported
    check_options(out, clusters, prototypes, temperature)
    refuse_overwriting(out, [*([] if prototypes is None else [prototypes]), *(against or [])])
    import shutil

    from viewmill.engine.agreement import from_rank_zero
    from viewmill.engine.passes.cluster_prior import cluster_prior, described
    from viewmill.engine.passes.prior_file import read_prior, write_prior
    from viewmill.engine.passes.reading import Reading
    from viewmill.engine.world import start_world, stop_world
    from viewmill.shards.manifest import Dataset

    others = {str(path): read_prior(path) for path in against or []}
    state = out.with_name(f"{out.name}.state")
    world = start_world(device)
    try:
        with Dataset.open(data) as dataset, progress_bar("prior") as show:
            reading = Reading(
                world, executor, num_threads, batch_size, lambda what, done, total: show(done, total, what)
            )
            model, told = find_model(
                source, dataset, reading, state / "prototypes", clusters, prototypes, image_size, seed
            )
            check_comparable(model.num_clusters, others)
            made, report = cluster_prior(
                model,
                dataset,
                reading=reading,
                temperature=temperature,
                subsample=subsample,
                seed=seed,
                folder=state / "pass",
            )
            figures = described(made, others, model.streaming)
            figures |= {"seconds": report.seconds, "images_per_s": report.images_per_s}
            from_rank_zero(world, lambda: write_prior(out, made))
            from_rank_zero(world, lambda: shutil.rmtree(state))
    finally:
        stop_world(world)
    if world.rank:
        return
    if json:
        print_json({"prior": str(out), **figures})
        return
    from rich.console import Console

    for line in told:
        print_line(line)
    Console().print(summary_table(figures))
    for line in agreement_lines(figures):
        print_line(line)
    print_line(f"prior: {out}")


def refuse_overwriting(out: Path, read: list[Path]) -> None:
    """A prior that took a pass over a data set is not replaced by one that is compared with it.

    Raises:
        ValueError: --out is a file that --prototypes or --against reads.
    """
    if any(out.resolve() == path.resolve() for path in read):
        raise ValueError(f"--out {out}: --prototypes or --against reads it; give --out another file")


def check_options(
    out: Path, clusters: int | None, prototypes: Path | None, temperature: float | None
) -> None:
    """Before the work, not after it."""
    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(f"{out}: there is no folder {out.parent}; make it first")
    if clusters is not None and prototypes is not None:
        raise ValueError("--clusters makes clusters and --prototypes takes them: give one of the two")
    if temperature is not None and not temperature > 0:
        raise ValueError(f"--temperature must be > 0, got {temperature}")


def find_model(
    source: str,
    dataset: "Dataset",
    reading: "Reading",
    folder: Path,
    clusters: int | None,
    prototypes: Path | None,
    image_size: int | None,
    seed: int,
) -> tuple["ClusterModel", list[str]]:
    """The teacher, and lines that say how its clusters were made."""
    from viewmill.engine.checkpoints.folder import Checkpoint
    from viewmill.engine.evaluation.backbone_source import load_source
    from viewmill.engine.passes.cluster_source import (
        clusters_of_backbone,
        clusters_of_checkpoint,
        prototypes_by_kmeans,
        prototypes_in,
    )

    device = reading.world.device
    found = load_source(source, reading.world)
    if clusters is None and prototypes is None:
        if found.path is not None:
            checkpoint = Checkpoint.open(found.path, verify=False)  # `load_source` has just verified it
            model = clusters_of_checkpoint(checkpoint, device, image_size)
            if model is not None:
                return model, []
        raise ValueError(
            f"{source}: has no clusters of its own, as a distillation has; give --clusters K to make them by "
            "k-means, or --prototypes FILE"
        )
    if prototypes is not None:
        return clusters_of_backbone(found, prototypes_in(prototypes), device, image_size), []
    made = prototypes_by_kmeans(
        found,
        dataset,
        clusters or 0,
        reading=reading,
        folder=folder,
        image_size=image_size,
        seed=seed,
    )
    return clusters_of_backbone(found, made.prototypes, device, image_size), [made.told]


def check_comparable(num_clusters: int, others: "dict[str, Prior]") -> None:
    for path, other in others.items():
        if len(other.log_prior) != num_clusters:
            raise ValueError(
                f"{path}: has {len(other.log_prior)} clusters, this teacher has {num_clusters}; give a prior "
                "of the same clusters"
            )


def summary_table(figures: dict[str, Any]) -> "Table":
    """The prior in a few lines."""
    from viewmill.tools.tables import new_table

    equal = figures["entropy_of_equal_clusters"]
    even = 1 / figures["clusters"]
    rows = [
        ("images", f"{figures['samples']:,} of {figures['total']:,}"),
        ("left out", f"{len(figures['left_out']):,}"),
        ("clusters", f"{figures['clusters']:,} at temperature {figures['temperature']:g}"),
        ("entropy", f"{figures['entropy']:.4f} nats of {equal:.4f}"),
        ("as many equal clusters", f"{figures['clusters_of_this_entropy']:.1f}"),
        ("empty clusters", f"{figures['empty_clusters']:,}"),
        ("largest", f"{figures['largest'] / even:.3g} x an even share"),
        ("smallest", f"{figures['smallest'] / even:.3g} x an even share"),
        ("standard error of P_k", _errors(figures)),
        ("time", f"{figures['seconds']:.1f} s, {figures['images_per_s']:.1f} images/s"),
    ]
    return new_table("cluster prior", ("", ""), rows)


def _errors(figures: dict[str, Any]) -> str:
    if figures["samples"] == figures["total"]:
        return "none: every image was read"
    median, largest = figures["median_relative_error"], figures["largest_relative_error"]
    if median is None or largest is None:
        return "unknown: one image was read"
    return f"{100 * median:.2g} % (median), {100 * largest:.2g} % (largest)"


def agreement_lines(figures: dict[str, Any]) -> list[str]:
    """A line for every prior that this one was compared with, and those that were left out."""
    lines = []
    for name, found in figures["agreement"].items():
        z = found["mean_square_z"]
        chance = "" if z is None else f", mean square z {z:.2f} (1: chance alone)"
        rows = f" ({found['rows']:,} teacher outputs)" if "rows" in found else ""
        lines.append(
            f"against {name}{rows}: {100 * found['total_variation']:.3g} % of the mass lies elsewhere, "
            f"log P_k differs by {found['largest_log_ratio']:.3g} at most{chance}"
        )
    return lines + [f"left out: {reason}" for reason in figures["left_out"].values()]
