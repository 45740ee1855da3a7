"""Pictures of single images: neighbours, principal components of places, attention, heat of a score."""

from typing import TYPE_CHECKING

import numpy as np
from viewmill.tools.pictures.captions import Captions
from viewmill.tools.pictures.plate import Plate
from viewmill.tools.pictures.sheet import Cell, Sheet, draw_sheet, enlarged, heated

if TYPE_CHECKING:
    from torch import Tensor
    from viewmill.engine.evaluation.pictures.scene import Scene, Seen

NEIGHBOURS = 8
PLACES = 56  # of the coloured places along a side, at most: a place is 4 pixels of 224
MOST_HEADS = 6


def neighbours(scene: "Scene", seen: "Seen", captions: Captions) -> list[Plate]:
    """A row an image: itself, and the images that are most alike, the most alike first."""
    from viewmill.engine.evaluation.pictures.neighbours import nearest_images

    bank = scene.bank or scene.dataset
    count = min(NEIGHBOURS, bank.num_samples - (scene.bank is None))
    device = scene.reading.world.device.type
    found = nearest_images(scene.features, seen.ids.tolist(), count, scene.bank_features, device)
    others = scene.see(found.rows.flatten().numpy(), bank).pixels.reshape(
        *found.rows.shape, *seen.pixels.shape[1:]
    )
    labels, theirs = scene.dataset.labels(seen.ids), bank.labels(found.rows.flatten().numpy())
    theirs = theirs.reshape(found.rows.shape)
    rows = []
    for row, pixels in enumerate(seen.pixels):
        cells = [Cell(pixels, class_name(scene, labels[row]))]
        for place in range(count):
            frame = "" if labels[row] < 0 else "good" if theirs[row, place] == labels[row] else "bad"
            text = f"{found.similarity[row, place]:.3f} {class_name(scene, theirs[row, place])}"
            cells.append(Cell(others[row, place], text, frame))
        rows.append(cells)
    hits = float((theirs == labels[:, None]).mean())
    where = captions.data(bank) if scene.bank else "its other images"
    what = (
        f"Images of {captions.data(scene.dataset)} (left), and the {count} most cosine-similar of {where} "
        "(right); below each the cosine and the class. "
    )
    if (labels >= 0).any():
        what += f"Blue frame: of the same class, {100 * hits:.0f} % here; orange: of another."
    sheet = Sheet(rows, ["image", *(f"{place + 1}" for place in range(count))])
    return [plate_of("neighbours", "Nearest neighbours", captions.of(what), sheet)]


def components(scene: "Scene", seen: "Seen", captions: Captions, foreground: bool = False) -> list[Plate]:
    """A column an image: itself, and its places by three principal components; those of the foreground."""
    import torch
    from viewmill.engine.evaluation.pictures.components import principal_colours

    columns = scene.hypercolumns
    side = min(PLACES, max(max(stage.size) for stage in columns.stages))
    with torch.inference_mode():
        found = torch.cat([columns(image[None], (side, side)).float().cpu() for image in seen.inputs])
    whole = principal_colours(found, widths=columns.widths)
    cell = seen.pixels.shape[1]
    rows = [[Cell(pixels) for pixels in seen.pixels], [Cell(enlarged(rgb, cell)) for rgb in whole.rgb]]
    share = ", ".join(f"{100 * part:.0f} %" for part in whole.explained)
    stages = ", ".join(f"{stage.name} ({stage.width})" for stage in columns.stages)
    what = (
        f"{len(seen.ids)} images of {captions.data(scene.dataset)}, and the first three principal "
        f"components of their hypercolumns as red, green and blue ({share} of the variance): one projection "
        "for all of them. "
    )
    if foreground:
        front = principal_colours(found, widths=columns.widths, foreground=True)
        assert front.foreground is not None
        rows.append([Cell(enlarged(rgb, cell)) for rgb in front.rgb])
        what += (
            "Last row: the foreground alone, which the first component divides from the rest, by "
            f"components of its own ({100 * float(front.foreground.mean()):.0f} % of the places; the rest "
            "is black). "
        )
    what += (
        f"Stages and channels: {stages}, {side} x {side} places; each channel standardised, each stage of "
        "the same weight."
    )
    return [plate_of("components", "Principal components of hypercolumns", captions.of(what), Sheet(rows))]


def attention(scene: "Scene", seen: "Seen", captions: Captions) -> list[Plate]:
    """A row an image: itself, the CLS token's attention averaged over blocks and heads, and each head's."""
    import torch
    from viewmill.engine.evaluation.pictures.attention import cls_attention

    found = torch.cat([cls_attention(scene.backbone, image[None]) for image in seen.inputs])
    blocks, maps = found.shape[1], found.mean(dim=1).numpy()
    heads = min(maps.shape[1], MOST_HEADS)
    rows = []
    for pixels, per_head in zip(seen.pixels, maps, strict=True):
        drawn = [per_head.mean(axis=0), *per_head[:heads]]
        rows.append([Cell(pixels), *(Cell(heated(pixels, scaled(one))) for one in drawn)])
    first = "" if heads == maps.shape[1] else f"the first {heads} of "
    what = (
        f"Attention of the CLS token to the patches of images of {captions.data(scene.dataset)}, averaged "
        f"over {blocks} blocks: mean over the heads, and {first}{maps.shape[1]} heads. Each map runs from "
        "its own least to its largest value; attention to CLS and register tokens is left out."
    )
    headings = ["image", "mean", *(f"head {head}" for head in range(heads))]
    return [plate_of("attention", "Attention of the CLS token", captions.of(what), Sheet(rows, headings))]


def cam(scene: "Scene", seen: "Seen", captions: Captions, score: str = "own") -> list[Plate]:
    """A row an image: itself, SmoothGrad-CAM++ over all stages, and of each stage."""
    from viewmill.engine.evaluation.pictures.cam import NOISE, SAMPLES, smooth_grad_cam

    directions, told = score_of(scene, seen, score)
    maps = smooth_grad_cam(
        scene.backbone, scene.hypercolumns.stages, seen.inputs, directions, seen.ids.tolist()
    )
    # A stage of one place has no warmer one: its heat is 0, which would look like a stage that sees nothing.
    stages = {name: stage for name, stage in maps.stages.items() if stage[0].numel() > 1}
    rows = []
    for row, pixels in enumerate(seen.pixels):
        drawn = [maps.fused[row], *(stage[row] for stage in stages.values())]
        rows.append([Cell(pixels), *(Cell(heated(pixels, one.numpy())) for one in drawn)])
    left_out = " and ".join(name for name in maps.stages if name not in stages)
    what = (
        f"SmoothGrad-CAM++ on images of {captions.data(scene.dataset)}: bright places raise the score, "
        f"which is {told}. {SAMPLES} noisy copies of an image (standard deviation {NOISE} of normalised "
        'pixels); the column "all" has at each place the largest heat of any stage. Each map runs from its '
        "own least to its largest value; its size stands above it."
        + (f" Of one place, and left out: {left_out}." if left_out else "")
    )
    sizes = [" x ".join(map(str, stage.shape[1:])) for stage in stages.values()]
    headings = ["image", "all", *(f"{name}, {size}" for name, size in zip(stages, sizes, strict=True))]
    return [plate_of("cam", "SmoothGrad-CAM++", captions.of(what), Sheet(rows, headings))]


def score_of(scene: "Scene", seen: "Seen", score: str) -> tuple["Tensor", str]:
    """Along which representation each image's score grows, (n, F), and what the caption says of it.

    Raises:
        ValueError: a score of classes, and an image has no label or there is no bank to learn them from.
    """
    from viewmill.engine.evaluation.pictures.cam import class_directions, own_directions

    if score == "own":
        told = (
            "how far the representation goes away from the data set's mean direction, towards the image's own"
        )
        return own_directions(scene.features, seen.ids.tolist()), told
    labels = scene.dataset.labels(seen.ids).tolist()
    if min(labels) < 0:
        raise ValueError(
            f"{scene.dataset.shown}: an image without a label has no class to score; leave out --score class"
        )
    return class_directions(scene.probe, labels), "the linear probe's logit of the image's class"


def plate_of(name: str, title: str, caption: str, sheet: Sheet) -> Plate:
    """A sheet as a picture."""
    return Plate(
        name, title, caption, lambda theme: draw_sheet(sheet, title, caption, theme), photographs=True
    )


def scaled(heat: np.ndarray) -> np.ndarray:
    """From its least to its largest value, 0 to 1; the same everywhere: 0."""
    low, high = float(heat.min()), float(heat.max())
    return (heat - low) / (high - low) if high > low else np.zeros_like(heat)


def class_name(scene: "Scene", label: int) -> str:
    """The class, or nothing where there is none."""
    return scene.classes[label] if label >= 0 else ""
