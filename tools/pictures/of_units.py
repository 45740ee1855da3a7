"""Pictures of IMSVD's variables: their joint matrix, the images that stand for a unit, and where it looks."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from viewmill.tools.pictures.captions import Captions
from viewmill.tools.pictures.of_images import plate_of
from viewmill.tools.pictures.plate import Plate
from viewmill.tools.pictures.plots import Canvas, draw_joint
from viewmill.tools.pictures.sheet import Cell, Sheet, heated

if TYPE_CHECKING:
    from viewmill.engine.evaluation.pictures.joint import Units
    from viewmill.engine.evaluation.pictures.scene import Scene, Seen

BLOCKS = 5  # variables along a side of the joint matrix: as many as the paper's figure 3 has
VARIABLES, UNITS = 2, 4  # of the exemplars: as many as the paper's figure 4 has


def joint(scene: "Scene", captions: Captions, diagnosis: Path | None = None) -> list[Plate]:
    """The blocks of the joint matrix; IMSVD, figure 3 (a)."""
    from viewmill.engine.evaluation.pictures.joint import joint_of, subject_in

    found = joint_of(scene, subject_in(scene), diagnosis)
    units, information = found.units, found.information.numpy()
    corner = found.corner[: BLOCKS * units, : BLOCKS * units].numpy()
    pairs = information[~np.eye(len(information), dtype=bool)]
    what = (
        f"Joint probabilities of the first {len(corner) // units} of {found.variables} variables ({units} "
        f"units each) over {scene.dataset.num_samples:,} images of {captions.data(scene.dataset)}, times "
        f"{units}²: 1 where two units meet as often as independent, evenly used ones. At IMSVD's optimum "
        f"blocks off the diagonal are 1 everywhere, blocks on it are {units} on their diagonal and 0 "
        f"elsewhere. Right: mutual information of every pair of variables, mean {pairs.mean():.4f} nats of "
        f"at most {np.log(units):.2f}."
    )
    caption, title = captions.of(what), "Joint matrix of the variables"
    return [
        Plate(
            "joint",
            title,
            caption,
            lambda theme: Canvas(theme, title, caption, 4.3).draw(
                lambda figure: draw_joint(figure, corner, units, information)
            ),
            photographs=False,
        )
    ]


def exemplars(scene: "Scene", captions: Captions, diagnosis: Path | None = None) -> list[Plate]:
    """A sheet a variable: rows of a unit's exemplars, and below each its Grad-CAM; IMSVD, figures 4 and 5.

    There is no Grad-CAM of a backbone without maps, nor without torchcam; the caption says so.
    """
    from viewmill.engine.evaluation.pictures.joint import (
        Units,
        best_units,
        exemplars_of,
        joint_of,
        subject_in,
    )

    subject = subject_in(scene)
    found = joint_of(scene, subject, diagnosis)
    network, stages = Units(subject).eval(), scene.hypercolumns.stages
    # The last that has several places: on a map of one, of small views, no place is warmer than another.
    stage = next((one for one in reversed(stages) if max(one.size) > 1), stages[-1])
    no_heat, places = lacks_heat(scene), " x ".join(map(str, stage.size))
    rows: dict[int, list[list[Cell]]] = {}
    for place in best_units(found, VARIABLES, UNITS):
        variable, unit = divmod(place, found.units)
        ids, scores = exemplars_of(found, place)
        seen = scene.see(ids)
        names = [scene.classes[label] if label >= 0 else "" for label in scene.dataset.labels(ids)]
        cells = [
            Cell(pixels, f"unit {unit}: {score:.3f} {name}".strip())
            for pixels, score, name in zip(seen.pixels, scores, names, strict=True)
        ]
        rows.setdefault(variable, []).append(cells)
        if not no_heat:
            rows[variable].append(heat_of(network, stage.name, seen, place))
    units = len(best_units(found, 1, UNITS))
    plates = []
    for variable, cells_of_variable in rows.items():
        what = (
            f"Images of {captions.data(scene.dataset)} with the highest probability of a unit of variable "
            f"{variable}: of its {found.units} units the {units} whose images are most decided. Below each "
            "image its unit, probability and class, and "
            + (
                no_heat
                or f"Grad-CAM of the unit's logit in {stage.name} ({places} places), each from its least to "
                "its largest value."
            )
        )
        title = f"Exemplars of variable {variable}"
        sheet = Sheet(cells_of_variable)
        plates.append(plate_of(f"exemplars-{variable}", title, captions.of(what), sheet))
    return plates


def lacks_heat(scene: "Scene") -> str:
    """Why there is no Grad-CAM; empty: there is."""
    from viewmill.engine.evaluation.pictures.cam import check_maps, is_installed

    if not is_installed():
        return "no Grad-CAM, for torchcam is not installed."
    try:
        check_maps(scene.backbone, scene.hypercolumns.stages, scene.see([0]).inputs)
    except ValueError:
        return "no Grad-CAM, for the backbone has no maps."
    return ""


def heat_of(network: "Units", stage: str, seen: "Seen", place: int) -> list[Cell]:
    """Grad-CAM of a unit on its images."""
    from viewmill.engine.evaluation.pictures.cam import grad_cam

    maps = grad_cam(network, f"backbone.{stage}", seen.inputs, [place] * len(seen.ids)).numpy()
    return [Cell(heated(pixels, heat)) for pixels, heat in zip(seen.pixels, maps, strict=True)]
