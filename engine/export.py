"""The trained backbone under timm's names, as other programs load it."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from viewmill.engine.checkpoints import checkpoint
from viewmill.engine.config import RunConfig
from viewmill.engine.method_config import DistillConfig, MethodConfig
from viewmill.pipelines.views import ViewSpec

BACKBONE_FILE, ABOUT_FILE = "backbone.safetensors", "config.json"
PREFIX = "backbone."
TEACHER_PREFIX = "teacher."  # of the teacher's tensors in a checkpoint


def backbone_prefix(method: MethodConfig) -> str:
    """What the names of the backbone to be exported and evaluated begin with in a checkpoint."""
    return TEACHER_PREFIX + PREFIX if exports_teacher(method) else PREFIX


def exports_teacher(method: MethodConfig) -> bool:
    """Whether the backbone to be exported and evaluated is the teacher's."""
    return isinstance(method, DistillConfig) and method.export == "teacher"


def export_newest(run_dir: Path, config: RunConfig, spec: ViewSpec) -> None:
    """Exports the backbone of the newest checkpoint, whose weights are whole and float32, to RUN/export."""
    path, _ = checkpoint.newest(run_dir / "checkpoints")
    last = checkpoint.Checkpoint.open(path, verify=False)
    about = {
        "backbone": config.model.backbone,
        "stem": config.model.stem,
        "image_size": spec.sizes[0],
        "mean": list(spec.mean),
        "std": list(spec.std),
        "method": config.method.name,
        "step": last.step,
    }
    weights = {**last.read_full(), **last.buffers()}
    export_backbone(weights, about, run_dir / "export", backbone_prefix(config.method))


def export_backbone(
    weights: dict[str, Tensor], about: dict[str, Any], folder: Path, prefix: str = PREFIX
) -> None:
    """Writes backbone.safetensors and config.json; each is complete under its name or absent.

    Args:
        weights: float32 weights and buffers of a checkpoint by name.
        about: what it takes to build the backbone again and feed it.
        prefix: of the backbone's names among them.
    """
    folder.mkdir(exist_ok=True)
    backbone = {
        name.removeprefix(prefix): tensor.detach().to("cpu", copy=True).contiguous()
        for name, tensor in weights.items()
        if name.startswith(prefix)
    }
    # Float buffers in float32 too, whatever the precision trained in.
    backbone = {
        name: value.float() if value.is_floating_point() else value for name, value in backbone.items()
    }
    aside = folder / f"{BACKBONE_FILE}.tmp"
    save_file(backbone, str(aside), metadata={"format": "pt"})
    aside.replace(folder / BACKBONE_FILE)
    aside = folder / f"{ABOUT_FILE}.tmp"
    aside.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    aside.replace(folder / ABOUT_FILE)
