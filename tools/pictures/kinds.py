"""Which pictures there are, which of them a backbone and its images have, and who draws them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from viewmill.tools.pictures import of_classes, of_images, of_units
from viewmill.tools.pictures.captions import Captions
from viewmill.tools.pictures.plate import Plate

if TYPE_CHECKING:
    from viewmill.engine.evaluation.pictures.scene import Scene

KINDS = ("neighbours", "centroids", "components", "attention", "cam", "joint", "exemplars", "map")


@dataclass(frozen=True)
class Wishes:
    """What may be chosen of the pictures."""

    ids: np.ndarray  # the images of sheets
    foreground: bool = False
    score: str = "own"
    order: str = "auto"
    wordnet: Path | None = None
    synsets: Path | None = None
    diagnosis: Path | None = None
    seed: int = 0


def parse_kinds(text: str | None) -> list[str] | None:
    """Kinds with commas between; None: all that there are.

    Raises:
        ValueError: an unknown one, or none.
    """
    if text is None:
        return None
    kinds = [word.strip() for word in text.split(",") if word.strip()]
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise ValueError(f"--pictures {text}: expected some of {', '.join(KINDS)}")
    return list(dict.fromkeys(kinds))


def draw_all(
    scene: "Scene", wishes: Wishes, captions: Captions, kinds: Sequence[str] | None
) -> tuple[list[Plate], list[str]]:
    """The pictures, and why those that were not asked for by name are not among them.

    Raises:
        ValueError, ImportError: a picture that was asked for by name cannot be: says why.
    """
    seen = scene.see(wishes.ids)
    painters: dict[str, Callable[[], list[Plate]]] = {
        "neighbours": lambda: of_images.neighbours(scene, seen, captions),
        "centroids": lambda: of_classes.centroids(
            scene, captions, wishes.order, wishes.wordnet, wishes.synsets
        ),
        "components": lambda: of_images.components(scene, seen, captions, wishes.foreground),
        "attention": lambda: of_images.attention(scene, seen, captions),
        "cam": lambda: of_images.cam(scene, seen, captions, wishes.score),
        "joint": lambda: of_units.joint(scene, captions, wishes.diagnosis),
        "exemplars": lambda: of_units.exemplars(scene, captions, wishes.diagnosis),
        "map": lambda: of_classes.plane(scene, captions, wishes.seed),
    }
    plates, left_out = [], []
    for number, (kind, paint) in enumerate(painters.items()):
        scene.reading.tell(kind, number, len(painters))
        if kinds is None and (reason := lacking(scene, kind)):
            left_out.append(reason if reason.startswith(kind) else f"{kind}: {reason}")
        elif kinds is None or kind in kinds:
            plates += paint()
    return plates, left_out


def lacking(scene: "Scene", kind: str) -> str:
    """What backbone, images or installation lack for a picture; empty: nothing."""
    from viewmill.engine.evaluation.pictures import cam, plane

    try:
        if kind in ("components", "cam"):
            stages = scene.hypercolumns.stages
        if kind == "cam" and not cam.is_installed():
            return cam.NEEDS
        if kind == "map" and not plane.is_installed():
            return plane.NEEDS
        if kind == "cam":
            cam.check_maps(scene.backbone, stages, scene.see([0]).inputs)
        if kind == "attention":
            from viewmill.engine.backbones import attention_layers

            attention_layers(scene.backbone)
        if kind in ("joint", "exemplars"):
            from viewmill.engine.evaluation.pictures.joint import subject_in

            subject_in(scene)
    except ValueError as error:
        return str(error)
    if kind == "centroids" and len(scene.labels[scene.labels >= 0].unique()) < 2:
        return "fewer than two classes have images"
    if kind == "map" and scene.dataset.num_samples < plane.LEAST:
        return f"fewer than {plane.LEAST} images"
    if kind == "neighbours" and scene.bank is None and scene.dataset.num_samples < 2:
        return "there is one image"
    return ""
