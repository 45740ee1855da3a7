"""Mask R-CNN of the C4 kind on a ResNet of torchvision, with the settings of mask_rcnn.json beside it.

It needs torch, torchvision and safetensors alone, and pycocotools to read COCO: `viewmill export --to
torchvision --task detection` copies it beside the weights. The trunk is conv1 to layer3; layer4 is computed
on each region, and boxes and masks share it. Source: He et al. 2017, Mask R-CNN, figure 4, left.
"""

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
import torchvision
from safetensors.torch import load_file, save_model
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign
from torchvision.transforms import v2

SETTINGS_FILE, WEIGHTS_FILE = "mask_rcnn.json", "backbone.safetensors"
REGION = 14  # side of a region's crop of the trunk's output; layer4 halves it
NORMS: dict[str, type[nn.Module]] = {
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.BatchNorm2d,  # becomes synchronised once the model stands
    "FrozenBN": FrozenBatchNorm2d,
}


class RegionFeatures(nn.Module):
    """layer4 on the crop of each region: (n, C, 14, 14) -> (n, 2 C, 7, 7), or its mean over places."""

    def __init__(self, layer4: nn.Module, *, pooled: bool) -> None:
        super().__init__()
        self.layer4, self.pooled = layer4, pooled

    def forward(self, crops: Tensor) -> Tensor:
        features = cast(Tensor, self.layer4(crops))
        return features.mean(dim=(2, 3)) if self.pooled else features


def build(folder: Path | str, num_classes: int | None = None) -> MaskRCNN:
    """The detector with the exported backbone; its heads are drawn from torch's generator.

    Args:
        folder: with SETTINGS_FILE and WEIGHTS_FILE.
        num_classes: the background's included; None: as the settings say (91 for COCO's ids).
    """
    settings = read_settings(folder)
    norm = settings["norm"]
    resnet = torchvision.models.get_model(settings["architecture"], norm_layer=NORMS[norm])
    channels, resnet.fc = resnet.fc.in_features, nn.Identity()
    weights = load_file(Path(folder) / WEIGHTS_FILE)
    if norm == "FrozenBN":  # it counts no batches
        weights = {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}
    resnet.load_state_dict(weights)
    model = _detector(resnet, channels, num_classes or settings["num_classes"], settings)
    # In place but for the layers themselves, so that boxes and masks go on sharing layer4.
    return cast(MaskRCNN, nn.SyncBatchNorm.convert_sync_batchnorm(model)) if norm == "SyncBN" else model


def read_settings(folder: Path | str) -> dict[str, Any]:
    """What SETTINGS_FILE says."""
    settings: dict[str, Any] = json.loads((Path(folder) / SETTINGS_FILE).read_text(encoding="utf-8"))
    return settings


def _detector(resnet: Any, channels: int, num_classes: int, settings: dict[str, Any]) -> MaskRCNN:
    trunk: Any = nn.Sequential(
        resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool, resnet.layer1, resnet.layer2, resnet.layer3
    )
    trunk.out_channels = channels // 2
    anchors = AnchorGenerator(((32, 64, 128, 256, 512),), ((0.5, 1.0, 2.0),))
    return MaskRCNN(
        trunk,
        rpn_anchor_generator=anchors,
        rpn_pre_nms_top_n_train=12_000,
        rpn_pre_nms_top_n_test=6_000,
        rpn_post_nms_top_n_train=2_000,
        rpn_post_nms_top_n_test=1_000,
        box_roi_pool=MultiScaleRoIAlign(["0"], REGION, sampling_ratio=0),
        box_head=RegionFeatures(resnet.layer4, pooled=True),
        box_predictor=FastRCNNPredictor(channels, num_classes),
        mask_roi_pool=MultiScaleRoIAlign(["0"], REGION, sampling_ratio=0),
        mask_head=RegionFeatures(resnet.layer4, pooled=False),
        mask_predictor=MaskRCNNPredictor(channels, 256, num_classes),
        min_size=tuple(settings["min_sizes"]),  # a training image takes one of them, a test image the last
        max_size=settings["max_size"],
        image_mean=settings["mean"],
        image_std=settings["std"],
    )


def optimizer_of(model: nn.Module, settings: dict[str, Any]) -> torch.optim.SGD:
    """SGD; batch normalisation without weight decay, which is detectron2's default."""
    norms: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for module in model.modules():
        own = [value for value in module.parameters(recurse=False) if value.requires_grad]
        is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        (norms if is_norm else others).extend(own)
    groups = [
        {"params": others, "weight_decay": settings["weight_decay"]},
        {"params": norms, "weight_decay": 0.0},
    ]
    filled = [group for group in groups if group["params"]]
    return torch.optim.SGD(filled, lr=settings["base_lr"], momentum=settings["momentum"])


def schedule_of(optimizer: torch.optim.Optimizer, settings: dict[str, Any]) -> Any:
    """Linear warm-up from a thousandth of the rate, and a tenth of it from each of the `steps` on."""
    warmup = settings["warmup_steps"]

    def factor(step: int) -> float:
        grown = min(1.0, 0.001 + 0.999 * step / warmup)
        return float(grown * 0.1 ** sum(step >= milestone for milestone in settings["steps"]))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def train(model: MaskRCNN, batches: Iterable[Any], settings: dict[str, Any]) -> Iterator[dict[str, float]]:
    """A step a batch, at most `max_steps` of them; gives the losses of each.

    Args:
        batches: (images, targets): a list of (3, H, W) float in 0..1, RGB, and one of torchvision's detection
            targets (boxes, labels, masks), on the model's device.
    """
    model.train()
    optimizer = optimizer_of(model, settings)
    schedule = schedule_of(optimizer, settings)
    for step, (images, targets) in enumerate(batches):
        if step == settings["max_steps"]:
            return
        losses = model(list(images), list(targets))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        schedule.step()
        yield {name: float(value.detach()) for name, value in losses.items()}


def coco_batches(
    images: Path | str, annotations: Path | str, settings: dict[str, Any], device: str, workers: int = 4
) -> Iterator[tuple[list[Tensor], list[dict[str, Tensor]]]]:
    """Shuffled batches for `train`, epoch after epoch, half of the images mirrored; it needs pycocotools.

    Images without objects, crowds and boxes without area are left out.

    Raises:
        ValueError: fewer images with objects than a batch has.
    """
    change = v2.Compose([v2.ToImage(), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)])
    coco = CocoDetection(images, annotations, transforms=change)
    coco.ids = [one for one in coco.ids if coco.coco.getAnnIds(imgIds=one, iscrowd=False)]
    if len(coco.ids) < settings["images_per_batch"]:
        raise ValueError(f"{annotations}: {len(coco.ids)} images with objects, fewer than a batch")
    data = wrap_dataset_for_transforms_v2(coco, target_keys={"boxes", "labels", "masks", "iscrowd"})
    loader = DataLoader(
        data, settings["images_per_batch"], shuffle=True, drop_last=True, num_workers=workers, collate_fn=list
    )
    while True:
        for batch in loader:
            yield (
                [image.to(device) for image, _ in batch],
                [_objects(target, device) for _, target in batch],
            )


def _objects(target: dict[str, Any], device: str) -> dict[str, Tensor]:
    boxes = torch.as_tensor(target["boxes"])
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    kept = has_area & ~torch.as_tensor(target["iscrowd"], dtype=torch.bool)
    return {name: torch.as_tensor(target[name])[kept].to(device) for name in ("boxes", "labels", "masks")}


def main(words: list[str] | None = None) -> None:
    """Trains on COCO as the settings say, on one GPU where there is one, and saves the detector."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--images", required=True, help="a folder, such as train2017")
    parser.add_argument("--annotations", required=True, help="such as instances_train2017.json")
    parser.add_argument("--out", required=True, help="a safetensors file")
    parser.add_argument("--workers", type=int, default=4, help="processes that read images")
    given = parser.parse_args(words)
    here = Path(__file__).parent
    settings, device = read_settings(here), "cuda" if torch.cuda.is_available() else "cpu"
    model = build(here).to(device)
    batches = coco_batches(given.images, given.annotations, settings, device, given.workers)
    for step, losses in enumerate(train(model, batches, settings)):
        if step % 20 == 0:
            print(step, " ".join(f"{name} {value:.4f}" for name, value in losses.items()), flush=True)
    save_model(model, given.out)


if __name__ == "__main__":
    main()
