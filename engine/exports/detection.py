"""Mask R-CNN on an exported ResNet: the configuration of detectron2's C4 detector and of torchvision's."""

import json
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from pydantic import Field
from torch import Tensor
from viewmill.engine.evaluation.backbone_source import BackboneSource
from viewmill.engine.exports import mask_rcnn
from viewmill.engine.exports.layouts import BASIC, depth_of, groups_of, to_c4, to_detectron2
from viewmill.engine.strict import StrictModel

CONFIG_FILE, WEIGHTS_FILE, SCRIPT_FILE = "mask_rcnn_c4.yaml", "weights.pth", "mask_rcnn.py"
COCO_CLASSES = 80  # as detectron2 counts
COCO_IDS = 91  # as torchvision does: COCO's own ids, and 0 is the background
PIXEL = 255.0  # detectron2 normalises pixels of 0..255


class DetectionConfig(StrictModel):
    """How the detector is trained on COCO.

    Source: IMSVD, section IV, "Object detection and instance segmentation" (Table III): Mask R-CNN with the
    C4 backbone on COCO 2017, a learning rate of 0.1, and the rest detectron2's 1x schedule. The paper does
    not say how batch normalisation is treated: `norm` is a choice, that of the comparisons which tune all
    layers.
    """

    norm: Literal["SyncBN", "BN", "FrozenBN"] = "SyncBN"
    base_lr: float = 0.1
    images_per_batch: int = 16
    max_steps: int = 90_000
    steps: tuple[int, ...] = Field(default=(60_000, 80_000), strict=False)  # where the rate falls to a tenth
    warmup_steps: int = 1_000
    momentum: float = 0.9
    weight_decay: float = 1e-4
    min_sizes: tuple[int, ...] = Field(default=(640, 672, 704, 736, 768, 800), strict=False)  # pixels
    max_size: int = 1333  # pixels


def check_bottlenecks(name: str) -> None:
    """Raises ValueError: an architecture that detectron2's C4 heads cannot continue."""
    if name in BASIC or depth_of(name) not in (50, 101, 152):
        raise ValueError(
            f"{name}: detectron2's C4 detector computes res5 with three bottleneck blocks, which this "
            "backbone does not have; take a resnet50, or --to torchvision"
        )


def detectron2_config(source: BackboneSource, config: DetectionConfig) -> dict[str, Any]:
    """The mapping of CONFIG_FILE; what it does not name is detectron2's default.

    Images are RGB and normalised as in training, and the stride is in the 3 x 3 convolutions: detectron2's
    defaults are BGR, no scaling, and the stride in the 1 x 1 before it.
    """
    name = source.about["backbone"]
    groups, width = groups_of(name)
    frozen = config.norm == "FrozenBN"
    return {
        "MODEL": {
            "META_ARCHITECTURE": "GeneralizedRCNN",
            "WEIGHTS": WEIGHTS_FILE,
            "MASK_ON": True,
            "PIXEL_MEAN": [round(PIXEL * value, 4) for value in source.mean],
            "PIXEL_STD": [round(PIXEL * value, 4) for value in source.std],
            "BACKBONE": {"NAME": "build_resnet_backbone", "FREEZE_AT": 2 if frozen else 0},
            "RESNETS": {
                "DEPTH": depth_of(name),
                "NORM": config.norm,
                "STRIDE_IN_1X1": False,
                "NUM_GROUPS": groups,
                "WIDTH_PER_GROUP": width,
                "OUT_FEATURES": ["res4"],
            },
            "RPN": {"PRE_NMS_TOPK_TEST": 6000, "POST_NMS_TOPK_TEST": 1000},
            "ROI_HEADS": {"NAME": "Res5ROIHeads", "NUM_CLASSES": COCO_CLASSES},
        },
        "INPUT": {
            "FORMAT": "RGB",
            "MIN_SIZE_TRAIN": list(config.min_sizes),
            "MAX_SIZE_TRAIN": config.max_size,
        },
        "DATASETS": {"TRAIN": ["coco_2017_train"], "TEST": ["coco_2017_val"]},
        "SOLVER": {
            "IMS_PER_BATCH": config.images_per_batch,
            "BASE_LR": config.base_lr,
            "STEPS": list(config.steps),
            "MAX_ITER": config.max_steps,
            "WARMUP_ITERS": config.warmup_steps,
            "MOMENTUM": config.momentum,
            "WEIGHT_DECAY": config.weight_decay,
        },
        # BatchNorm's running statistics lag behind weights that move this fast.
        "TEST": {"PRECISE_BN": {"ENABLED": not frozen, "NUM_ITER": 200}},
        "VERSION": 2,
    }


def write_detectron2(
    state: dict[str, Tensor], source: BackboneSource, config: DetectionConfig, folder: Path
) -> None:
    """CONFIG_FILE and WEIGHTS_FILE; detectron2 reads no safetensors, so it is torch's, of tensors."""
    named = to_c4(to_detectron2(state))
    torch.save({"model": named}, folder / WEIGHTS_FILE)
    head = f"# Mask R-CNN, C4, on {source.about['backbone']}; what is not here is detectron2's default.\n"
    text = yaml.safe_dump(detectron2_config(source, config), sort_keys=False)
    (folder / CONFIG_FILE).write_text(head + text, encoding="utf-8")


def write_torchvision(source: BackboneSource, config: DetectionConfig, folder: Path) -> None:
    """SCRIPT_FILE, which builds and trains the detector, and its settings."""
    settings = {
        "architecture": source.about["backbone"],
        "num_classes": COCO_IDS,
        "mean": list(source.mean),
        "std": list(source.std),
        **config.model_dump(),
    }
    text = json.dumps(settings, indent=2) + "\n"
    (folder / mask_rcnn.SETTINGS_FILE).write_text(text, encoding="utf-8")
    script = resources.files("viewmill.engine.exports").joinpath(SCRIPT_FILE)
    (folder / SCRIPT_FILE).write_text(script.read_text(encoding="utf-8"), encoding="utf-8")
