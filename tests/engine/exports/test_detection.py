"""The detectors that an export starts: detectron2's configuration, and torchvision's model on made images."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from torch import nn
from viewmill.engine.exports import mask_rcnn
from viewmill.engine.exports.detection import DetectionConfig, check_bottlenecks
from viewmill.engine.exports.exporting import export_to

from tests.engine.exports.sources import source

CLASSES = 5
SMALL = {"min_sizes": (64,), "max_size": 96, "warmup_steps": 2, "base_lr": 0.01}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """torchvision's Mask R-CNN on a resnet18, for images of 64 pixels."""
    out = tmp_path_factory.mktemp("detection") / "out"
    export_to(source("resnet18"), "torchvision", out, detector=DetectionConfig(**SMALL))
    return out


@pytest.fixture(scope="module")
def script(exported: Path) -> ModuleType:
    """mask_rcnn.py out of the folder, as a user imports it."""
    spec = importlib.util.spec_from_file_location("exported_mask_rcnn", exported / "mask_rcnn.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def made_batch() -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """A bright square on a dark image, with its box and mask, twice."""
    images, targets = [], []
    for left, label in ((8, 1), (30, 2)):
        mask = torch.zeros(1, 64, 72, dtype=torch.uint8)
        mask[0, 12:44, left : left + 30] = 1
        images.append(0.1 + 0.8 * mask.float().expand(3, -1, -1))
        box = torch.tensor([[left, 12.0, left + 30.0, 44.0]])
        targets.append({"boxes": box, "labels": torch.tensor([label]), "masks": mask})
    return images, targets


def few_regions(model: Any) -> Any:
    """The detector with a hundredth of the regions: layer4 on 2,000 of them takes minutes."""
    for counts in (model.rpn._pre_nms_top_n, model.rpn._post_nms_top_n):
        counts |= {"training": 16, "testing": 16}
    model.roi_heads.fg_bg_sampler.batch_size_per_image = 8
    return model


def test_the_script_runs_forward_and_trains_a_step(exported: Path, script: ModuleType) -> None:
    torch.manual_seed(0)
    model = few_regions(script.build(exported, CLASSES))
    images, targets = made_batch()
    model.eval()
    with torch.inference_mode():
        found = model(images)
    assert [set(one) for one in found] == [{"boxes", "labels", "scores", "masks"}] * 2
    before = {name: value.clone() for name, value in model.state_dict().items()}
    (losses,) = script.train(model, [(images, targets)], script.read_settings(exported))
    assert set(losses) == {
        "loss_classifier",
        "loss_box_reg",
        "loss_mask",
        "loss_objectness",
        "loss_rpn_box_reg",
    }
    assert all(torch.isfinite(torch.tensor(value)) for value in losses.values())
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {
        "backbone.0.weight",
        "roi_heads.box_head.layer4.1.conv2.weight",
    } <= moved  # stem to the last stage


def made_coco(folder: Path, count: int) -> Path:
    """Annotations of images with a square each, a crowd, and an image without objects; the images beside."""
    images, objects = [], []
    for number in range(count + 1):
        name = f"{number}.png"
        Image.new("RGB", (72, 64), (40 * number, 90, 30)).save(folder / name)
        images.append({"id": number, "file_name": name, "width": 72, "height": 64})
        left = 6 + number
        square = [left, 10, left, 40, left + 30, 40, left + 30, 10]
        told = {"image_id": number, "category_id": 3, "area": 900, "bbox": [left, 10, 30, 30], "iscrowd": 0}
        if number < count:
            objects.append({**told, "id": number, "segmentation": [square]})
    crowd = {"size": [64, 72], "counts": [0, 64, 64 * 71]}
    objects.append({**objects[0], "id": 99, "iscrowd": 1, "segmentation": crowd, "bbox": [0, 0, 1, 64]})
    tree = {"images": images, "annotations": objects, "categories": [{"id": 3, "name": "square"}]}
    (folder / "instances.json").write_text(json.dumps(tree))
    return folder / "instances.json"


def test_coco_becomes_batches_without_crowds_and_empty_images(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools", reason="reads COCO's files; part of the extra [dev]")
    annotations = made_coco(tmp_path, 3)
    batches = mask_rcnn.coco_batches(tmp_path, annotations, {"images_per_batch": 3}, "cpu", workers=0)
    images, targets = next(batches)
    assert [image.shape for image in images] == [(3, 64, 72)] * 3
    assert all(0 <= float(image.min()) <= float(image.max()) <= 1 for image in images)
    for target in targets:
        assert target["labels"].tolist() == [3]
        assert (target["boxes"][:, 2:] - target["boxes"][:, :2]).tolist() == [[30, 30]]
        assert int(target["masks"].sum()) == pytest.approx(900, abs=70)  # a polygon's edge pixels
    with pytest.raises(ValueError, match="3 images with objects, fewer than a batch"):
        next(mask_rcnn.coco_batches(tmp_path, annotations, {"images_per_batch": 4}, "cpu", workers=0))


def test_the_detector_computes_the_backbones_features(exported: Path, script: ModuleType) -> None:
    """The trunk and layer4 of the detector, one after the other, are the exported network."""
    given = source("resnet18").backbone
    model = script.build(exported, CLASSES).eval()
    images = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64).cos()
    with torch.inference_mode():
        found = model.roi_heads.box_head(model.backbone(images))
        torch.testing.assert_close(found, given(images), rtol=0, atol=1e-4)


def test_boxes_and_masks_share_the_last_stage_whatever_the_norm(exported: Path, tmp_path: Path) -> None:
    for norm, kind in (("SyncBN", nn.SyncBatchNorm), ("FrozenBN", mask_rcnn.FrozenBatchNorm2d)):
        text = (exported / "mask_rcnn.json").read_text().replace('"norm": "SyncBN"', f'"norm": "{norm}"')
        (tmp_path / "mask_rcnn.json").write_text(text)
        (tmp_path / "backbone.safetensors").write_bytes((exported / "backbone.safetensors").read_bytes())
        heads: Any = mask_rcnn.build(tmp_path, CLASSES).roi_heads
        assert heads.box_head.layer4 is heads.mask_head.layer4
        assert isinstance(heads.box_head.layer4[0].bn1, kind)


def test_norms_have_no_weight_decay_and_the_rate_follows_the_schedule() -> None:
    settings = DetectionConfig().model_dump()
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = mask_rcnn.optimizer_of(model, settings)
    assert [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups] == [
        (2, 1e-4),
        (2, 0.0),
    ]
    factor = mask_rcnn.schedule_of(optimizer, settings).lr_lambdas[0]
    steps = (0, 500, 1_000, 59_999, 60_000, 80_000)
    assert [factor(step) for step in steps] == pytest.approx([0.001, 0.5005, 1, 1, 0.1, 0.01])


def test_detectron2s_configuration_is_the_papers(tmp_path: Path) -> None:
    export_to(source("resnet50"), "detectron2", tmp_path / "out", detector=DetectionConfig())
    config = yaml.safe_load((tmp_path / "out" / "mask_rcnn_c4.yaml").read_text())
    model, solver = config["MODEL"], config["SOLVER"]
    assert (config["INPUT"]["FORMAT"], model["RESNETS"]["STRIDE_IN_1X1"]) == ("RGB", False)
    assert model["PIXEL_MEAN"] == [123.675, 116.28, 103.53]
    assert model["PIXEL_STD"] == [58.395, 57.12, 57.375]
    assert (model["RESNETS"]["DEPTH"], model["RESNETS"]["NORM"], model["BACKBONE"]["FREEZE_AT"]) == (
        50,
        "SyncBN",
        0,
    )
    assert (solver["BASE_LR"], solver["MAX_ITER"], solver["STEPS"]) == (0.1, 90_000, [60_000, 80_000])
    assert solver["IMS_PER_BATCH"] == 16
    # Tensors alone: loading runs no code.
    weights = torch.load(tmp_path / "out" / model["WEIGHTS"], weights_only=True)["model"]
    assert weights["backbone.res4.5.conv3.weight"].shape == (1024, 256, 1, 1)
    assert weights["roi_heads.res5.0.shortcut.norm.running_var"].shape == (2048,)
    assert not any(name.startswith("backbone.res5") for name in weights)


def test_frozen_norms_are_not_estimated_again(tmp_path: Path) -> None:
    export_to(source("resnet50"), "detectron2", tmp_path / "out", detector=DetectionConfig(norm="FrozenBN"))
    config = yaml.safe_load((tmp_path / "out" / "mask_rcnn_c4.yaml").read_text())
    assert config["MODEL"]["BACKBONE"]["FREEZE_AT"] == 2
    assert config["TEST"]["PRECISE_BN"]["ENABLED"] is False


@pytest.mark.parametrize(
    ("target", "name", "stem", "words"),
    [
        ("detectron2", "resnet18", "imagenet", "three bottleneck blocks.*--to torchvision"),
        ("torchvision", "resnet18", "small", "train with model.stem=imagenet"),
        ("timm", "resnet18", "imagenet", "--task detection is for detectron2 and torchvision; got --to timm"),
    ],
)
def test_a_detector_that_cannot_stand_is_refused(
    target: str, name: str, stem: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        export_to(source(name, stem=stem), target, tmp_path / "out", detector=DetectionConfig())
    assert list(tmp_path.iterdir()) == []


def test_the_deeper_bottleneck_networks_have_such_a_stage() -> None:
    for name in ("resnet101", "resnet152", "wide_resnet50_2", "resnext101_32x8d"):
        check_bottlenecks(name)
