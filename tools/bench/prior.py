"""`bench prior`: a full-data pass for the prior beside a training epoch, image by image, in one process."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from rich.table import Table
from torch import Tensor
from viewmill.engine.config import ModelConfig
from viewmill.engine.evaluation.features import evaluation_views
from viewmill.engine.method_config import DistillConfig, EmaTeacher, HydesConfig
from viewmill.engine.model import Student, build_student
from viewmill.engine.passes.cluster_prior import ClusterModel, cluster_prior
from viewmill.engine.passes.reading import Reading
from viewmill.engine.scheduled import value_at
from viewmill.engine.teacher import Teacher
from viewmill.engine.world import World
from viewmill.pipelines.executors.view_format import ViewFormat
from viewmill.pipelines.loader import Loader
from viewmill.pipelines.views import preset
from viewmill.shards.manifest import Dataset
from viewmill.tools.bench.fingerprint import fingerprint
from viewmill.tools.bench.goals import PRIOR
from viewmill.tools.bench.spread import medians, spread

# What DESIGN asks for: a pass takes so much of an epoch, the second for those who aim high.
HYDES, DISTILL = HydesConfig(), DistillConfig()
_SETTLE_S = 2.0  # the loader makes batches ahead; they must not be counted with what comes next

Work = Callable[[], int]  # does its share of a round; images done


def run(
    data: str,
    *,
    images: int = 64,
    batch_size: int = 16,
    repeats: int = 3,
    threads: int = 2,
    backbone: str = "resnet18",
    view_preset: str = "hydes",
    pass_sizes: tuple[int, ...] = (224, 160),
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Runs passes and training steps over as many images in turn, `repeats` times, on the CPU.

    A training step is the bare one: views, forward, loss, backward, AdamW; for `distill` the teacher's
    forward too. DeepSpeed, logging and checkpoints come on top in a run, so a pass is a smaller part of its
    epochs than of these steps. The pass is `cluster_prior` of the distillation's teacher: reading, views of
    one size, forward, prior and centre.

    Args:
        data: a data set of at least `images` JPEGs.
        images: of a round, by each; a multiple of the batch.
        pass_sizes: sides of the pass's views, pixels.

    Returns:
        JSON-able: settings, peers (CPU and wall ms an image), ratios of every pass to every training, load
        of the machine, fingerprint.

    Raises:
        ValueError: numbers that do not fit each other.
    """
    if min(images, batch_size, repeats, threads) < 1 or images % batch_size:
        raise ValueError(f"{images} images in batches of {batch_size}, {repeats} rounds: all >= 1, no rest")
    torch.set_num_threads(threads)
    tell = progress or (lambda _: None)
    load_before = os.getloadavg()
    measured: dict[str, list[dict[str, float]]] = {}
    with Dataset.open(data) as dataset:
        if dataset.num_samples < max(images, batch_size):
            raise ValueError(f"{dataset.shown} has {dataset.num_samples} images, {images} are asked for")
        with _works(dataset, images, batch_size, threads, backbone, view_preset, pass_sizes) as works:
            for name, work in works.items():  # compiles, allocates, and fills the loaders
                tell(f"first time: {name}")
                work()
            for number in range(repeats):
                for name, work in works.items():
                    tell(f"round {number + 1} of {repeats}: {name}")
                    measured.setdefault(name, []).append(timed(work))
    peers = {name: medians(rows) for name, rows in measured.items()}
    return {
        "bench": "prior",
        "settings": {
            "images": images,
            "batch_size": batch_size,
            "threads": threads,
            "backbone": backbone,
            "views": view_preset,
            "data": dataset.data_set_hash,
        },
        "repeats": repeats,
        "peers": peers,
        "ratios": ratios(measured),
        "goals": PRIOR,
        "load_average": {"before": load_before, "after": os.getloadavg()},
        "fingerprint": fingerprint(),
    }


def timed(work: Work) -> dict[str, float]:
    """CPU and wall milliseconds an image."""
    time.sleep(_SETTLE_S)
    wall, cpu = time.perf_counter(), time.process_time()
    images = work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"cpu_ms": 1000 * cpu / images, "wall_ms": 1000 * wall / images}


def ratios(measured: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, Any]]:
    """CPU time of every pass as a share of every training's, round by round: medians and ranges."""
    return {
        f"{one} / {other}": medians(
            [
                {"cpu": own["cpu_ms"] / their["cpu_ms"], "wall": own["wall_ms"] / their["wall_ms"]}
                for own, their in zip(measured[one], measured[other], strict=True)
            ]
        )
        for one in measured
        for other in measured
        if one.startswith("pass") and other.startswith("training")
    }


@contextmanager
def _works(
    dataset: Dataset,
    images: int,
    batch_size: int,
    threads: int,
    backbone: str,
    view_preset: str,
    pass_sizes: tuple[int, ...],
) -> Iterator[dict[str, Work]]:
    """What is measured, by name; the loaders are open as long as this."""
    spec = preset(view_preset)
    model = ModelConfig(backbone=backbone, channels_last=True)
    students = {
        "hydes": build_student(model, HYDES, image_size=spec.sizes[0], seed=0),
        "distill": build_student(model, DISTILL, image_size=spec.sizes[0], seed=0),
    }
    teacher = Teacher(students["distill"], EmaTeacher(), "fp32")
    options: dict[str, Any] = {
        "executor": "host",
        "num_threads": threads,
        "prefetch": 1,
        "view_format": ViewFormat("float32", channels_last=True),
    }
    with Loader(dataset, spec, batch_size, **options) as loader:
        works: dict[str, Work] = {}
        for size in pass_sizes:
            works[f"pass at {size}"] = _pass(teacher, dataset, images, batch_size, threads, size)
        for name, student in students.items():
            own = teacher if name == "distill" else None
            works[f"training {name}"] = _training(student, own, loader, images // batch_size)
        yield works


def _pass(teacher: Teacher, dataset: Dataset, images: int, batch_size: int, threads: int, size: int) -> Work:
    world = World(0, 1, 0, torch.device("cpu"))
    reading = Reading(world, "host", threads, batch_size)
    model = ClusterModel(
        name="teacher",
        logits=lambda views: teacher.head(teacher([views])[0]),
        num_clusters=DISTILL.num_clusters,
        views=evaluation_views(size),
        about={},
    )

    def work() -> int:
        teacher.eval()
        prior, report = cluster_prior(model, dataset, reading=reading, subsample=images)
        assert np.isfinite(prior.log_prior.numpy()).all()
        return report.counted

    return work


def _training(student: Student, teacher: Teacher | None, loader: Loader, steps: int) -> Work:
    optimizer = torch.optim.AdamW([one for one in student.parameters() if one.requires_grad], lr=1e-4)
    scheduled = (HYDES if teacher is None else DISTILL).scheduled()
    values = {name: value_at(number, 0, 1) for name, number in scheduled.items()}
    batches = _without_end(loader)

    def work() -> int:
        student.train()
        images = 0
        for _ in range(steps):
            views = next(batches)
            targets = None
            if teacher is not None:
                teacher.train()
                targets = student.method.targets(teacher.head, teacher(views), values)
            result = student.method.loss(student(views).float(), values, targets)
            optimizer.zero_grad()
            result.loss.backward()
            optimizer.step()
            if teacher is not None:
                teacher.after_step(student, values)
            images += len(views[0])
        return images

    return work


def _without_end(loader: Loader) -> Iterator[list[Tensor]]:
    while True:
        for batch in loader:
            yield batch.views


def table(result: dict[str, Any]) -> Table:
    """The figures of a result, for the terminal."""
    settings = result["settings"]
    shown = Table(
        title=f"A pass for the prior beside training, {settings['backbone']}, {settings['views']}, "
        f"{settings['threads']} threads, medians of {result['repeats']} x {settings['images']} images"
    )
    for heading in ("what", "CPU ms/image", "wall ms/image"):
        shown.add_column(heading, justify="left" if heading == "what" else "right")
    for name, figures in result["peers"].items():
        shown.add_row(name, spread(figures, "cpu_ms", 1), spread(figures, "wall_ms", 1))
    for name, figures in result["ratios"].items():
        goal = f"(<= {PRIOR['goal']:.0%}, moonshot {PRIOR['moonshot']:.0%})"
        shown.add_row(name, f"{_percent(figures, 'cpu')} {goal}", _percent(figures, "wall"))
    return shown


def _percent(figures: dict[str, Any], name: str) -> str:
    low, high = cast(list[float], figures[f"{name}_range"])
    return f"{figures[name]:.1%} ({low:.1%}-{high:.1%})"
