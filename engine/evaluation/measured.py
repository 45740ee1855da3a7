"""Tasks whose results are figures instead of accuracies: geometry, semantics, and the method's own."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from viewmill.engine.agreement import from_rank_zero
from viewmill.engine.checkpoints.folder import Checkpoint
from viewmill.engine.evaluation.backbone_source import BackboneSource
from viewmill.engine.evaluation.contenders import TRAINED, Evidence
from viewmill.engine.evaluation.geometry.geometry import PROTOCOL as GEOMETRY_PROTOCOL
from viewmill.engine.evaluation.geometry.geometry import Measures, geometry_of
from viewmill.engine.evaluation.semantics.mantel import PERMUTATIONS
from viewmill.engine.evaluation.semantics.semantics import PROTOCOL as SEMANTICS_PROTOCOL
from viewmill.engine.evaluation.semantics.semantics import MeaningDistances, meaning_distances, semantics_of
from viewmill.engine.evaluation.tasks import DIAGNOSIS, GEOMETRY, SEMANTICS, WORDNET, Wanted
from viewmill.engine.passes.diagnosis import diagnose, parts_of
from viewmill.engine.passes.reading import Reading
from viewmill.engine.passes.subject import subject_of
from viewmill.engine.world import World
from viewmill.shards.manifest import Dataset

SEED = 0  # of the permutations
# Parts of a diagnosis that say what became of the images, not where training would go from here.
DIAGNOSIS_PARTS = ("mean", "joint", "prior", "labels")


@dataclass(frozen=True)
class Measured:
    """One task: figures by contender and name; None: these images do not have it."""

    task: str  # as in summary.json
    protocol: str
    settings: dict[str, Any]
    images: int
    figures: dict[str, Measures]  # by contender
    untrained_is: str  # "median" or "largest" of the three seeds, or "none"
    notes: dict[str, Any] = field(default_factory=dict)

    def untrained(self, name: str) -> float | None:
        """The figure of the untrained backbone: of three seeds the middle one, or the largest."""
        found = [one[name] for contender, one in self.figures.items() if contender != TRAINED]
        known = [value for value in found if value is not None]
        if not known:
            return None
        return max(known) if self.untrained_is == "largest" else statistics.median(known)


def geometry_outcome(evidence: Evidence, world: World) -> Measured:
    """The geometry of every contender's representations of the test images; every rank does its share."""
    figures = {
        name: geometry_of(features, evidence.query_labels, evidence.num_classes, world)
        for name, features in evidence.queries.items()
    }
    return Measured(
        GEOMETRY,
        GEOMETRY_PROTOCOL,
        {"positives": "same class"},
        len(evidence.query_labels),
        figures,
        "median",
    )


class Meanings:
    """How far apart the classes' meanings are, read by rank 0 before anything is computed from images."""

    def __init__(
        self, classes: Sequence[str], wanted: Wanted, wordnet: Path | None, synsets: Path | None, world: World
    ) -> None:
        self.tasks = [task for task in (SEMANTICS, WORDNET) if task in wanted.others]
        self._found: MeaningDistances | None = None
        if self.tasks:
            from_rank_zero(world, lambda: self._read(classes, wordnet, synsets))

    def _read(self, classes: Sequence[str], wordnet: Path | None, synsets: Path | None) -> None:
        self._found = meaning_distances(
            classes, wordnet=wordnet, synsets=synsets, with_text=SEMANTICS in self.tasks
        )

    def of(self, task: str) -> MeaningDistances:
        """What this task compares with; on rank 0."""
        assert self._found is not None
        return self._found if task == SEMANTICS else replace(self._found, minilm=None)


def semantics_outcome(evidence: Evidence, task: str, meanings: Meanings, world: World) -> Measured:
    """How every contender's class distances follow the classes' meanings; rank 0 computes."""

    def compute() -> dict[str, Any]:
        return {
            contender: {
                name: None if one is None else asdict(one)
                for name, one in semantics_of(
                    features, evidence.query_labels, meanings.of(task), seed=SEED
                ).items()
            }
            for contender, features in evidence.queries.items()
        }

    found = from_rank_zero(world, compute)
    figures = {
        contender: {name: None if one is None else one["correlation"] for name, one in by_name.items()}
        for contender, by_name in found.items()
    }
    settings = {"permutations": PERMUTATIONS, "seed": SEED, "p_permuted": "one-sided", "p_pairs": "two-sided"}
    images = len(evidence.query_labels)
    return Measured(task, SEMANTICS_PROTOCOL, settings, images, figures, "largest", {"correlations": found})


def diagnosis_outcome(
    source: BackboneSource, test: Dataset, reading: Reading, image_size: int | None
) -> tuple[Measured, dict[str, Tensor]]:
    """What the method of a checkpoint has to tell of the test images, by one read of them; and its tensors.

    Raises:
        ValueError: see `check_has_method`.
    """
    check_has_method(source)
    assert source.path is not None
    subject = subject_of(Checkpoint.open(source.path, verify=False), reading.world.device, image_size)
    parts = [part for part in parts_of(subject) if part in DIAGNOSIS_PARTS]
    found, _ = diagnose(subject, test, reading=reading, parts=parts)
    figures: Measures = {
        f"{part}.{name}": value for part in parts for name, value in scalars_of(found.figures[part]).items()
    }
    settings = {"method": subject.method.name}
    notes = {"figures": found.figures}
    images = found.figures["samples"]
    outcome = Measured(DIAGNOSIS, "diagnosis-v1", settings, images, {TRAINED: figures}, "none", notes)
    return outcome, found.tensors


def check_has_method(source: BackboneSource) -> None:
    """Raises ValueError: the source is weights alone, without the method that trained them."""
    if source.path is None:
        raise ValueError(
            f"{source.name}: diagnosis needs the method that trained it, and this is a backbone alone; give "
            "a run or a checkpoint, or leave out diagnosis"
        )


def scalars_of(tree: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """The finite numbers of a tree of mappings by dotted name; lists are left to the details."""
    found: dict[str, float] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found |= scalars_of(value, f"{prefix}{name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            found[f"{prefix}{name}"] = float(value)
    return found
