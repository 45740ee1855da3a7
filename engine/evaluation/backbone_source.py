"""Where a backbone to evaluate comes from: a run, a checkpoint, an export, or pretrained weights."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import huggingface_hub
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from viewmill.engine.agreement import from_rank_zero
from viewmill.engine.backbones import build_backbone
from viewmill.engine.checkpoints.errors import CheckpointError
from viewmill.engine.checkpoints.folder import MANIFEST_FILE, Checkpoint, newest
from viewmill.engine.checks import resolve_views
from viewmill.engine.config import ConfigError, config_from
from viewmill.engine.export import ABOUT_FILE, BACKBONE_FILE, PREFIX, backbone_prefix
from viewmill.engine.method_config import SupervisedConfig
from viewmill.engine.world import World

TIMM, TORCHVISION = "timm:", "torchvision:"
WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True)
class Classifier:
    """The linear classifier that a supervised run trained on its backbone: logits = weight f + bias."""

    weight: Tensor  # (K, F) float32
    bias: Tensor  # (K,) float32
    data_set_hash: str  # of what it was trained on, whose classes it knows

    def logits(self, features: Tensor) -> Tensor:
        """(n, F) -> (n, K)."""
        return features @ self.weight.T + self.bias


@dataclass(frozen=True)
class BackboneSource:
    """A trained backbone, how to build an untrained one like it, and how to feed both."""

    name: str  # for people; no path of a machine
    backbone: nn.Module
    build: Callable[[], nn.Module]  # the same structure, freshly drawn from torch's generator
    about: dict[str, Any]  # what `build` builds
    image_size: int  # pixels
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    step: int | None  # of the checkpoint
    folder: Path | None  # of the run
    path: Path | None  # of the checkpoint
    passed_over: list[str] = field(default_factory=list)  # newer checkpoints that do not verify, and why
    classifier: Classifier | None = None  # of a supervised run


def load_source(source: Path | str, world: World) -> BackboneSource:
    """The backbone of a run's newest checkpoint that verifies, of one checkpoint, an export, or a name.

    Names are timm:NAME, and torchvision:NAME as `load_torchvision` takes them. Every rank calls it.

    Raises:
        FileNotFoundError: there is no run or checkpoint at this path, or no cached weights of this name.
        CheckpointError: it does not verify, or holds other weights than its settings describe.
        ValueError: no such kind of source, or no such backbone.
    """
    text = str(source)
    if text.startswith(TIMM):
        return load_timm(text.removeprefix(TIMM))
    if text.startswith(TORCHVISION):
        from viewmill.engine.evaluation.torchvision_source import load_torchvision

        return load_torchvision(text.removeprefix(TORCHVISION))
    if ":" in text and not Path(source).exists():
        raise ValueError(
            f"{text}: no such kind of source; give a run, a checkpoint, an export, timm:NAME or "
            "torchvision:NAME"
        )
    if from_rank_zero(world, (Path(source) / BACKBONE_FILE).is_file):
        return load_export(Path(source))
    path, passed_over = from_rank_zero(world, lambda: find_checkpoint(Path(source)))
    return load_checkpoint(Path(path), passed_over)


def find_checkpoint(path: Path) -> tuple[str, list[str]]:
    """The verified checkpoint at or below a path, and why newer ones were passed over.

    Raises:
        FileNotFoundError, CheckpointError: as `load_source`.
    """
    if (path / MANIFEST_FILE).is_file():
        return str(Checkpoint.open(path).path), []
    if not (path / "checkpoints").is_dir():
        raise FileNotFoundError(
            f"{path}: neither a run (no checkpoints/ in it) nor a checkpoint (no {MANIFEST_FILE}) nor an "
            f"export (no {BACKBONE_FILE}); give the folder that viewmill train wrote, or a checkpoint in it"
        )
    found, reasons = newest(path / "checkpoints")
    return str(found), [reason.removeprefix(f"{path / 'checkpoints'}/") for reason in reasons]


def load_checkpoint(path: Path, passed_over: list[str]) -> BackboneSource:
    """The backbone of a checkpoint that was just verified.

    Raises:
        CheckpointError: weights and settings do not agree.
    """
    checkpoint = Checkpoint.open(path, verify=False)
    try:
        config = config_from(checkpoint.state["config"], where=f"{path}")
        views = resolve_views(config)
        size = views.sizes[0]
        build = partial(build_backbone, config.model.backbone, stem=config.model.stem, image_size=size)
        backbone = build()
        backbone.load_state_dict(backbone_state(checkpoint, backbone_prefix(config.method)))
        classifier = classifier_of(checkpoint) if isinstance(config.method, SupervisedConfig) else None
    except (KeyError, ConfigError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: no backbone can be built of it: {error}; use the Viewmill that wrote it"
        ) from error
    in_run = path.parent.name == "checkpoints"
    return BackboneSource(
        name=path.name,
        backbone=backbone,
        build=build,
        about={"backbone": config.model.backbone, "stem": config.model.stem, "image_size": size},
        image_size=size,
        mean=views.mean,
        std=views.std,
        step=checkpoint.step,
        folder=path.parents[1] if in_run else None,
        path=path,
        passed_over=passed_over,
        classifier=classifier,
    )


def load_export(folder: Path) -> BackboneSource:
    """The backbone of a folder with BACKBONE_FILE and ABOUT_FILE, as `export_backbone` writes them.

    Raises:
        ValueError: one of the two is damaged, or they do not fit each other.
    """
    try:
        about = json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8"))
        kept = {key: about[key] for key in ("backbone", "stem", "image_size")}
        build = partial(build_backbone, kept["backbone"], stem=kept["stem"], image_size=kept["image_size"])
        backbone = build()
        backbone.load_state_dict(load_file(folder / BACKBONE_FILE))
        mean, std = tuple(about["mean"]), tuple(about["std"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder}: no backbone can be built of this export: {error!r}") from error
    return BackboneSource(
        name=folder.name,
        backbone=backbone,
        build=build,
        about=kept,
        image_size=kept["image_size"],
        mean=cast(tuple[float, float, float], mean),
        std=cast(tuple[float, float, float], std),
        step=about.get("step"),
        folder=None,
        path=None,
    )


def backbone_state(checkpoint: Checkpoint, prefix: str = PREFIX) -> dict[str, Tensor]:
    """Weights and buffers of the backbone under timm's names, float32."""
    whole = {**checkpoint.read_full(), **checkpoint.buffers()}
    return {name.removeprefix(prefix): value for name, value in whole.items() if name.startswith(prefix)}


def classifier_of(checkpoint: Checkpoint) -> Classifier:
    """The classifier of a supervised run's checkpoint. Raises KeyError: it holds none."""
    weights = checkpoint.read_full()
    return Classifier(
        weights["method.classifier.weight"],
        weights["method.classifier.bias"],
        checkpoint.state["loader"]["data_set_hash"],
    )


def load_timm(name: str) -> BackboneSource:
    """timm's pretrained weights of this name, from the Hugging Face cache of this machine alone.

    Nothing is downloaded and no pickle is loaded.

    Raises:
        FileNotFoundError: the weights are not in the cache; says how to put them there.
        ValueError: no such backbone, or weights that are not its own.
    """
    plain = name.partition(".")[0]
    build = partial(build_backbone, name, image_size=224)
    settings = cast(dict[str, Any], build().pretrained_cfg)
    size = settings["input_size"][-1]
    build = partial(build_backbone, name, image_size=size)
    backbone = build()
    state = load_file(cached_weights(name, settings))
    classifier = settings["classifier"]
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier or ())
    kept = {key: value for key, value in state.items() if not key.startswith(tuple(f"{x}." for x in heads))}
    try:
        backbone.load_state_dict(kept)
    except RuntimeError as error:
        raise ValueError(f"{TIMM}{name}: the cached weights are not this backbone's: {error}") from error
    return BackboneSource(
        name=f"{TIMM}{name}",
        backbone=backbone,
        build=build,
        about={"backbone": plain, "stem": "imagenet", "image_size": size},
        image_size=size,
        mean=settings["mean"],
        std=settings["std"],
        step=None,
        folder=None,
        path=None,
    )


def cached_weights(name: str, settings: dict[str, Any]) -> Path:
    """The safetensors file of a timm model in the local cache.

    Raises:
        FileNotFoundError: it is not there, or timm has no weights of this name.
    """
    repository = settings.get("hf_hub_id")
    if not repository:
        raise FileNotFoundError(f"{TIMM}{name}: timm has no pretrained weights of this name; evaluate a run")
    found = huggingface_hub.try_to_load_from_cache(repository, WEIGHTS_FILE)
    if not isinstance(found, str):
        raise FileNotFoundError(
            f"{TIMM}{name}: its weights are not on this machine, and an evaluation downloads nothing; run: "
            f"huggingface-cli download {repository} {WEIGHTS_FILE}"
        )
    return Path(found)
