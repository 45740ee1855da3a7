"""Evaluation between two epochs of a training: what the backbone is worth by now, which was the best."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from viewmill.engine.evaluation.contenders import TRAINED, Evidence, labels_of
from viewmill.engine.evaluation.data_sets import check_data_sets
from viewmill.engine.evaluation.features import extract_all
from viewmill.engine.evaluation.tasks import KNN, LINEAR, knn_outcomes, linear_outcome, parse_tasks
from viewmill.engine.evaluation.untrained import fresh_backbone
from viewmill.engine.partition import whole_state
from viewmill.engine.passes.reading import Reading
from viewmill.pipelines.views import ViewSpec
from viewmill.shards.manifest import Dataset


@dataclass(frozen=True)
class Best:
    """The highest accuracy so far, and after how many steps it was measured; of equal ones the first."""

    step: int
    task: str
    top1: float


class InTraining:
    """k-NN and linear probe of a backbone that is being trained.

    It works on a copy of the weights, in float32 and evaluation mode, and draws no random numbers: training
    goes on as if nothing had been.

    Args:
        build: the backbone's structure; its copy stays on the device.
        tasks: as `evaluate`'s; the first one decides which is the best.
        train: the labelled bank of k-NN, and what the probe is fitted to. test: what is predicted.
        views: one view a sample.

    Raises:
        ValueError: no such task, or data sets on which an accuracy would mean nothing.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        tasks: Sequence[str],
        train: Dataset,
        test: Dataset,
        views: ViewSpec,
        reading: Reading,
    ) -> None:
        self._wanted = parse_tasks(tasks)
        rest = [name for name in tasks if not name.startswith(KNN) and name != LINEAR]
        if rest:
            raise ValueError(
                f"evaluation.tasks: {', '.join(rest)} cannot be measured between epochs; take knn@K or "
                "linear there, and the rest by viewmill evaluate"
            )
        check_data_sets(train, test, self._wanted.ks)
        self._copy = fresh_backbone(build, seed=0).requires_grad_(False)
        self._train, self._test, self._views, self._reading = train, test, views, reading

    def measure(self, backbone: nn.Module) -> dict[str, float]:
        """Top-1 by task, k-NN first, shares of 1. All ranks call it, and get the same.

        Raises:
            RankError, RuntimeError: as `extract`.
        """
        self._take(backbone)
        bank, queries = (
            extract_all([self._copy], dataset, self._views, self._reading, what)[0]
            for dataset, what in ((self._train, "bank"), (self._test, "test images"))
        )
        evidence = Evidence(
            {TRAINED: bank.features},
            {TRAINED: queries.features},
            labels_of(self._train),
            labels_of(self._test),
            len(self._test.classes),
            floors={},
        )
        world = self._reading.world
        outcomes = knn_outcomes(evidence, self._wanted.ks, world)
        outcomes += [linear_outcome(evidence, world)] if LINEAR in self._wanted.others else []
        return {outcome.task: outcome.scores[TRAINED].top1 for outcome in outcomes}

    @torch.no_grad()
    def _take(self, backbone: nn.Module) -> None:
        """Copies weights and buffers, of whatever type and ZeRO stage, one tensor at a time."""
        own = self._copy.state_dict()
        for (name, value), (theirs, given) in zip(own.items(), whole_state(backbone), strict=True):
            assert name == theirs
            value.copy_(given)


def better(best: Best | None, step: int, found: dict[str, float]) -> Best:
    """The best with what was found after this step."""
    task, top1 = next(iter(found.items()))
    return Best(step, task, top1) if best is None or top1 > best.top1 else best
