"""IMSVD's joint matrix and the exemplars of its units, from a diagnosis that is there or is made."""

# D = M variables x U units, K of them in the corner, k exemplars

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from viewmill.engine.checkpoints.folder import Checkpoint
from viewmill.engine.evaluation.feature_cache import Key, TensorCache
from viewmill.engine.evaluation.pictures.scene import Scene
from viewmill.engine.identity import content_hash
from viewmill.engine.method_config import ImsvdConfig
from viewmill.engine.passes.diagnosis import diagnose
from viewmill.engine.passes.subject import Subject, subject_of
from viewmill.methods.exemplars import NOBODY

EXEMPLARS = 6
TENSORS = ("corner", "pair_information", "exemplar_ids", "exemplar_scores")
KIND = "joint-v1"


@dataclass(frozen=True)
class Joint:
    """What a data set says of IMSVD's variables."""

    units: int
    corner: Tensor  # (K, K) float64: P of the first variables
    information: Tensor  # (M, M) float64, nats
    exemplar_ids: Tensor  # (k, D) int64, the best first; NOBODY where there are fewer images
    exemplar_scores: Tensor  # (k, D) float64

    @property
    def variables(self) -> int:
        return len(self.information)


class Units(nn.Module):
    """Images to the logits of all units, (n, D): the network whose Grad-CAM a unit has."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        assert isinstance(subject.represent, nn.Module)
        self.backbone, self._embed = subject.represent, subject.embed

    def forward(self, images: Tensor) -> Tensor:
        return self._embed(self.backbone(images))


def subject_in(scene: Scene) -> Subject:
    """The trained network of the scene's checkpoint.

    Raises:
        ValueError: the source has no method, or another one than IMSVD.
    """
    path = scene.source.path
    if path is None:
        raise ValueError(
            f"joint: {scene.source.name} is a backbone alone, and variables are of the method that trained "
            "it; give a run of imsvd or a checkpoint of it"
        )
    subject = subject_of(Checkpoint.open(path, verify=False), scene.reading.world.device, scene.size)
    if not isinstance(subject.method, ImsvdConfig):
        raise ValueError(
            f"joint: {scene.source.name} was trained by {subject.method.name}; only imsvd has variables"
        )
    return subject


def joint_of(scene: Scene, subject: Subject, given: Path | None = None) -> Joint:
    """The joint matrix of the scene's images: of `given`, else of the cache, else by a read of all images.

    Args:
        given: the JSON file of a diagnosis of this checkpoint and these images, its tensors beside it.

    Raises:
        ValueError: `given` is of another checkpoint or other images, or lacks the tensors.
        RuntimeError: it is damaged.
        FileNotFoundError: it is not there.
    """
    assert isinstance(subject.method, ImsvdConfig)
    units = subject.method.units
    if given is not None:
        return _joint(units, read_diagnosis(given, scene))
    keys: dict[str, Key] = {
        name: {
            "what": f"{KIND} {name}",
            "subject": subject.about,
            "data": content_hash(scene.dataset),
            "views": repr(subject.views),
            "exemplars": EXEMPLARS,
            "values": subject.values,
        }
        for name in TENSORS
    }
    cache: TensorCache = scene.cache
    if not all(cache.has(key) for key in keys.values()):
        found, _ = diagnose(
            subject, scene.dataset, reading=scene.reading, parts=["joint"], exemplars=EXEMPLARS
        )
        for name, key in keys.items():
            cache.store(key, found.tensors[f"joint.{name}"].contiguous())
    return _joint(units, {name: cache.load(key) for name, key in keys.items()})


def read_diagnosis(path: Path, scene: Scene) -> dict[str, Tensor]:
    """The tensors beside a diagnosis: of `viewmill diagnose`, or of an evaluation's task.

    Raises:
        ValueError, RuntimeError, FileNotFoundError: see `joint_of`.
    """
    beside = path.with_suffix(".safetensors")
    for file in (path, beside):
        if not file.is_file():
            raise FileNotFoundError(
                f"{file}: no diagnosis here; make one with: viewmill diagnose RUN --data DATASET"
            )
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        figures: dict[str, Any] = tree["tasks"][0]["figures"] if "tasks" in tree else tree
        source, content = figures["source"], figures["data"]["content"]
        found = load_file(beside)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError, OSError, SafetensorError) as error:
        raise RuntimeError(f"{path}: no diagnosis can be read of it and {beside.name}: {error!r}") from error
    if source != scene.source.name or content != content_hash(scene.dataset):
        raise ValueError(
            f"{path}: of {source} and a data set of hash {str(content[0])[:12]}; asked for are "
            f"{scene.source.name} and {scene.dataset.data_set_hash[:12]}; leave out --diagnosis, or give "
            "the one of these"
        )
    missing = [name for name in TENSORS if f"joint.{name}" not in found]
    if missing:
        raise ValueError(
            f"{path}: its tensors lack joint.{missing[0]}; make it again with: viewmill diagnose --joint"
        )
    return {name: found[f"joint.{name}"] for name in TENSORS}


def best_units(joint: Joint, variables: int, count: int) -> list[int]:
    """Places among the D of the units whose exemplars are the most decided: `count` of each first variable.

    The measure is the mean probability over a unit's exemplars; of equal ones the first.
    """
    scores = joint.exemplar_scores.clamp(min=0).mean(dim=0).view(joint.variables, joint.units)
    chosen = []
    for variable in range(min(variables, joint.variables)):
        best = scores[variable].sort(descending=True, stable=True).indices[:count]
        chosen += [variable * joint.units + unit for unit in sorted(best.tolist())]
    return chosen


def exemplars_of(joint: Joint, place: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and probabilities of a unit's exemplars, the best first."""
    there = joint.exemplar_ids[:, place] != NOBODY
    return joint.exemplar_ids[there, place].numpy(), joint.exemplar_scores[there, place].numpy()


def _joint(units: int, found: dict[str, Tensor]) -> Joint:
    if not all(torch.isfinite(found[name]).all() for name in ("corner", "pair_information")):
        raise RuntimeError("joint: the joint matrix is not finite; make the diagnosis again")
    return Joint(
        units, found["corner"], found["pair_information"], found["exemplar_ids"], found["exemplar_scores"]
    )
