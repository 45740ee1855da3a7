"""The tasks of an evaluation: features in, a score for each contender out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor
from viewmill.engine.evaluation.backbone_source import Classifier
from viewmill.engine.evaluation.contenders import TRAINED, Evidence
from viewmill.engine.evaluation.crops.protocol import PROTOCOLS
from viewmill.engine.evaluation.features import gather_rows
from viewmill.engine.evaluation.knn import Neighbours, nearest, vote
from viewmill.engine.evaluation.linear_probe import HELD_OUT_EVERY, STRENGTHS, Selection, fit_linear_probe
from viewmill.engine.evaluation.scores import Score, score, top_classes
from viewmill.engine.passes.reading import together
from viewmill.engine.world import World
from viewmill.pipelines.passes import ids_of_rank

KNN, LINEAR = "knn", "linear"
GEOMETRY, SEMANTICS, WORDNET, DIAGNOSIS = "geometry", "semantics", "wordnet", "diagnosis"
LOW_SHOT, SGD, SVM = "lowshot", "sgd", "svm"
CROPS = "crops"
OTHERS = (LINEAR, SGD, SVM, GEOMETRY, SEMANTICS, WORDNET, DIAGNOSIS)
NUMBERED = {KNN: (20, 200), LOW_SHOT: (1, 10)}  # numbers of a task that is given none
TEMPERATURE = 0.07
KNN_PROTOCOL = f"knn-v1/cosine/weighted-{TEMPERATURE}"
LINEAR_PROTOCOL = f"linear-v1/standardised/logistic-l2/lbfgs/every-{HELD_OUT_EVERY}th-of-train-held-out"


@dataclass(frozen=True)
class Outcome:
    """One task: a score for each contender, and what is to be told beside it."""

    task: str  # as in summary.json
    protocol: str
    settings: dict[str, Any]
    scores: dict[str, Score]
    notes: dict[str, dict[str, Any]]  # by contender


@dataclass(frozen=True)
class Wanted:
    """What is asked for: ks of k-NN, percents of low-shot, protocols of crops, and other tasks by name."""

    ks: list[int]
    percents: list[int]
    others: frozenset[str]
    crops: list[str] = field(default_factory=list)

    @property
    def needs_bank(self) -> bool:
        """Whether something is learnt from the train data set, so that its features are needed."""
        return bool(self.ks or self.percents or self.crops or self.others & {LINEAR, SGD, SVM})


def parse_tasks(tasks: Sequence[str]) -> Wanted:
    """The tasks of these words.

    Raises:
        ValueError: no such task, or none.
    """
    known = (
        f"expected {KNN}, {KNN}@K (such as knn@20), {LOW_SHOT}, {LOW_SHOT}@PERCENT, "
        f"{', '.join(f'{CROPS}@{name}' for name in PROTOCOLS)}, {', '.join(OTHERS[:-1])} or {OTHERS[-1]}"
    )
    numbers: dict[str, set[int]] = {KNN: set(), LOW_SHOT: set()}
    crops: set[str] = set()
    for task in tasks:
        name, _, number = task.partition("@")
        if task in NUMBERED:
            numbers[task] |= set(NUMBERED[task])
        elif name in NUMBERED and number.isascii() and number.isdigit() and int(number) > 0:
            numbers[name].add(int(number))
        elif name == CROPS and (number in PROTOCOLS or task == CROPS):
            crops.add(number or next(iter(PROTOCOLS)))  # the first is meant where none is named
        elif task not in OTHERS:
            raise ValueError(f"unknown task '{task}'; {known}")
    if not tasks:
        raise ValueError(f"no task is given; {known}")
    others = frozenset(tasks) & frozenset(OTHERS)
    return Wanted(sorted(numbers[KNN]), sorted(numbers[LOW_SHOT]), others, sorted(crops))


def knn_outcomes(evidence: Evidence, ks: Sequence[int], world: World) -> list[Outcome]:
    """k-NN for each k; the score is of weighted votes, plain majorities stand in the notes.

    Each rank searches for its share of the test images.
    """
    if not ks:
        return []
    found = {name: _neighbours(evidence, name, max(ks), world) for name in evidence.bank}
    return [_knn_outcome(evidence, found, k) for k in ks]


def linear_outcome(evidence: Evidence, world: World, classifier: Classifier | None = None) -> Outcome:
    """The linear probe. Every rank fits the same, so none waits for another.

    Beside it, in the notes of the trained backbone, `classifier`, which was trained with it on these classes.
    """
    scores: dict[str, Score] = {}
    notes: dict[str, dict[str, Any]] = {}
    for name in evidence.bank:
        ranked, selection = together(world, partial(_probe, evidence, name, world))
        scores[name] = score(ranked, evidence.query_labels, evidence.num_classes)
        notes[name] = {
            "strength": selection.strength,
            "held_out": selection.held_out,
            "held_out_top1": {f"{strength:.1e}": value for strength, value in selection.accuracy.items()},
        }
    if classifier is not None:
        ranked = top_classes(classifier.logits(evidence.queries[TRAINED]))
        own = score(ranked, evidence.query_labels, evidence.num_classes)
        notes[TRAINED]["own_classifier"] = {"top1": own.top1, "top5": own.top5}
    return Outcome(LINEAR, LINEAR_PROTOCOL, {"strengths": list(STRENGTHS)}, scores, notes)


def _neighbours(evidence: Evidence, name: str, k: int, world: World) -> Neighbours:
    """The k nearest training images of every test image, on every rank."""
    queries = evidence.queries[name]
    share = ids_of_rank(len(queries), world.rank, world.world_size)
    own = queries[share.start : share.stop]
    found = together(world, lambda: nearest(own, evidence.bank[name], k, device=world.device))
    return Neighbours(
        gather_rows(found.similarity, len(queries), world), gather_rows(found.rows, len(queries), world)
    )


def _knn_outcome(evidence: Evidence, found: dict[str, Neighbours], k: int) -> Outcome:
    scores, notes = {}, {}
    for name, neighbours in found.items():
        scores[name] = _voted(evidence, neighbours.first(k), TEMPERATURE)
        majority = _voted(evidence, neighbours.first(k), None)
        notes[name] = {"majority_top1": majority.top1, "majority_top5": majority.top5}
    settings = {"k": k, "temperature": TEMPERATURE, "similarity": "cosine"}
    return Outcome(f"{KNN}@{k}", KNN_PROTOCOL, settings, scores, notes)


def _voted(evidence: Evidence, neighbours: Neighbours, temperature: float | None) -> Score:
    ranked = vote(neighbours, evidence.bank_labels, evidence.num_classes, temperature)
    return score(ranked, evidence.query_labels, evidence.num_classes)


def _probe(evidence: Evidence, name: str, world: World) -> tuple[Tensor, Selection]:
    """The best classes of every test image, best first, and how the strength was chosen."""
    probe, selection = fit_linear_probe(
        evidence.bank[name], evidence.bank_labels, evidence.num_classes, device=world.device
    )
    return top_classes(probe.logits(evidence.queries[name])), selection
