"""Weights out of checkpoints that DeepSpeed itself wrote: pickles, loaded only where they are trusted."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from viewmill.engine.backbones import build_backbone
from viewmill.engine.config import ConfigError
from viewmill.engine.evaluation.features import evaluation_views
from viewmill.engine.export import export_backbone
from viewmill.engine.world import World
from viewmill.engine.zero import read_zero_checkpoint

OURS = ("backbone.", "method.")  # what the names of a Viewmill student begin with
SHOWN = 3  # names in a message


class UntrustedError(ConfigError):
    """Nobody has said that the files may be trusted."""


@dataclass(frozen=True)
class Imported:
    """What came out of a checkpoint."""

    tag: str  # of the checkpoint
    prefix: str  # what the backbone's names began with
    tensors: int  # of the backbone
    is_whole: bool  # all names are ours, and weights.safetensors has them


def import_deepspeed_checkpoint(
    folder: Path,
    out: Path,
    *,
    trust: bool,
    backbone: str,
    stem: str = "imagenet",
    image_size: int = 224,
    prefix: str | None = None,
    world: World,
) -> Imported:
    """Writes OUT/backbone.safetensors and OUT/config.json as a run's export/ has them, all in float32.

    Where every name in the checkpoint is one of a Viewmill student, OUT/weights.safetensors has them all, for
    `model.weights`. ZeRO 0 to 3, written by `engine.save_checkpoint` on any number of data-parallel ranks;
    DeepSpeed's own code puts the shares together. At stage 0 in half precision these are the rounded weights.

    Args:
        folder: with the file `latest`, or the folder of one checkpoint in it.
        backbone, stem, image_size: what timm builds, and the side of the images it was trained on, pixels.
        prefix: of the backbone's names; None: it is found.

    Raises:
        UntrustedError: `trust` is not given. Loading a pickle runs whatever its author has put in it.
        ConfigError: no checkpoint of this kind, no such backbone in it, or several and no prefix; OUT in use.
    """
    checkpoint = find_checkpoint(folder)
    if not trust:
        raise UntrustedError(
            f"{checkpoint}: DeepSpeed's checkpoints are pickles, and loading one runs whatever its author "
            "has put in it; pass --trust if you trust where it comes from"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is not empty; give another --out")
    try:
        wanted = build_backbone(backbone, stem=stem, image_size=image_size)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    state = {name: as_float(value) for name, value in read_state(checkpoint, world).items()}
    found = find_prefix(state, wanted, where=str(checkpoint)) if prefix is None else prefix
    check_fit(state, wanted, found, where=str(checkpoint))
    names = [found + name for name in wanted.state_dict()]
    out.mkdir(parents=True, exist_ok=True)
    views = evaluation_views(image_size)
    about: dict[str, Any] = {"backbone": backbone, "stem": stem, "image_size": image_size}
    about |= {"mean": list(views.mean), "std": list(views.std), "method": None, "step": None}
    export_backbone({name: state[name] for name in names}, about, out, prefix=found)
    is_whole = all(name.startswith(OURS) for name in state)
    if is_whole:
        aside = out / "weights.safetensors.tmp"
        save_file({name: value.contiguous() for name, value in state.items()}, str(aside), {"format": "pt"})
        aside.replace(out / "weights.safetensors")
    return Imported(checkpoint.name, found, len(names), is_whole)


def find_checkpoint(folder: Path) -> Path:
    """The folder of the checkpoint that `latest` names, or the folder itself.

    Raises:
        ConfigError: neither is one, or its model was split over ranks otherwise than by ZeRO.
    """
    latest = folder / "latest"
    checkpoint = folder / latest.read_text(encoding="utf-8").strip() if latest.is_file() else folder
    models = sorted(path.name for path in checkpoint.glob("*model_states.pt"))
    if not models:
        raise ConfigError(
            f"{checkpoint}: no checkpoint of DeepSpeed (no *model_states.pt); give the folder that "
            "engine.save_checkpoint wrote, which holds `latest`, or one below it"
        )
    others = [name for name in models if "mp_rank_00" not in name]
    if others:
        raise ConfigError(
            f"{checkpoint}: {others[0]} is of a model that was split by tensor, pipeline or expert; only "
            "data-parallel checkpoints (ZeRO 0 to 3) are read"
        )
    return checkpoint


def read_state(checkpoint: Path, world: World) -> dict[str, Tensor]:
    """Weights and buffers by the names of the module that was trained. Loads pickles."""
    if any(checkpoint.glob("*_optim_states.pt")):
        return read_zero_checkpoint(checkpoint, world)
    file = checkpoint / "mp_rank_00_model_states.pt"
    state: Any = torch.load(file, map_location="cpu", weights_only=False)
    if not isinstance(state, dict) or not isinstance(state.get("module"), dict):
        raise ConfigError(f"{file}: holds no weights under 'module'; it is no checkpoint of DeepSpeed")
    return dict(state["module"])


def as_float(value: Tensor) -> Tensor:
    """float32 where it is a number with a fraction; a copy of its own."""
    value = value.detach().clone()
    return value.float() if value.is_floating_point() else value


def find_prefix(state: dict[str, Tensor], backbone: nn.Module, where: str) -> str:
    """What the backbone's names begin with in the state.

    Raises:
        ConfigError: none fits, or several do.
    """
    first = next(iter(backbone.state_dict()))
    prefixes = sorted({name.removesuffix(first) for name in state if f".{name}".endswith(f".{first}")})
    fitting = [prefix for prefix in prefixes if not misfits(state, backbone, prefix)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        listed = ", ".join(repr(prefix) for prefix in fitting)
        raise ConfigError(f"{where}: {len(fitting)} backbones like this one; pass --prefix, one of {listed}")
    # The nearest says most of what is wrong.
    nearest = min(prefixes, key=lambda prefix: len(misfits(state, backbone, prefix)), default="")
    check_fit(state, backbone, nearest, where)
    raise AssertionError("a prefix that fits was found")


def check_fit(state: dict[str, Tensor], backbone: nn.Module, prefix: str, where: str) -> None:
    """Raises ConfigError where the state has not the backbone's names and shapes below the prefix."""
    wrong = misfits(state, backbone, prefix)
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise ConfigError(
            f"{where}: no such backbone below the prefix {prefix!r}: {'; '.join(wrong[:SHOWN])}{more}; check "
            "--backbone, --stem, --image-size and --prefix; the checkpoint begins with "
            f"{', '.join(list(state)[:SHOWN])}"
        )


def misfits(state: dict[str, Tensor], backbone: nn.Module, prefix: str) -> list[str]:
    """Which of the backbone's tensors the state lacks, or has in another shape."""
    wrong = []
    for name, tensor in backbone.state_dict().items():
        found = state.get(prefix + name)
        if found is None:
            wrong.append(f"{prefix + name} is missing")
        elif found.shape != tensor.shape:
            wrong.append(f"{prefix + name} is {tuple(found.shape)}, not {tuple(tensor.shape)}")
    return wrong


def told(imported: Imported, out: Path) -> str:
    """A line for people."""
    whole = "; all weights in weights.safetensors" if imported.is_whole else ""
    return (
        f"{out}: {imported.tensors} tensors of the backbone from {imported.tag} (prefix "
        f"{json.dumps(imported.prefix)}) in backbone.safetensors{whole}"
    )
