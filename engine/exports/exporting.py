"""Exports a backbone into a folder of its own, and reads it back to see that it is the same."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from viewmill.engine.evaluation.backbone_source import BackboneSource
from viewmill.engine.export import ABOUT_FILE
from viewmill.engine.exports import detection
from viewmill.engine.exports.detection import DetectionConfig
from viewmill.engine.exports.guides import guide
from viewmill.engine.exports.targets import TARGETS, architecture_of, state_of

GUIDE_FILE = "README.md"
TOLERANCE = 1e-5  # of the largest feature; two builds of one network differ by the order of their sums
IMAGES = 2  # that both see
DETECTORS = ("detectron2", "torchvision")


@dataclass(frozen=True)
class Exported:
    """What was written."""

    folder: Path
    target: str
    files: list[str]
    difference: float  # largest one of a feature after reloading, over the largest feature


def export_to(
    source: BackboneSource, target: str, out: Path, *, detector: DetectionConfig | None = None
) -> Exported:
    """Writes `out` whole or not at all, and compares what its library reads with the source.

    Args:
        target: one of TARGETS.
        out: a folder that is not there yet.
        detector: Mask R-CNN too, trained like this; of DETECTORS.

    Raises:
        ValueError: the library has no such backbone, or the weights are not finite.
        FileExistsError: the folder is there.
        RuntimeError: what was written gives other features.
    """
    known = TARGETS[target]
    known.check(source)
    if detector is not None:
        _check_detector(source, target)
    if out.exists():
        raise FileExistsError(f"{out}: is there already; remove it, or give another folder with --out")
    aside = out.with_name(f"{out.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)  # of a command that was killed
    aside.mkdir(parents=True)
    try:
        difference = _write(source, target, aside, detector)
        aside.replace(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Exported(out, target, sorted(path.name for path in out.iterdir()), difference)


def _write(source: BackboneSource, target: str, folder: Path, detector: DetectionConfig | None) -> float:
    known, state = TARGETS[target], state_of(source)
    known.write(source, state, folder)
    if not (folder / ABOUT_FILE).exists():
        (folder / ABOUT_FILE).write_text(json.dumps(about(source, target), indent=2) + "\n", encoding="utf-8")
    if detector is not None and target == "detectron2":
        detection.write_detectron2(state, source, detector, folder)
    elif detector is not None:
        detection.write_torchvision(source, detector, folder)
    (folder / GUIDE_FILE).write_text(guide(source, target, detector), encoding="utf-8")
    difference = largest_difference(source.backbone, known.reload(source, folder), source.image_size)
    if not difference <= TOLERANCE:
        raise RuntimeError(
            f"{source.name}: reloaded for {target} it gives other features, by {difference:.1e} of the "
            f"largest (at most {TOLERANCE:g}); nothing was written"
        )
    return difference


def about(source: BackboneSource, target: str) -> dict[str, Any]:
    """What it takes to build the backbone again and feed it; `viewmill evaluate` reads it."""
    return {
        **source.about,
        "image_size": source.image_size,
        "mean": list(source.mean),
        "std": list(source.std),
        "step": source.step,
        "source": source.name,
        "names": target,
    }


def largest_difference(backbone: nn.Module, other: nn.Module, image_size: int) -> float:
    """Of the features of the same images, over the largest of them: float32, on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        images = torch.randn(IMAGES, 3, image_size, image_size)
    wanted, found = (_features(module, images) for module in (backbone, other))
    if wanted.shape != found.shape:
        return float("inf")
    return float((wanted - found).abs().max() / wanted.abs().max().clamp(min=torch.finfo(torch.float32).tiny))


@torch.inference_mode()
def _features(module: nn.Module, images: Tensor) -> Tensor:
    return cast(Tensor, module.to("cpu", torch.float32).eval()(images))


def _check_detector(source: BackboneSource, target: str) -> None:
    """Raises ValueError: no detector is written for this library, or none can stand on this backbone."""
    if target not in DETECTORS:
        raise ValueError(f"--task detection is for {' and '.join(DETECTORS)}; got --to {target}")
    if source.about["stem"] == "small":
        raise ValueError(
            f"{source.name}: detectors see images of 800 pixels, and the small stem leaves them 16 times the "
            "places of the usual one; train with model.stem=imagenet"
        )
    if target == "detectron2":
        detection.check_bottlenecks(architecture_of(source))
