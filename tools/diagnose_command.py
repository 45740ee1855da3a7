"""`viewmill diagnose`: what a whole data set says of a trained network, from one pass over every image."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from viewmill.tools.console import print_json, print_line, progress_bar

if TYPE_CHECKING:
    from rich.table import Table

EXAMPLE = "viewmill diagnose RUN --data DATASET --out diagnosis.json"


def command(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A run's folder or a checkpoint's.")],
    data: Annotated[str, typer.Option(metavar="DATASET", help="The images.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the figures go, as JSON.")] = Path(
        "diagnosis.json"
    ),
    mean: Annotated[bool, typer.Option("--mean", help="Mean and spread of embeddings.")] = False,
    joint: Annotated[
        bool, typer.Option("--joint", help="IMSVD: entropies, mutual information, one-hot shares, exemplars.")
    ] = False,
    prior: Annotated[
        bool, typer.Option("--prior", help="Clusters: their prior, entropy, empty ones, the streaming prior.")
    ] = False,
    labels: Annotated[
        bool, typer.Option("--labels", help="Clusters: purity and mutual information with the labels.")
    ] = False,
    em: Annotated[bool, typer.Option("--em", help="Clusters: where one step of EM would go.")] = False,
    kmeans: Annotated[
        bool, typer.Option("--kmeans", help="Clusters: where one step of k-means would go.")
    ] = False,
    jensen: Annotated[
        bool, typer.Option("--jensen", help="Clusters: how far centring is from dividing by the prior.")
    ] = False,
    temperature: Annotated[
        list[float] | None,
        typer.Option(
            help="Of --jensen; may be given several times.", show_default="0.04, 0.07, 0.2, 1, 5, 25"
        ),
    ] = None,
    exemplars: Annotated[int, typer.Option(min=1, help="Of --joint: images of each unit.")] = 5,
    subsample: Annotated[
        int | None, typer.Option(min=1, help="Read so many images, drawn by the seed, instead of all.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the subsample and of the logits kept.")] = 0,
    image_size: Annotated[
        int | None, typer.Option(min=8, help="Side of the views, pixels.", show_default="the run's")
    ] = None,
    executor: Annotated[str, typer.Option(help="Who renders the views: auto, host, dali, ...")] = "auto",
    num_threads: Annotated[int, typer.Option(min=1, help="Of the executor.")] = 2,
    batch_size: Annotated[int, typer.Option(min=1, help="Images of a forward.")] = 64,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where the network runs.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Look at a trained network through a whole data set, every image read once for all that is asked.

    Without a word of what to tell, everything that the checkpoint's method has. FILE gets the figures, and
    the same name with .safetensors the tensors behind them. The same command goes on where it was killed: it
    keeps its state in FILE.state. Several ranks share the work: torchrun --nproc_per_node 2 -m
    viewmill.tools.cli diagnose, and the same after it.
    """
    from viewmill.shards.storage.mirror import read_info_at

    read_info_at(data)  # a wrong path is told before torch is imported
    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(f"{out}: there is no folder {out.parent}; make it first")
    if out.suffix == ".safetensors":
        raise ValueError(f"--out {out}: the figures are JSON, and tensors go beside it; name it .json")
    import json as json_text
    import shutil

    from safetensors.torch import save
    from viewmill.engine.agreement import from_rank_zero
    from viewmill.engine.checkpoints.folder import Checkpoint
    from viewmill.engine.evaluation.backbone_source import find_checkpoint
    from viewmill.engine.passes.diagnosis import TEMPERATURES, diagnose
    from viewmill.engine.passes.reading import Reading
    from viewmill.engine.passes.subject import subject_of
    from viewmill.engine.world import start_world, stop_world
    from viewmill.shards.durable import written_whole
    from viewmill.shards.manifest import Dataset

    asked = {
        "mean": mean,
        "joint": joint,
        "prior": prior,
        "labels": labels,
        "em": em,
        "kmeans": kmeans,
        "jensen": jensen,
    }
    state = out.with_name(f"{out.name}.state")
    world = start_world(device)
    try:
        path, passed_over = from_rank_zero(world, lambda: find_checkpoint(Path(source)))
        subject = subject_of(Checkpoint.open(Path(path), verify=False), world.device, image_size)
        with Dataset.open(data) as dataset, progress_bar("diagnose") as show:
            found, report = diagnose(
                subject,
                dataset,
                reading=Reading(
                    world,
                    executor,
                    num_threads,
                    batch_size,
                    lambda what, done, total: show(done, total, what),
                ),
                parts=[part for part, is_asked in asked.items() if is_asked],
                temperatures=temperature or TEMPERATURES,
                exemplars=exemplars,
                subsample=subsample,
                seed=seed,
                folder=state,
            )

        def write() -> None:
            tensors = {name: tensor.contiguous() for name, tensor in found.tensors.items()}
            with written_whole(out.with_suffix(".safetensors")) as file:
                file.write(save(tensors))
            with written_whole(out) as file:
                file.write((json_text.dumps(found.figures, indent=1, allow_nan=False) + "\n").encode())
            shutil.rmtree(state)

        from_rank_zero(world, write)
    finally:
        stop_world(world)
    if world.rank:
        return
    if json:
        print_json(found.figures | {"seconds": report.seconds, "images_per_s": report.images_per_s})
        return
    from rich.console import Console

    for reason in passed_over:
        print_line(f"passed over: {reason}")
    Console().print(summary_table(found.figures))
    for reason in report.left_out.values():
        print_line(f"left out: {reason}")
    print_line(f"figures: {out}, tensors: {out.with_suffix('.safetensors')}, {report.seconds:.1f} s")


def summary_table(figures: dict[str, Any]) -> "Table":
    """The figures in a few lines a part."""
    from viewmill.tools.tables import new_table

    rows = [("", "images", f"{figures['samples']:,} of {figures['total']:,}")]
    for name, found in figures.get("mean", {}).items():
        share = f"{100 * found['share_of_mean']:.1f} % of the mean square"
        rows.append(("mean", name, f"{found['dim']} numbers, their mean is {share}"))
    for part, lines in LINES.items():
        if part in figures:
            rows += [(part, what, line.format(**figures[part])) for what, line in lines.items()]
    if "joint" in figures:
        shares = [
            f"{100 * share:.1f} % above {bound}" for bound, share in figures["joint"]["one_hot"].items()
        ]
        rows.append(("joint", "variables near one-hot", ", ".join(shares)))
    for name, found in figures.get("prior", {}).get("agreement", {}).items():
        z = found["mean_square_z"]
        chance = "" if z is None else f", mean square z {z:.2f} (1: chance alone)"
        apart = f"{100 * found['total_variation']:.3g} % of the mass lies elsewhere{chance}"
        rows.append(("prior", f"{name}, {found['rows']:,} outputs", apart))
    for gap in figures.get("jensen", {}).get("gaps", []):
        line = "largest difference {largest_difference:.3g}, {total_variation:.3g} of a target elsewhere"
        rows.append(("jensen", f"temperature {gap['temperature']:g}", line.format(**gap)))
    return new_table(f"{figures['source']}, {figures['method']}", ("", "", ""), rows)


PROTOTYPES = {
    "fit": "{prototype_fit:.4f}",
    "empty prototypes": "{empty_prototypes:.0f}",
    "one step": "cosine {prototype_cosine:.4f} with the old ones, {prototype_overlap:.4f} among them",
}
LINES = {
    "joint": {
        "invariance with the mirror image": "{invariance_with_mirror:.4f} nats",
        "diagonal entropy": "{diagonal_entropy:.4f} nats, at least {least_diagonal_entropy:.4f}",
        "off-diagonal entropy": "{offdiagonal_entropy:.4f} nats",
        "mutual information": "{mutual_information:.4f} nats, mean over pairs",
    },
    "prior": {
        "entropy": "{entropy:.4f} nats of {entropy_of_equal_clusters:.4f}",
        "empty clusters": "{empty_clusters:,} of {clusters:,}",
    },
    "labels": {
        "purity": "{purity:.4f} of {clusters_used:,} clusters in use",
        "mutual information": "{normalized_mutual_information:.4f} of the entropies' mean (NMI)",
        "adjusted Rand index": "{adjusted_rand_index:.4f}",
    },
    "em": PROTOTYPES,
    "kmeans": PROTOTYPES,
}
