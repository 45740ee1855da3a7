"""Weights that a run begins with: of the backbone, or of backbone and head."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from viewmill.engine.agreement import largest, raise_everywhere
from viewmill.engine.config import ConfigError
from viewmill.engine.export import PREFIX
from viewmill.engine.model import Student
from viewmill.engine.world import World


def load_start_weights(student: Student, path: str | None, world: World) -> None:
    """Puts the tensors of a safetensors file into the student, before it is handed to DeepSpeed.

    Its names are the backbone's own (timm's), as in export/backbone.safetensors, or the student's, as in the
    weights.safetensors of an import: then all of them, the head's too. Nothing may be missing or left over.
    All ranks call it, and each reads the file.

    Raises:
        ConfigError: no such file, or it holds other weights. RankError: so it is on another rank.
    """
    if path is None:
        return
    error: ConfigError | None = None
    try:
        _load(student, Path(path))
    except ConfigError as caught:  # told to all ranks below
        error = caught
    (failed,) = largest(world, [error is not None])
    if failed:
        raise_everywhere(world, error)


def _load(student: Student, path: Path) -> None:
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"model.weights={path}: {error}; give a safetensors file") from error
    is_whole = any(name.startswith(PREFIX) for name in state)
    target = student if is_whole else student.backbone
    try:
        target.load_state_dict(state)
    except RuntimeError as error:
        what = "the student's, head included" if is_whole else "the backbone's"
        lines = " ".join(str(error).split())
        raise ConfigError(f"model.weights={path}: its tensors are not {what}: {lines}") from error
