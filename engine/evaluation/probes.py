"""More tasks that learn from the features: few labels, gradient descent, support vector machines."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor
from viewmill.engine.agreement import gather_json
from viewmill.engine.evaluation.contenders import Evidence
from viewmill.engine.evaluation.geometry.row_sums import directions
from viewmill.engine.evaluation.linear_probe import LinearProbe, fit_linear_probe
from viewmill.engine.evaluation.low_shot import PROTOCOL as LOW_SHOT_PROTOCOL
from viewmill.engine.evaluation.low_shot import SEED, rows_of_share
from viewmill.engine.evaluation.measured import Measured
from viewmill.engine.evaluation.one_vs_all import COSTS, class_precision
from viewmill.engine.evaluation.one_vs_all import PROTOCOL as SVM_PROTOCOL
from viewmill.engine.evaluation.rate_grid import PROTOCOL as SGD_PROTOCOL
from viewmill.engine.evaluation.rate_grid import RATES, fit_rate_grid
from viewmill.engine.evaluation.scores import score, top_classes
from viewmill.engine.evaluation.tasks import LOW_SHOT, SGD, SVM, Outcome
from viewmill.engine.passes.reading import together
from viewmill.engine.world import World


def low_shot_outcomes(evidence: Evidence, percents: Sequence[int], world: World) -> list[Outcome]:
    """The linear probe of a share of the labels, for each share. Every rank fits the same."""
    return [_low_shot_outcome(evidence, percent, world) for percent in percents]


def _low_shot_outcome(evidence: Evidence, percent: int, world: World) -> Outcome:
    rows = rows_of_share(evidence.bank_labels, percent)

    def fit(features: Tensor) -> tuple[LinearProbe, dict[str, Any]]:
        probe, chosen = fit_linear_probe(
            features[rows], evidence.bank_labels[rows], evidence.num_classes, device=world.device
        )
        return probe, {"strength": chosen.strength, "held_out": chosen.held_out}

    found = {name: together(world, partial(fit, features)) for name, features in evidence.bank.items()}
    settings = {"percent": percent, "images": len(rows), "seed": SEED}
    return _scored(f"{LOW_SHOT}@{percent}", LOW_SHOT_PROTOCOL, settings, evidence, found)


def sgd_outcome(evidence: Evidence, world: World) -> Outcome:
    """The probe by gradient descent at the best rate of a grid. Every rank fits the same."""

    def fit(features: Tensor) -> tuple[LinearProbe, dict[str, Any]]:
        probe, chosen = fit_rate_grid(
            features, evidence.bank_labels, evidence.num_classes, device=world.device
        )
        by_rate = {f"{rate:g}": value for rate, value in chosen.accuracy.items()}
        return probe, {"rate": chosen.rate, "held_out": chosen.held_out, "held_out_top1": by_rate}

    found = {name: together(world, partial(fit, features)) for name, features in evidence.bank.items()}
    return _scored(SGD, SGD_PROTOCOL, {"rates": list(RATES)}, evidence, found)


def _scored(
    task: str,
    protocol: str,
    settings: dict[str, Any],
    evidence: Evidence,
    found: dict[str, tuple[LinearProbe, dict[str, Any]]],
) -> Outcome:
    """Scores of the probes on the test images, and what is told beside them."""
    scores = {
        name: score(
            top_classes(probe.logits(evidence.queries[name])), evidence.query_labels, evidence.num_classes
        )
        for name, (probe, _) in found.items()
    }
    return Outcome(task, protocol, settings, scores, {name: notes for name, (_, notes) in found.items()})


def svm_outcome(evidence: Evidence, world: World) -> Measured:
    """Mean average precision of one machine a class; each rank fits those of its share of the classes."""
    found = {
        name: _of_all_classes(together(world, partial(_own_machines, evidence, name, world)), world)
        for name in evidence.bank
    }
    figures: dict[str, dict[str, float | None]] = {}
    for name, classes in found.items():
        known = [one["average_precision"] for one in classes if one["average_precision"] is not None]
        figures[name] = {"mean_average_precision": float(np.mean(known))}
    settings = {"costs": list(COSTS)}
    images = len(evidence.query_labels)
    return Measured(SVM, SVM_PROTOCOL, settings, images, figures, "largest", {"per_class": found})


def _own_machines(evidence: Evidence, name: str, world: World) -> dict[str, dict[str, Any]]:
    """What this rank found, by class."""
    bank, queries = (directions(side[name]).numpy() for side in (evidence.bank, evidence.queries))
    known, asked = evidence.bank_labels.numpy(), evidence.query_labels.numpy()
    own = range(world.rank, evidence.num_classes, world.world_size)
    return {str(label): vars(class_precision(bank, known == label, queries, asked == label)) for label in own}


def _of_all_classes(own: dict[str, dict[str, Any]], world: World) -> list[dict[str, Any]]:
    """In the order of the classes, on every rank."""
    merged = {label: one for part in gather_json(world, own) for label, one in part.items()}
    return [merged[str(label)] for label in range(len(merged))]
