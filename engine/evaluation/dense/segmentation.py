"""Segmentation: how well a linear probe of every pixel finds its class, beside the untrained and floors."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from viewmill.engine.agreement import from_rank_zero
from viewmill.engine.evaluation.backbone_source import BackboneSource, load_source
from viewmill.engine.evaluation.contenders import TRAINED
from viewmill.engine.evaluation.dense.canvas import canvas_for, picture
from viewmill.engine.evaluation.dense.contest import (
    COLOURS,
    Contest,
    Entrant,
    Tested,
    entrants_of,
    predicted,
    probe_of,
    tested,
)
from viewmill.engine.evaluation.dense.masks import read_mask, survey, survey_from
from viewmill.engine.evaluation.dense.overlap import (
    Overlap,
    compare_overlaps,
    frequent_class_floor,
    overlap_of,
)
from viewmill.engine.evaluation.dense.pairs import Labelled
from viewmill.engine.evaluation.dense.pixel_probe import BATCH, EPOCHS, PROTOCOL, PixelProbe
from viewmill.engine.evaluation.feature_cache import TensorCache
from viewmill.engine.evaluation.measured import Measured
from viewmill.engine.evaluation.summary import measured_entry, write_evaluation
from viewmill.engine.evaluation.untrained import SEEDS
from viewmill.engine.passes.reading import Progress, Reading
from viewmill.engine.world import World

SEGMENTATION = "segmentation"
KEEP_BYTES = 2 << 30


@dataclass(frozen=True)
class Shown:
    """A test picture, its mask, and what the trained and the best untrained backbone take its pixels for."""

    name: str
    image: np.ndarray  # (h, w, 3) uint8
    truth: np.ndarray  # (h, w)
    trained: np.ndarray  # (h, w)
    untrained: np.ndarray  # (h, w)


@dataclass(frozen=True)
class Segmentation:
    """What a segmentation found."""

    entries: list[dict[str, Any]]  # of summary.json: one
    folder: Path  # that holds summary.json
    shown: list[Shown] = field(default_factory=list)  # on rank 0 alone


def segment(
    source: Path | str,
    data: Labelled,
    *,
    world: World,
    out: Path | str | None = None,
    image_size: int | None = None,
    num_threads: int = 2,
    keep_bytes: int = KEEP_BYTES,
    num_shown: int = 6,
    progress: Progress | None = None,
) -> Segmentation:
    """Trains a pixel probe on each entrant and writes out/evaluation/segmentation/: summary.json and details.

    Every rank calls it and gets the same entries. A probe that has been trained is kept in cache/ there: a
    command that was interrupted goes on with the next one, and the probe that it was at begins anew.

    Args:
        source: see `load_source`.
        out: None is the run's folder.
        image_size: longer side of every picture on the canvas, pixels; None is that of the run's views.
        keep_bytes: maps of the training pictures stay in memory, on each rank, where they fit into as many;
            else every epoch computes them again. Both give the same bits.
        num_shown: test pictures that come back with their predictions, evenly spread.
        progress: called with what is done, how far, of how much.

    Returns:
        One entry with `measures` (mean_iou, pixel_accuracy, class_accuracy), the floors' mean IoU, and
        standard_error and z_score of the mean IoU's difference between trained and untrained.

    Raises:
        ValueError, ImageError: see `survey` and `canvas_for`. RuntimeError: features are not finite.
        FileNotFoundError, CheckpointError: see `load_source`. RankError: another rank failed.
    """
    found = load_source(source, world)
    folder = _folder(found, out)
    known = survey_from(from_rank_zero(world, lambda: asdict(survey(data, num_threads, progress))))
    sizes = [*known.train_sizes, *known.test_sizes]
    canvas = canvas_for(found.backbone, sizes, image_size or found.image_size, found.mean, found.std)
    reading = Reading(world, num_threads=num_threads, progress=progress)
    contest = Contest(data, known, canvas, reading, TensorCache(folder / "cache"), keep_bytes)
    entrants = {entrant.name: entrant for entrant in entrants_of(found, contest)}
    probes = {name: probe_of(entrant, contest) for name, entrant in entrants.items()}
    results = {name: tested(entrant, probes[name], contest) for name, entrant in entrants.items()}
    scores = {name: overlap_of(result.counts.sum(dim=0)) for name, result in results.items()}
    rival = max(
        (name for name in scores if name not in (TRAINED, COLOURS)), key=lambda name: scores[name].mean_iou
    )
    against = compare_overlaps(results[TRAINED].counts, results[rival].counts)
    floors = {
        "frequent_class": frequent_class_floor(known.train_pixels, known.test_pixels),
        COLOURS: scores[COLOURS].mean_iou,
    }
    notes = {"best_untrained": rival, "trained_minus_untrained": against, "floors": floors}
    outcome = _outcome(contest, entrants[TRAINED], scores, results, notes)
    entry = {**measured_entry(outcome), "floors": floors}
    entry |= {name: against[name] for name in ("standard_error", "z_score")}
    about = _about(found, entrants[TRAINED], contest)
    from_rank_zero(world, lambda: write_evaluation(folder, [entry], {SEGMENTATION: [outcome]}, about, {}))
    shown = _shown(contest, num_shown, *((entrants[name], probes[name]) for name in (TRAINED, rival)))
    return Segmentation([entry], folder, shown)


def _folder(found: BackboneSource, out: Path | str | None) -> Path:
    """Where the results go. Raises ValueError: the source is in no run, and no folder is given."""
    if out is None and found.folder is None:
        raise ValueError(f"{found.name} belongs to no run; say where the evaluation goes with --out DIR")
    return Path(out or found.folder or "") / "evaluation" / SEGMENTATION


def _outcome(
    contest: Contest,
    trained: Entrant,
    scores: dict[str, Overlap],
    results: dict[str, Tested],
    notes: dict[str, Any],
) -> Measured:
    """The figures of the trained and the untrained backbones, and by class those of all."""
    classes = contest.data.classes
    figures: dict[str, dict[str, float | None]] = {
        name: {
            "mean_iou": score.mean_iou,
            "pixel_accuracy": score.pixel_accuracy,
            "class_accuracy": score.class_accuracy,
        }
        for name, score in scores.items()
        if name != COLOURS
    }
    settings = {
        "classes": list(classes),
        "ignored": contest.data.ignored,
        "canvas": list(contest.canvas.size),
        "longer_side": contest.canvas.side,
        "stages": {stage.name: stage.width for stage in trained.columns.stages},
        "epochs": EPOCHS,
        "batch": BATCH,
    }
    more = {
        "iou_by_class": {name: dict(zip(classes, one.iou, strict=True)) for name, one in scores.items()},
        "confusion_of_trained": results[TRAINED].confusion.tolist(),
        "confusion_is": "pixels by true class (row) and predicted class (column)",
    }
    images = len(contest.data.test)
    return Measured(SEGMENTATION, PROTOCOL, settings, images, figures, "largest", {**notes, **more})


def _about(found: BackboneSource, trained: Entrant, contest: Contest) -> dict[str, Any]:
    """Of what and on what it was measured."""
    data, known = contest.data, contest.known
    height, width = contest.canvas.size
    pixels = {
        side: dict(zip(data.classes, counts, strict=True))
        for side, counts in (("train", known.train_pixels), ("test", known.test_pixels))
    }
    return {
        "source": found.name,
        "step": found.step,
        "checkpoints_passed_over": found.passed_over,
        "backbone": found.about,
        "weights_hash": trained.identity["weights"],
        "views": f"longer side {contest.canvas.side} on {width}x{height}",
        "data": {
            "name": data.name,
            "data_hash": known.data_hash,
            "train_images": len(data.train),
            "test_images": len(data.test),
            "pixels_by_class": pixels,
        },
        "untrained": {"choice": "the best mean IoU", "seeds": list(SEEDS)},
    }


def _shown(
    contest: Contest, count: int, trained: tuple[Entrant, PixelProbe], untrained: tuple[Entrant, PixelProbe]
) -> list[Shown]:
    """Test pictures evenly spread, with both predictions; none but on rank 0."""
    if contest.reading.world.rank:
        return []
    data = contest.data
    count = min(count, len(data.test))
    rows = [len(data.test) * place // count for place in range(count)]
    pairs = [data.test[row] for row in rows]
    both = [predicted(entrant, probe, rows, contest) for entrant, probe in (trained, untrained)]
    return [
        Shown(pair.name, picture(pair), read_mask(pair, len(data.classes), data.ignored), one, other)
        for pair, one, other in zip(pairs, *both, strict=True)
    ]
