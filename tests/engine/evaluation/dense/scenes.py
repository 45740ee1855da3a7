"""Small scenes with masks, laid out as PASCAL VOC's; and a backbone to segment them with."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from viewmill.engine.backbones import build_backbone
from viewmill.engine.evaluation.dense.pairs import Labelled, open_labelled
from viewmill.engine.export import ABOUT_FILE, BACKBONE_FILE

CLASSES = ("ground", "red", "stripes")
IGNORED = 255


def scene(number: int, height: int = 48, width: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Picture (h, w, 3) and mask (h, w): on grey noise a red box with a border, and a striped one."""
    draws = np.random.default_rng(number)
    image = draws.integers(60, 120, (height, width, 1), dtype=np.uint8).repeat(3, axis=2)
    mask = np.zeros((height, width), np.uint8)
    top, left = int(draws.integers(2, height // 2 - 4)), int(draws.integers(2, width // 2 - 12))
    box = np.s_[top : top + 20, left : left + 16]
    mask[top - 1 : top + 21, left - 1 : left + 17] = IGNORED
    mask[box], image[box] = 1, (200, 30, 30)
    box = np.s_[height - 20 : height - 4, width // 2 + 4 : width - 4]
    mask[box] = 2
    image[box] = np.where(np.arange(16)[:, None, None] // 2 % 2, 240, 10)
    return image, mask


def save_mask(mask: np.ndarray, path: Path) -> None:
    """As VOC has them: a PNG of indices with a palette that says nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(mask, "L").convert("P")
    picture.putdata(mask.flatten().tolist())
    picture.putpalette([7 * value % 256 for value in range(768)])
    picture.save(path)


def save_scene(folder: Path, name: str, image: np.ndarray, mask: np.ndarray) -> None:
    path = folder / "JPEGImages" / f"{name}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=95)
    save_mask(mask, folder / "SegmentationClass" / f"{name}.png")


def voc_folder(folder: Path, train: int, test: int) -> Path:
    """So many scenes of each split; every fourth stands upright."""
    for split, numbers in (("train", range(train)), ("val", range(1000, 1000 + test))):
        for number in numbers:
            size = (64, 48) if number % 4 == 3 else (48, 64)
            save_scene(folder, f"s{number:04d}", *scene(number, *size))
        listed = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
        listed.parent.mkdir(parents=True, exist_ok=True)
        listed.write_text("".join(f"s{number:04d}\n" for number in numbers))
    return folder


def opened(folder: Path) -> Labelled:
    return open_labelled(folder, classes=CLASSES, ignored=IGNORED)


def export_of(
    folder: Path, backbone: str = "test_resnet", weights: dict[str, torch.Tensor] | None = None
) -> Path:
    """An export of a fresh backbone for views of 64 pixels, or of these weights."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        state = build_backbone(backbone, image_size=64).state_dict()
    folder.mkdir(parents=True)
    save_file(state if weights is None else weights, folder / BACKBONE_FILE)
    about = {"backbone": backbone, "stem": "imagenet", "image_size": 64, "mean": [0.5] * 3, "std": [0.2] * 3}
    (folder / ABOUT_FILE).write_text(json.dumps(about))
    return folder
