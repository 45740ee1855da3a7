"""A drill: `viewmill segment` on VOC's own masks, under pictures whose colours tell the class.

    VIEWMILL_VOC_MASKS=masks.tar make soak PART=voc_masks

The tar holds masks as VOC ships them, palette PNGs of any sizes with borders of 255. No photographs are
needed: a picture is painted from its mask, JPEG as VOC's are.
"""

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from viewmill.engine.evaluation.dense import pixel_probe
from viewmill.tools.cli import app
from viewmill.tools.console import run_app
from viewmill.tools.mask_sheet import palette

from tests.engine.evaluation.dense.scenes import IGNORED, export_of

MASKS = os.environ.get("VIEWMILL_VOC_MASKS", "")
pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not Path(MASKS).is_file(), reason="VIEWMILL_VOC_MASKS names no tar of VOC's masks"),
]
NOISE = 12  # standard deviation of a painted pixel, of 255
EPOCHS = 60  # of two or three steps with so few pictures; VOC's own 1,464 are 46 steps of each of 20
LEAST = 0.8


def painted(mask: np.ndarray, seed: int, tells: bool) -> Image.Image:
    """A picture of the mask's size: the colour of each pixel's class under noise, or noise alone."""
    draws = np.random.default_rng(seed)
    colors = palette(256)[mask] if tells else np.full((*mask.shape, 3), 128)
    # Without its white line a border would be a class of its own: it has the colour of what lies behind.
    colors[mask == IGNORED] = colors[mask == 0][0] if (mask == 0).any() else 0
    return Image.fromarray(np.clip(colors + draws.normal(0, NOISE, colors.shape), 0, 255).astype(np.uint8))


def voc_of(masks: Path, folder: Path, *, tells: bool) -> tuple[Path, dict[str, list[str]]]:
    """VOC2012 of these masks, their bytes untouched; every third is tested. Also the names by split."""
    names: dict[str, list[str]] = {"train": [], "val": []}
    for place in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / place).mkdir(parents=True)
    with tarfile.open(masks) as tar:
        members = sorted((one for one in tar.getmembers() if one.isfile()), key=lambda one: one.name)
        for number, member in enumerate(members):
            data, name = tar.extractfile(member).read(), Path(member.name).stem  # type: ignore[union-attr]
            (folder / "SegmentationClass" / f"{name}.png").write_bytes(data)
            with Image.open(io.BytesIO(data)) as mask:
                assert mask.mode == "P"
                picture = painted(np.array(mask), number, tells)
            picture.save(folder / "JPEGImages" / f"{name}.jpg", quality=95)
            names["val" if number % 3 == 2 else "train"].append(name)
    for split, listed in names.items():
        (folder / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(listed) + "\n")
    return folder, names


def segmented(voc: Path, folder: Path) -> dict[str, float]:
    """What the command tells of a backbone that nothing was taught: shares by measure."""
    export = export_of(folder / "export")
    words = ["segment", str(export), "--data", str(voc), "--image-size", "96", "--device", "cpu"]
    assert run_app(app, [*words, "--out", str(folder)]) == 0
    [entry] = json.loads((folder / "evaluation" / "summary.json").read_text())
    return {name: found["trained"] for name, found in entry["measures"].items()}


def test_classes_are_found_by_their_colours_and_not_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixel_probe, "EPOCHS", EPOCHS)
    found = {}
    for tells in (True, False):
        voc, names = voc_of(Path(MASKS), tmp_path / f"VOC2012-{tells}", tells=tells)
        assert min(map(len, names.values())) >= 10
        found[tells] = segmented(voc, tmp_path / f"out-{tells}")
    assert found[True]["mean_iou"] > LEAST, found
    assert found[False]["mean_iou"] < LEAST / 4, found
    assert found[True]["pixel_accuracy"] > found[False]["pixel_accuracy"]
