"""README.md of an exported folder: what it holds, and the lines that load it."""

from viewmill.engine.evaluation.backbone_source import BackboneSource
from viewmill.engine.exports.detection import CONFIG_FILE, SCRIPT_FILE, WEIGHTS_FILE, DetectionConfig
from viewmill.engine.exports.layouts import depth_of, groups_of
from viewmill.engine.exports.targets import architecture_of, has_small_stem

_SMALL_STEM = """backbone.conv1 = torch.nn.Conv2d(3, backbone.conv1.out_channels, 3, 1, 1, bias=False)
backbone.maxpool = torch.nn.Identity()
"""

_TIMM = """import timm
import torch
from safetensors.torch import load_file

backbone = timm.create_model({arguments})
{stem}backbone.load_state_dict(load_file("backbone.safetensors"))
backbone.eval()
"""
_TORCHVISION = """import torch
import torchvision
from safetensors.torch import load_file

backbone = torchvision.models.get_model("{name}")
backbone.fc = torch.nn.Identity()
{stem}backbone.load_state_dict(load_file("backbone.safetensors"))
backbone.eval()
"""
_HF = """import timm

backbone = timm.create_model("local-dir:.", pretrained=True)
backbone.eval()
"""
_HF_NOTE = """
In a repository of the Hugging Face hub the same two files are `timm.create_model("hf-hub:OWNER/NAME",
pretrained=True)`. transformers reads them too: `AutoModel.from_pretrained(FOLDER)` gives its TimmWrapper,
whose `pooler_output` is the representation.
"""
_DETECTRON2 = """from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.resnet import build_resnet_backbone
from safetensors.torch import load_file

cfg = get_cfg()
resnets = cfg.MODEL.RESNETS
resnets.DEPTH, resnets.NORM, resnets.STRIDE_IN_1X1 = {depth}, "BN", False
resnets.NUM_GROUPS, resnets.WIDTH_PER_GROUP, resnets.RES2_OUT_CHANNELS = {groups}, {width}, {channels}
resnets.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
cfg.MODEL.BACKBONE.FREEZE_AT = 0
backbone = build_resnet_backbone(cfg, ShapeSpec(channels=3))
backbone.load_state_dict(load_file("backbone.safetensors"))
"""
_DETECTION_DETECTRON2 = """
## Mask R-CNN

`{config}` is a whole configuration of Mask R-CNN with the C4 backbone on COCO 2017 (its folders are found by
detectron2's `DETECTRON2_DATASETS`); `{weights}` holds the same tensors under the detector's names
(`backbone.stem` to `backbone.res4`, `roi_heads.res5`), as a file of torch that needs no pickled code. With
detectron2's own program:

    python tools/train_net.py --num-gpus 8 --config-file {config} MODEL.WEIGHTS {weights} OUTPUT_DIR out

That the heads for boxes and masks are missing in the file is reported at the start, and right. With other
than 16 images a step, scale SOLVER.BASE_LR with them, and MAX_ITER and STEPS against them.

Pixels are RGB and scaled as in pretraining, and the stride is in the 3 x 3 convolutions: with detectron2's
defaults (BGR, no scaling, stride in the 1 x 1) the same weights compute something else. Schedule: IMSVD,
section IV (a rate of {rate:g}, the rest detectron2's 1x). Batch normalisation is {norm}; the paper does not
name it. An additional norm behind res5, as some comparisons have it, is not added.
"""
_DETECTION_TORCHVISION = """
## Mask R-CNN

`{script}` builds and trains Mask R-CNN of the C4 kind with this backbone, without Viewmill: it needs torch,
torchvision and safetensors. `mask_rcnn.json` has its settings.

```python
from mask_rcnn import build, read_settings, train

model = build(".")
```

    python mask_rcnn.py --images train2017 --annotations instances_train2017.json --out detector.safetensors

trains it on COCO, on one GPU (pip install pycocotools); `train(model, batches, read_settings("."))` takes
batches of anything else: images in 0..1, RGB, and torchvision's detection targets.

Schedule: IMSVD, section IV (a rate of {rate:g} for {batch} images a step, the rest detectron2's 1x); scale
the rate with the images of a step. Batch normalisation is {norm}; the paper does not name it. Where
torchvision differs from detectron2: regions are aligned without the half pixel, and boxes have a smooth loss
(beta 1/9) instead of the plain L1. So results of the two are near, but not the same.
"""


def guide(source: BackboneSource, target: str, detection: DetectionConfig | None) -> str:
    """The text of README.md."""
    name, size = architecture_of(source), source.image_size
    parts = [
        f"# {source.name}: {name} for {target}\n",
        f"A self-supervised backbone of Viewmill{_of_step(source)}, float32, without classifier. It was "
        f"trained on views of {size} pixels; images are RGB in 0..1, less {list(source.mean)}, over "
        f"{list(source.std)}.\n",
        f"```python\n{code(source, target)}```",
    ]
    if target == "hf":
        parts.append(_HF_NOTE)
    if target == "detectron2":
        parts.append("\nThe names are those of detectron2's ResNet: `stem`, `res2` to `res5`.\n")
    if detection is not None:
        parts.append(_detection_guide(target, detection))
    return "\n".join(parts).rstrip() + "\n"


def code(source: BackboneSource, target: str) -> str:
    """The lines that load the folder they stand in; a test runs them."""
    name, stem = architecture_of(source), _SMALL_STEM if has_small_stem(source) else ""
    if target == "timm":
        return _TIMM.format(arguments=_timm_arguments(source), stem=stem)
    if target == "torchvision":
        return _TORCHVISION.format(name=name, stem=stem)
    if target == "hf":
        return _HF
    groups, width = groups_of(name)
    channels = 64 if depth_of(name) in (18, 34) else 256
    return _DETECTRON2.format(depth=depth_of(name), groups=groups, width=width, channels=channels)


def _timm_arguments(source: BackboneSource) -> str:
    from viewmill.engine.backbones import is_vision_transformer

    grid = f", img_size={source.image_size}, dynamic_img_size=True"
    return f'"{architecture_of(source)}", num_classes=0' + (
        grid if is_vision_transformer(source.backbone) else ""
    )


def _detection_guide(target: str, detection: DetectionConfig) -> str:
    told = {"rate": detection.base_lr, "norm": detection.norm}
    if target == "detectron2":
        return _DETECTION_DETECTRON2.format(config=CONFIG_FILE, weights=WEIGHTS_FILE, **told)
    return _DETECTION_TORCHVISION.format(script=SCRIPT_FILE, batch=detection.images_per_batch, **told)


def _of_step(source: BackboneSource) -> str:
    return "" if source.step is None else f" after {source.step} steps"
